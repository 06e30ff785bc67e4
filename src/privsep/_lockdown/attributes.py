"""Attributes of a process that exec, ptrace and death look at: prctl(2).

Runs in the privileged process.
"""

from __future__ import annotations

import os

from privsep._lockdown import libc

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without enum and selectors: 4 ms

_PR_SET_PDEATHSIG = 1
_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


def forbid_dumping() -> None:
    """No core dumps, no ptrace and no /proc/PID/mem for the same uid."""
    libc.prctl(_PR_SET_DUMPABLE, 0)


def is_dumpable() -> bool:
    """Return whether processes of the same uid may look into this one."""
    return libc.prctl(_PR_GET_DUMPABLE) != 0


def forbid_new_privileges() -> None:
    """Set no_new_privs: exec gives nothing that the caller does not have."""
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent` ends; exit if it has."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
