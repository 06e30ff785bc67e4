"""System calls for which Python has no function, by the C library.

Runs in the privileged process.  Each raises OSError with errno as os.* would.

This is built of what ctypes is built of: to load ctypes itself takes a millisecond,
and whoever starts a daemon waits for that.
"""

from __future__ import annotations

import os
import struct
from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_USE_ERRNO,
    CFuncPtr,
    _SimpleCData,
    dlopen,
    dlsym,
    get_errno,
)

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from typing import TypeAlias

    _Number: TypeAlias = _SimpleCData[int]
else:
    _Number = _SimpleCData


class _Int(_Number):
    _type_ = "i"


class _UnsignedInt(_Number):
    _type_ = "I"


class _Long(_Number):
    _type_ = "l"


class _UnsignedLong(_Number):
    _type_ = "L"


class _Pointer(_Number):
    _type_ = "P"


class _Function(CFuncPtr):
    """A function of the C library, which returns an int; errno is kept."""

    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = _Int


def _function(name: str, *arguments: type[_Number]) -> _Function:
    function = _Function(dlsym(_LIBRARY, name))
    if arguments:  # else a number is an int, and bytes are their address
        function.argtypes = arguments
    return function


#: the process itself, which has the C library
_LIBRARY = dlopen(None)  # type: ignore[arg-type]
_prctl = _function("prctl", _Int, *[_UnsignedLong] * 4)
_capget = _function("capget")
_capset = _function("capset")
_ptrace = _function("ptrace", _Long, _Int, _Pointer, _Pointer)
_unshare = _function("unshare")
_mount = _function("mount", _Pointer, _Pointer, _Pointer, _UnsignedLong, _Pointer)
_syscall = _function("syscall")
_syscall.restype = _Long


def prctl(option: int, second: int = 0, third: int = 0) -> int:
    """Get or set an attribute of the thread; return the value of the call.

    Raises:
        OSError: as prctl(2).

    """
    result: int = _prctl(option, second, third, 0, 0)
    if result < 0:
        raise _last_error(f"prctl({option}, {second}, {third})")
    return result


def capget() -> tuple[int, int, int]:
    """Return the effective, permitted and inheritable set of a thread."""
    header = (_UnsignedInt * 2)(_CAPABILITY_VERSION_3, 0)
    data = (_UnsignedInt * 6)()
    if _capget(header, data) < 0:
        raise _last_error("capget")
    return data[0] | data[3] << 32, data[1] | data[4] << 32, data[2] | data[5] << 32


def may_capset(capabilities: int) -> bool:
    """Try to set effective and permitted to `capabilities`; return if it worked."""
    return _set_capabilities(capabilities, capabilities, 0) == 0


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Replace the capability sets of the calling thread.

    Raises:
        OSError: as capset(2).

    """
    if _set_capabilities(effective, permitted, inheritable) < 0:
        raise _last_error("capset")


def _set_capabilities(effective: int, permitted: int, inheritable: int) -> int:
    low = 0xFFFFFFFF
    data = _CAPABILITY_SETS.pack(
        effective & low,
        permitted & low,
        inheritable & low,
        effective >> 32,
        permitted >> 32,
        inheritable >> 32,
    )
    result: int = _capset(_CAPABILITY_HEADER, data)
    return result


def ptrace_seize(pid: int) -> None:
    """Begin to trace a process without stopping it.

    Raises:
        OSError: as ptrace(2).

    """
    if _ptrace(_PTRACE_SEIZE, pid, None, None) < 0:
        raise _last_error(f"ptrace of process {pid}")


def unshare(flags: int) -> None:
    """Leave shared namespaces; os.unshare came with Python 3.12 only.

    Raises:
        OSError: as unshare(2).

    """
    if _unshare(flags) < 0:
        raise _last_error("unshare")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Attach a file system of `kind` at `target`.

    Raises:
        OSError: as mount(2).

    """
    result = _mount(
        os.fsencode(source),
        os.fsencode(target),
        os.fsencode(kind),
        flags,
        os.fsencode(options),
    )
    if result < 0:
        raise _last_error(f"mount {kind} at {target}")


def syscall(number: int, *arguments: int | bytes | None) -> int:
    """Make the system call `number`, for which libc has no function either.

    Raises:
        OSError: as syscall(2).

    """
    words = [_Long(a) if isinstance(a, int) else a for a in arguments]
    result: int = _syscall(_Long(number), *words)
    if result < 0:
        raise _last_error(f"system call {number}")
    return result


_PTRACE_SEIZE = 0x4206
_CAPABILITY_VERSION_3 = 0x20080522
#: for capset(2), which only reads: bytes, as an array costs ten times as much
_CAPABILITY_HEADER = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
_CAPABILITY_SETS = struct.Struct("=6I")


def _last_error(what: str) -> OSError:
    number = get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
