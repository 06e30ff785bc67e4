"""Capabilities by name and number, and the sets of the calling thread.

Runs on both sides.  Source: capabilities(7).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from privsep._lockdown import capabilities as sets
from privsep._lockdown import libc
from privsep._lockdown.capability_names import mask

if TYPE_CHECKING:
    from collections.abc import Iterable


class Capabilities(enum.IntEnum):
    """The capabilities that Linux has."""

    CAP_CHOWN = 0
    CAP_DAC_OVERRIDE = 1
    CAP_DAC_READ_SEARCH = 2
    CAP_FOWNER = 3
    CAP_FSETID = 4
    CAP_KILL = 5
    CAP_SETGID = 6
    CAP_SETUID = 7
    CAP_SETPCAP = 8
    CAP_LINUX_IMMUTABLE = 9
    CAP_NET_BIND_SERVICE = 10
    CAP_NET_BROADCAST = 11
    CAP_NET_ADMIN = 12
    CAP_NET_RAW = 13
    CAP_IPC_LOCK = 14
    CAP_IPC_OWNER = 15
    CAP_SYS_MODULE = 16
    CAP_SYS_RAWIO = 17
    CAP_SYS_CHROOT = 18
    CAP_SYS_PTRACE = 19
    CAP_SYS_PACCT = 20
    CAP_SYS_ADMIN = 21
    CAP_SYS_BOOT = 22
    CAP_SYS_NICE = 23
    CAP_SYS_RESOURCE = 24
    CAP_SYS_TIME = 25
    CAP_SYS_TTY_CONFIG = 26
    CAP_MKNOD = 27
    CAP_LEASE = 28
    CAP_AUDIT_WRITE = 29
    CAP_AUDIT_CONTROL = 30
    CAP_SETFCAP = 31
    CAP_MAC_OVERRIDE = 32
    CAP_MAC_ADMIN = 33
    CAP_SYSLOG = 34
    CAP_WAKE_ALARM = 35
    CAP_BLOCK_SUSPEND = 36
    CAP_AUDIT_READ = 37
    CAP_PERFMON = 38
    CAP_BPF = 39
    CAP_CHECKPOINT_RESTORE = 40


CAP_CHOWN = 0
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAP_FOWNER = 3
CAP_FSETID = 4
CAP_KILL = 5
CAP_SETGID = 6
CAP_SETUID = 7
CAP_SETPCAP = 8
CAP_LINUX_IMMUTABLE = 9
CAP_NET_BIND_SERVICE = 10
CAP_NET_BROADCAST = 11
CAP_NET_ADMIN = 12
CAP_NET_RAW = 13
CAP_IPC_LOCK = 14
CAP_IPC_OWNER = 15
CAP_SYS_MODULE = 16
CAP_SYS_RAWIO = 17
CAP_SYS_CHROOT = 18
CAP_SYS_PTRACE = 19
CAP_SYS_PACCT = 20
CAP_SYS_ADMIN = 21
CAP_SYS_BOOT = 22
CAP_SYS_NICE = 23
CAP_SYS_RESOURCE = 24
CAP_SYS_TIME = 25
CAP_SYS_TTY_CONFIG = 26
CAP_MKNOD = 27
CAP_LEASE = 28
CAP_AUDIT_WRITE = 29
CAP_AUDIT_CONTROL = 30
CAP_SETFCAP = 31
CAP_MAC_OVERRIDE = 32
CAP_MAC_ADMIN = 33
CAP_SYSLOG = 34
CAP_WAKE_ALARM = 35
CAP_BLOCK_SUSPEND = 36
CAP_AUDIT_READ = 37
CAP_PERFMON = 38
CAP_BPF = 39
CAP_CHECKPOINT_RESTORE = 40

CAPS_BYNAME: dict[str, int] = {each.name: each.value for each in Capabilities}
CAPS_BYVALUE: dict[int, str] = {each.value: each.name for each in Capabilities}


def set_keepcaps(enable: bool) -> None:  # noqa: FBT001 - as oslo.privsep has it
    """Keep the permitted set when the last uid 0 becomes another, or not.

    Args:
        enable: whether to keep it.

    Raises:
        OSError: as prctl(2), PR_SET_KEEPCAPS.

    """
    sets.keep_over_setuid(keep=enable)


def drop_all_caps_except(
    effective: Iterable[int], permitted: Iterable[int], inheritable: Iterable[int]
) -> None:
    """Replace the sets of the calling thread.

    Args:
        effective: numbers of capabilities that are checked.
        permitted: numbers of those that it may make effective.
        inheritable: numbers of those that a program may inherit.

    Raises:
        OSError: as capset(2).

    """
    libc.capset(mask(effective), mask(permitted), mask(inheritable))


def get_caps() -> tuple[list[int], list[int], list[int]]:
    """Return the effective, the permitted and the inheritable set of this thread.

    Raises:
        OSError: as capget(2).

    """
    effective, permitted, inheritable = libc.capget()
    return _numbers(effective), _numbers(permitted), _numbers(inheritable)


def _numbers(bits: int) -> list[int]:
    return [number for number in range(bits.bit_length()) if bits >> number & 1]
