"""Start method ``exec``: a fresh interpreter, from a process with privileges.

Runs in the client.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from privsep._daemon.environment import kept
from privsep._lockdown import capabilities, libc, order
from privsep._lockdown.capability_names import SETGID, SETPCAP, SETUID, mask
from privsep._start.process import Launched, spawn

if TYPE_CHECKING:
    from collections.abc import Generator

    from privsep.context import Context

# It closes what it inherited before it imports anything; site has loaded os and sys.
# The highest number that is open bounds it, because where Python has no
# close_range(2), it closes one by one.
_BOOT = """
import os, sys
os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)
sys.path[:] = sys.argv[4:]
from privsep._start import helper
{}
"""


def launch(context: Context) -> Launched:
    """Run the helper of `context` in a fresh interpreter.

    Raises:
        StartError: the context is in no importable variable.
        OSError: the interpreter cannot be run.

    """
    command = helper_command("helper.serve_own()", context, "")
    with _ambient(needed(context)):
        return spawn(command, kept(context.environment))


def helper_command(main: str, context: Context, argument: str) -> list[str]:
    """Return the command of an interpreter that runs `main` of the helper.

    The helper has this process's own privileges, so it may have its path, too.
    """
    path = [os.path.abspath(entry) for entry in sys.path]
    boot = _BOOT.format(main)
    return [sys.executable, "-I", "-c", boot, context.variable, argument, "--", *path]


def needed(context: Context) -> int:
    """Return the capabilities that the daemon must start with."""
    bits = context.capability_mask
    if context.user is not None:
        bits |= mask([SETUID, SETGID])
    if context.group is not None:
        bits |= mask([SETGID])
    if context.sandbox is not None:
        bits |= order.needed(context.sandbox)
    return bits


@contextmanager
def _ambient(bits: int) -> Generator[None, None, None]:
    """Have what this thread executes keep `bits`, if exec would take them away.

    Only uid 0 keeps its capabilities over execve(2) by itself.
    """
    effective, permitted, inheritable = libc.capget()
    wanted = (bits | mask([SETPCAP])) & permitted
    if os.geteuid() == 0 or not wanted:
        yield
        return
    before = capabilities.ambient()
    libc.capset(effective, permitted, inheritable | wanted)
    try:
        capabilities.raise_ambient(wanted)
        yield
    finally:
        capabilities.lower_ambient(wanted & ~before)
        libc.capset(effective, permitted, inheritable)
