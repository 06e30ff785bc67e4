"""Capability sets of the calling thread: capabilities(7), capset(2), prctl(2).

Runs in the privileged process.  Sets are bit masks.
"""

from __future__ import annotations

import errno

from privsep._lockdown import libc
from privsep._lockdown.capability_names import mask

_BITS = 64  #: that a set has, by capset(2)
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_IS_SET = 1
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_LOWER = 3
_PR_CAP_AMBIENT_CLEAR_ALL = 4


def last_capability() -> int:
    """Return the highest capability number that the running kernel knows.

    The kernel is asked, and no file of /proc/sys: a service may have none.
    """
    if not _last:
        last, beyond = 0, _BITS
        while beyond - last > 1:
            middle = (last + beyond) // 2
            if _is_known(middle):
                last = middle
            else:
                beyond = middle
        _last.append(last)
    return _last[0]


_last: list[int] = []  #: asked for once


def _is_known(capability: int) -> bool:
    """Return whether the kernel has a capability of that number, and so all below."""
    try:
        libc.prctl(_PR_CAPBSET_READ, capability)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def permitted() -> int:
    """Return the permitted set."""
    return libc.capget()[1]


def set_all(capabilities: int, inheritable: int = 0) -> None:
    """Make effective and permitted `capabilities`, inheritable `inheritable`."""
    libc.capset(capabilities, capabilities, inheritable)


def keep_over_setuid(*, keep: bool) -> None:
    """Keep permitted when the last uid 0 becomes another (PR_SET_KEEPCAPS)."""
    libc.prctl(_PR_SET_KEEPCAPS, keep)


def drop_bounding_except(capabilities: int) -> None:
    """Drop all but `capabilities` from the bounding set; needs CAP_SETPCAP."""
    for capability in range(last_capability() + 1):
        if not capabilities >> capability & 1:
            libc.prctl(_PR_CAPBSET_DROP, capability)


def clear_ambient() -> None:
    """Empty the ambient set."""
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)


def ambient() -> int:
    """Return the ambient set."""
    return mask(
        capability
        for capability in range(last_capability() + 1)
        if libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_IS_SET, capability)
    )


def raise_ambient(capabilities: int) -> None:
    """Put `capabilities`, permitted and inheritable, into the ambient set.

    Raises:
        OSError: EPERM if one is not permitted or not inheritable.

    """
    for capability in range(capabilities.bit_length()):
        if capabilities >> capability & 1:
            libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


def lower_ambient(capabilities: int) -> None:
    """Take `capabilities` out of the ambient set."""
    for capability in range(capabilities.bit_length()):
        if capabilities >> capability & 1:
            libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_LOWER, capability)
