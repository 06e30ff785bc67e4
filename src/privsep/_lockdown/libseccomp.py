"""The system's libseccomp, through ctypes: seccomp_init(3), seccomp_rule_add(3).

Runs in the privileged process, where a context asks for a filter.  As small as
its one user, `seccomp`, needs it; the bindings that there are were rejected in
docs/architecture.md.
"""

from __future__ import annotations

import ctypes
import os

#: What the kernel got since libseccomp 2.5.0; from here on every architecture has
#: the same numbers.
_FIRST_NEWER = 440
_NEWER_NAMES = """
    process_madvise epoll_pwait2 mount_setattr quotactl_fd landlock_create_ruleset
    landlock_add_rule landlock_restrict_self memfd_secret process_mrelease futex_waitv
    set_mempolicy_home_node cachestat fchmodat2 map_shadow_stack futex_wake futex_wait
    futex_requeue statmount listmount lsm_get_self_attr lsm_set_self_attr
    lsm_list_modules mseal setxattrat getxattrat listxattrat removexattrat
    open_tree_attr file_getattr file_setattr
"""
_NEWER = _NEWER_NAMES.split()

ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
NOT_EQUAL, EQUAL, MASKED_EQUAL = 1, 4, 7

_BAD_ARCHITECTURE, _LOG, _RAW_ERRORS = 2, 6, 9


def fail_with(number: int) -> int:
    """Return the action that makes a system call fail with errno `number`."""
    return 0x00050000 | number


class Argument(ctypes.Structure):
    """A condition: number of the argument, comparison, what to compare with.

    MASKED_EQUAL takes the mask first, then the value.
    """

    _fields_ = (
        ("number", ctypes.c_uint),
        ("comparison", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


class Library:
    """libseccomp.so.2, loaded.

    Raises:
        OSError: it is not installed.

    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2")
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._library.seccomp_init.argtypes = [ctypes.c_uint32]

    def number(self, name: str) -> int:
        """Return the number of a system call here, -1 if it is not known."""
        result: int = self._library.seccomp_syscall_resolve_name(name.encode())
        if result == -1 and name in _NEWER:
            return _FIRST_NEWER + _NEWER.index(name)
        return result

    def new_filter(self, default: int) -> Filter:
        """Return a filter with the action `default` for what no rule names.

        Raises:
            OSError: there is no memory.

        """
        pointer = self._library.seccomp_init(default)
        if not pointer:
            raise MemoryError
        return Filter(self._library, pointer)


class Filter:
    """A filter that is being made; it is kept until the process ends."""

    def __init__(self, library: ctypes.CDLL, pointer: int) -> None:
        self._library = library
        self._pointer = ctypes.c_void_p(pointer)
        self._set(_RAW_ERRORS, 1)

    def set_foreign(self, action: int) -> None:
        """Set what calls of another architecture get."""
        self._set(_BAD_ARCHITECTURE, action)

    def log_refusals(self) -> None:
        """Have the kernel log each refusal, by name."""
        self._set(_LOG, 1)

    def add(self, action: int, number: int, *arguments: Argument) -> None:
        """Add a rule for the system call `number`.

        Raises:
            OSError: libseccomp does not take it.

        """
        array = (Argument * len(arguments))(*arguments)
        self._check(
            self._library.seccomp_rule_add_array(
                self._pointer,
                ctypes.c_uint32(action),
                ctypes.c_int(number),
                ctypes.c_uint(len(arguments)),
                array,
            )
        )

    def load(self) -> None:
        """Give the filter to the kernel, irrevocably.

        Raises:
            OSError: the kernel does not take it.

        """
        self._check(self._library.seccomp_load(self._pointer))

    def _set(self, attribute: int, value: int) -> None:
        self._check(
            self._library.seccomp_attr_set(
                self._pointer, ctypes.c_int(attribute), ctypes.c_uint32(value)
            )
        )

    @staticmethod
    def _check(result: int) -> None:
        if result < 0:
            raise OSError(-result, os.strerror(-result))
