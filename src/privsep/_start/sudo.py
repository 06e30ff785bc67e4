"""Start method ``sudo``: through any command that runs another as root.

Runs in the client.  The helper gets the name of the context, and the control
socket as its standard input; nothing else.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

from privsep._start.process import Launched, spawn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privsep.context import Context

_SPECIAL = re.compile(r"[\s,:=\\\"*?\[\]!]")  # what sudoers(5) has escaped
_SCRIPT = "privsep-daemon"


def command(context: Context, helper: tuple[str, ...]) -> list[str]:
    """Return the whole command, as a sudoers rule has to allow it.

    Raises:
        StartError: the context is in no importable variable.

    """
    script = os.path.join(os.path.dirname(sys.executable), _SCRIPT)
    return [*helper, script, context.variable]


def rule(context: Context) -> str:
    """Return the line of sudoers(5) that allows this user the daemon's command.

    Raises:
        StartError: the context is in no importable variable.

    """
    user = _own_name() or f"#{os.getuid()}"
    return f"{user} ALL=(root) NOPASSWD: {escaped(command(context, ()))}"


def doas_rule(context: Context, user: str = "") -> str:
    """Return the line of doas.conf(5) that allows `user` the daemon's command.

    Args:
        context: whose daemon it is.
        user: name; default: who runs this.

    Raises:
        StartError: the context is in no importable variable.

    """
    user = user or _own_name() or str(os.getuid())
    launcher, variable = map(_quoted, command(context, ()))
    names = " ".join(context.environment)
    kept = f"setenv {{ {names} }} " if names else ""
    words = f"as root cmd {launcher} args {variable}"
    return f"permit nopass {kept}{_quoted(user)} {words}"


def remedy(context: Context, helper: tuple[str, ...]) -> str:
    """Return what lets this user run the daemon's command behind `helper`.

    Raises:
        StartError: the context is in no importable variable.

    """
    if os.path.basename(helper[0] if helper else "") == "doas":
        allow = f"doas.conf allow it (/etc/doas.conf):\n  {doas_rule(context)}"
    else:
        where = "visudo -f /etc/sudoers.d/NAME"
        allow = f"sudoers allow it ({where}):\n  {rule(context)}"
    return (
        f"If this user may not run the command, let {allow}\n"
        "Root must own that environment, with all in it: it runs as root"
    )


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


def _quoted(word: str) -> str:
    """Return a word as doas.conf(5) has it written."""
    special = set(word).intersection(' \t"\\{}#')
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if special else word


def escaped(words: Sequence[str]) -> str:
    """Return a command as sudoers(5) has it written."""
    return " ".join(_SPECIAL.sub(r"\\\g<0>", word) for word in words)


def launch(context: Context, helper: tuple[str, ...]) -> Launched:
    """Run the daemon's command behind `helper`.

    Raises:
        StartError: the context is in no importable variable.
        OSError: the first word of `helper` cannot be run.

    """
    return spawn(command(context, helper), os.environ)


def is_allowed(
    context: Context, helper: tuple[str, ...], deadline: float
) -> tuple[bool, str]:
    """Ask sudo whether the very command is allowed, and what it said.

    Args:
        context: whose daemon is to be started.
        helper: the words before the options of the question.
        deadline: seconds within which it must answer: it may ask a server.

    """
    words = [*helper, "-n", "-l", *command(context, ())]
    try:
        asked = subprocess.Popen(  # noqa: S603 - the service chose the command
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        return False, str(error)
    try:
        _, answer = asked.communicate(timeout=deadline)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(PermissionError):  # it is root's: it ends by itself
            asked.kill()
        return False, f"no answer within {deadline:g} s: {shlex.join(words)}"
    said = answer.decode("utf-8", "backslashreplace").strip()
    return asked.returncode == 0, said or "the command is not allowed"
