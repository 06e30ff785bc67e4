"""The command line of ``privsep``: what was asked for, and by which words.

Runs without privileges, as whoever calls it.
"""

from __future__ import annotations

import argparse
import os
import pwd
import sys
from typing import TYPE_CHECKING, NoReturn

from privsep._start.helper import find
from privsep.cli import doas, rootwrap_filter, sudoers, systemd
from privsep.errors import PrivsepError

if TYPE_CHECKING:
    from collections.abc import Callable

    from privsep.context import Context

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
        context = find(options.context)
        sys.stdout.write(_KINDS[options.kind](context, _user(options.user)))
    except (ImportError, LookupError, ValueError, PrivsepError) as error:
        sys.exit(f"privsep {options.command}: {error}")
    sys.exit(0)


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
