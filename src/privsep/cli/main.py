"""The command line of ``privsep``: what was asked for, and by which words.

Runs without privileges, as whoever calls it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pwd
import shlex
import sys
import traceback
from typing import TYPE_CHECKING, NoReturn

from privsep.cli import doas, rootwrap_filter, sudoers, systemd
from privsep.context import Context
from privsep.errors import PrivsepError

if TYPE_CHECKING:
    from collections.abc import Callable

_KINDS: dict[str, Callable[[Context, str], str]] = {
    "sudoers": sudoers.generate,
    "systemd": systemd.generate,
    "rootwrap-filter": rootwrap_filter.generate,
    "doas": doas.generate,
}


def main() -> NoReturn:
    """Do what the command line asks for; end with 0, 1 (it failed) or 2 (usage)."""
    options = _parser().parse_args()
    try:
        context = _find(options.context)
        if options.command == "generate":
            sys.stdout.write(_KINDS[options.kind](context, _user(options.user)))
            works = True
        else:
            works = _examine(context, call=options.call)
    except (ImportError, LookupError, OSError, ValueError, PrivsepError) as error:
        sys.exit(f"privsep {options.command}: {error}")
    sys.exit(0 if works else 1)


def _find(variable: str) -> Context:
    module, _, name = variable.partition(":")
    found = getattr(_import(module), name, None)
    if not isinstance(found, Context):
        msg = f"{variable} is not a privsep.Context (write MODULE:CONTEXT)"
        raise LookupError(msg)  # noqa: TRY004 - it is told as it is
    return found


def _import(module: str) -> object:
    """Import a module; of one that fails, say what it raised, and where.

    Raises:
        ImportError: it cannot be imported; the message is one line.

    """
    try:
        return importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 - modules are code
        top = module.partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and error.name == top:
            raise ImportError(f"{error}{_beside(top)}") from None
        said = f"{module}: {type(error).__name__}: {error}"
        frames = traceback.extract_tb(error.__traceback__)
        ours = (__file__, importlib.__file__)
        places = [
            f"{each.filename}:{each.lineno}"
            for each in frames
            if each.filename not in ours and not each.filename.startswith("<frozen ")
        ]
        if places and not isinstance(error, SyntaxError):  # that names its own
            said += f" ({places[-1]})"
        raise ImportError(said) from None


def _beside(top: str) -> str:
    """Return what to do if the module stands in the current directory only."""
    if not (os.path.isfile(f"{top}.py") or os.path.isdir(top)):
        return ""
    return (
        ": the current directory does not count; install the module, or run "
        f"python3 -m privsep.cli {shlex.join(sys.argv[1:])}"
    )


def _examine(context: Context, *, call: bool) -> bool:
    """Print what there is to say of `context`; return whether a call would work."""
    from privsep.cli.doctor import Diagnosis  # noqa: PLC0415 - it alone needs so much

    diagnosis = Diagnosis(context)
    for finding in diagnosis.findings:
        print(finding)  # noqa: T201 - that is what was asked for
    if diagnosis.method is None:
        print("A call would not work.")  # noqa: T201
    else:
        print(f"A call would work, by {diagnosis.method}.")  # noqa: T201
    if not call:
        return diagnosis.method is not None
    try:
        with context:
            print(f"\n{context.status()}")  # noqa: T201
    except PrivsepError as error:
        print(f"\nThe call failed: {error}")  # noqa: T201
        return False
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="privsep",
        description="What an administrator does with contexts of privsep.",
        epilog="privsep serve [--listen PATH] MODULE:CONTEXT is the daemon itself; "
        "systemd runs it.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    generate = commands.add_parser(
        "generate",
        help="print what lets a service have the daemon of a context",
        description="Prints what the administrator installs for one context, with the "
        "reason for each line. Run it with the interpreter of the service's "
        "environment.",
    )
    generate.add_argument("kind", choices=_KINDS)
    generate.add_argument("context", metavar="MODULE:CONTEXT")
    doctor = commands.add_parser(
        "doctor",
        help="say whether a call would work, and what to do if not",
        description="Looks at all that has to be right for a call. Run it as the "
        "service's user, as the service runs. Exit status 0: a call would work.",
    )
    doctor.add_argument("context", metavar="MODULE:CONTEXT")
    doctor.add_argument(
        "--call", action="store_true", help="start the daemon, and ask it what it is"
    )
    generate.add_argument("--user", help="whom the service runs as (default: you)")
    return parser


def _user(name: str | None) -> str:
    """Return whom the service runs as: who was named, or whoever asks."""
    if name is None and os.getuid() == 0:
        msg = "say by --user whom the service runs as: root needs nothing of this"
        raise ValueError(msg)
    try:
        found = pwd.getpwuid(os.getuid()) if name is None else pwd.getpwnam(name)
    except KeyError:
        msg = f"there is no user {name or os.getuid()} on this system"
        raise ValueError(msg) from None
    return found.pw_name
