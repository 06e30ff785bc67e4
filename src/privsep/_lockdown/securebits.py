"""Secure bits of the calling thread: capabilities(7), "The securebits flags".

Runs in the privileged process.
"""

from __future__ import annotations

from privsep._lockdown import libc

_PR_GET_SECUREBITS = 27
_PR_SET_SECUREBITS = 28

_NOROOT_LOCKED = 1 << 1
_NO_SETUID_FIXUP = 1 << 2
_NO_SETUID_FIXUP_LOCKED = 1 << 3
_KEEP_CAPS_LOCKED = 1 << 5
_NO_CAP_AMBIENT_RAISE = 1 << 6
_NO_CAP_AMBIENT_RAISE_LOCKED = 1 << 7

#: NOROOT is locked *off*: a program that a uid 0 daemon runs then has the
#: bounding set, which is the context's, and no more.
LOCKED = (
    _NOROOT_LOCKED
    | _NO_SETUID_FIXUP
    | _NO_SETUID_FIXUP_LOCKED
    | _KEEP_CAPS_LOCKED
    | _NO_CAP_AMBIENT_RAISE
    | _NO_CAP_AMBIENT_RAISE_LOCKED
)


def lock() -> None:
    """Set and lock the bits; needs CAP_SETPCAP."""
    libc.prctl(_PR_SET_SECUREBITS, LOCKED)


def clear() -> None:
    """Clear the bits; fails once they are locked.

    Raises:
        OSError: EPERM.

    """
    libc.prctl(_PR_SET_SECUREBITS, 0)


def read() -> int:
    """Return the bits."""
    return libc.prctl(_PR_GET_SECUREBITS)
