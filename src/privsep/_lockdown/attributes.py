"""Attributes of a process that exec, ptrace and death look at: prctl(2).

Runs in the privileged process.  The secure bits are in capabilities(7), "The securebits
flags".
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
_PR_GET_SECUREBITS = 27
_PR_SET_SECUREBITS = 28
_PR_SET_NO_NEW_PRIVS = 38

_NOROOT_LOCKED = 1 << 1
_NO_SETUID_FIXUP = 1 << 2
_NO_SETUID_FIXUP_LOCKED = 1 << 3
_KEEP_CAPS_LOCKED = 1 << 5
_NO_CAP_AMBIENT_RAISE = 1 << 6
_NO_CAP_AMBIENT_RAISE_LOCKED = 1 << 7

#: Those that are set and locked.  NOROOT is locked *off*: a program that a uid 0 daemon
#: runs then has the bounding set, which is the context's, and no more.
SECUREBITS = (
    _NOROOT_LOCKED
    | _NO_SETUID_FIXUP
    | _NO_SETUID_FIXUP_LOCKED
    | _KEEP_CAPS_LOCKED
    | _NO_CAP_AMBIENT_RAISE
    | _NO_CAP_AMBIENT_RAISE_LOCKED
)


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


def lock_securebits() -> None:
    """Set and lock the secure bits; needs CAP_SETPCAP."""
    libc.prctl(_PR_SET_SECUREBITS, SECUREBITS)


def clear_securebits() -> None:
    """Clear the secure bits; fails once they are locked.

    Raises:
        OSError: EPERM.

    """
    libc.prctl(_PR_SET_SECUREBITS, 0)


def securebits() -> int:
    """Return the secure bits."""
    return libc.prctl(_PR_GET_SECUREBITS)
