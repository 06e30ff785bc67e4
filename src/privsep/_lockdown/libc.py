"""System calls for which Python has no function, through ctypes.

Runs in the privileged process.  Each raises OSError with errno as os.* would.
"""

from __future__ import annotations

import ctypes
import os
import struct

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_libc.prctl.restype = ctypes.c_int
_libc.syscall.restype = ctypes.c_long


def prctl(option: int, second: int = 0, third: int = 0) -> int:
    """Get or set an attribute of the thread; return the value of the call.

    Raises:
        OSError: as prctl(2).

    """
    result: int = _libc.prctl(option, second, third, 0, 0)
    if result < 0:
        raise _last_error(f"prctl({option}, {second}, {third})")
    return result


def capget() -> tuple[int, int, int]:
    """Return the effective, permitted and inheritable set of a thread."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    if _libc.capget(header, data) < 0:
        raise _last_error("capget")
    return data[0] | data[3] << 32, data[1] | data[4] << 32, data[2] | data[5] << 32


def may_capset(capabilities: int) -> bool:
    """Try to set effective and permitted to `capabilities`; return if it worked."""
    return _capset(capabilities, capabilities, 0) == 0


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Replace the capability sets of the calling thread.

    Raises:
        OSError: as capset(2).

    """
    if _capset(effective, permitted, inheritable) < 0:
        raise _last_error("capset")


def _capset(effective: int, permitted: int, inheritable: int) -> int:
    low = 0xFFFFFFFF
    data = _CAPABILITY_SETS.pack(
        effective & low,
        permitted & low,
        inheritable & low,
        effective >> 32,
        permitted >> 32,
        inheritable >> 32,
    )
    result: int = _libc.capset(_CAPABILITY_HEADER, data)
    return result


def ptrace_seize(pid: int) -> None:
    """Begin to trace a process without stopping it.

    Raises:
        OSError: as ptrace(2).

    """
    none = ctypes.c_void_p()
    if _libc.ptrace(ctypes.c_long(_PTRACE_SEIZE), ctypes.c_int(pid), none, none) < 0:
        raise _last_error(f"ptrace of process {pid}")


def unshare(flags: int) -> None:
    """Leave shared namespaces; os.unshare came with Python 3.12 only.

    Raises:
        OSError: as unshare(2).

    """
    if _libc.unshare(ctypes.c_int(flags)) < 0:
        raise _last_error("unshare")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Attach a file system of `kind` at `target`.

    Raises:
        OSError: as mount(2).

    """
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        os.fsencode(kind),
        ctypes.c_ulong(flags),
        os.fsencode(options),
    )
    if result < 0:
        raise _last_error(f"mount {kind} at {target}")


def syscall(number: int, *arguments: int | bytes | None) -> int:
    """Make the system call `number`, for which libc has no function either.

    Raises:
        OSError: as syscall(2).

    """
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise _last_error(f"system call {number}")
    return result


_PTRACE_SEIZE = 0x4206
_CAPABILITY_VERSION_3 = 0x20080522
#: for capset(2), which only reads: bytes, as an array costs ten times as much
_CAPABILITY_HEADER = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
_CAPABILITY_SETS = struct.Struct("=6I")


def _last_error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
