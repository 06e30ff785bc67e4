"""A filter of system calls: seccomp(2), seccomp_rule_add(3), systemd.exec(5).

Runs in the privileged process, last of the lockdown (the filter may refuse what
the other steps need); `check` runs in both.

The list means what systemd's SystemCallFilter= means: names of system calls and
of groups, each with a ~ before it or not.  The first item decides: without ~ all
that is not listed is refused, with ~ all that is listed is.  Later items add to
the list or take from it.  Two things differ.  What the daemon itself cannot do
without (`_NEEDED` and the three tables after it) stays allowed whatever the list
says; and execve(2), which systemd always allows, is not among that.

clone3(2) has its flags in memory, where no filter can look.  So where unshare(2)
is refused, clone3 answers ENOSYS, on which a libc takes clone(2), and clone is
refused with a flag that makes a namespace: else both would do what unshare may
not.  An io_uring(7) works without system calls, so there is none where the list
refuses what one could do.

What other fields of the sandbox promise and Landlock does not hold is refused by a
filter of its own (`_beside_landlock`): where filters differ, the kernel takes the
stricter.
"""

from __future__ import annotations

import _socket
import errno
import os
import sys
from typing import TYPE_CHECKING, Final

from privsep._lockdown import libc, syscall_groups
from privsep._lockdown.libseccomp import (
    ALLOW,
    EQUAL,
    KILL_PROCESS,
    MASKED_EQUAL,
    NOT_EQUAL,
    Argument,
    Library,
    fail_with,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from privsep._lockdown.libseccomp import Filter
    from privsep.sandbox import Sandbox

    #: system call, errno, and the conditions under which it fails
    Refusal = tuple[str, int, tuple[Argument, ...]]

_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2

#: What the supervisor, its workers and the interpreter itself do at any time: as
#: strace(1) shows it, and by what name other architectures and libcs do it.
_NEEDED_NAMES: Final = """
    brk madvise mmap mmap2 mprotect mremap munmap
    _llseek close dup dup2 dup3 fcntl fcntl64 fstat fstat64 fstatat64 getcwd getdents64
    lseek lstat lstat64 newfstatat pipe pipe2 pread64 read readlink readlinkat stat
    stat64 statx write writev
    epoll_create1 epoll_ctl epoll_pwait epoll_wait poll ppoll ppoll_time64
    getsockname getsockopt recv recvfrom recvmsg send sendmsg sendto shutdown
    exit exit_group fork getpid getppid gettid kill pidfd_open pidfd_send_signal
    getegid getegid32 geteuid geteuid32
    rt_sigaction rt_sigprocmask rt_sigreturn setpgid sigreturn tgkill wait4 waitid
    futex futex_time64 restart_syscall rseq sched_yield set_robust_list
    clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 getrandom
    gettimeofday setitimer time
"""
_NEEDED: Final = frozenset(_NEEDED_NAMES.split())

#: The same, with one argument (its number) that has one of these values.
_NEEDED_WITH: Final = {
    "ioctl": (1, (0x5401, 0x5421, 0x5450, 0x5451, 0x802C542A)),
    #         TCGETS, FIONBIO, FIONCLEX, FIOCLEX, TCGETS2: what open() asks
    "prctl": (0, (1, 15)),  # PR_SET_PDEATHSIG, PR_SET_NAME
    "prlimit64": (0, (0,)),  # the process itself
    "setsockopt": (2, (16, 7, _socket.SO_RCVTIMEO, _socket.SO_SNDTIMEO)),
    #             SO_PASSCRED, SO_SNDBUF
    "socketpair": (0, (_socket.AF_UNIX,)),
}

#: The same, with none of these bits in one argument: modules are read late.
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_NEEDED_WITHOUT: Final = {"open": (1, _WRITING), "openat": (2, _WRITING)}

#: clone(2) makes processes and threads, here without CLONE_NEWNS, NEWCGROUP,
#: NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.  s390 has the flags second.
_NAMESPACES = 0x7E020000
_CLONE: Final = (1 if os.uname().machine.startswith("s390") else 0, _NAMESPACES)

#: What an io_uring does without a system call that a filter sees, beside what is
#: allowed anyway and reading and writing: io_uring_enter(2).
_BY_A_RING_NAMES: Final = """
    accept accept4 bind connect fallocate fgetxattr fsetxattr fsync ftruncate getxattr
    ioctl linkat listen mkdirat openat openat2 renameat renameat2 setsockopt setxattr
    socket splice symlinkat sync_file_range tee unlinkat
"""
_BY_A_RING: Final = frozenset(_BY_A_RING_NAMES.split())

_INT = 0xFFFFFFFF  #: the kernel looks at so much of an argument that is an int
_AF_SMC = 43
_MSG_FASTOPEN = 0x20000000


def check(syscalls: Iterable[str]) -> None:
    """Check the names in `syscalls`.

    Raises:
        ValueError: there is no such group or system call, or the daemon needs
            the one that is to be refused.

    """
    _select(syscalls)


def refuses(syscalls: Iterable[str] | None, *names: str) -> bool:
    """Return whether the list `syscalls` refuses one of `names`; None refuses none."""
    if syscalls is None:
        return False
    allow, listed = _select(syscalls)
    return any((name in listed) is not allow for name in names)


def prepare() -> Library:
    """Load libseccomp: before the lockdown, which may put it out of reach.

    Raises:
        OSError: it is not there, or the kernel has no seccomp.

    """
    _check_kernel()
    try:
        return Library()
    except OSError as error:
        msg = f"a filter of system calls needs libseccomp (libseccomp2): {error}"
        raise OSError(errno.ENOENT, msg) from error


def restrict(library: Library, sandbox: Sandbox) -> tuple[str, ...]:
    """Refuse, irrevocably, system calls of this process and its children.

    Those of other architectures (32 bit, x32) are refused in any case, because
    the rules look at numbers, and each architecture has its own.

    Args:
        library: as `prepare` returned it.
        sandbox: its `syscalls`, which fail with EPERM, or kill the process by
            SIGSYS if `syscall_action` is "kill"; and what `network`, `execute` and
            `signals` need beside Landlock, which never kills: it fails as on a
            kernel that lacks it, and callers (resolvers, getaddrinfo(3)) are
            prepared for that.

    Returns:
        The system calls that the list refuses and libseccomp, being older, does
        not know: a deny-list cannot refuse them.

    Raises:
        ValueError: as `check`.
        OSError: libseccomp or the kernel does not take the filter.

    """
    # A late import that may not write its .pyc would be killed for trying.
    sys.dont_write_bytecode = True
    refuse = (
        KILL_PROCESS if sandbox.syscall_action == "kill" else fail_with(errno.EPERM)
    )
    try:
        _refuse_beside_landlock(library, sandbox, refuse)
        if sandbox.syscalls is None:
            return ()
        allow, listed = _select(sandbox.syscalls)
        rules = _Rules(library, refuse, allow=allow)
        if allow:
            rules.allow(listed)
        else:
            rules.refuse(listed)
        if any((name in listed) is not allow for name in ("clone3", "unshare")):
            _hide_clone3(library)
        rules.load()
    except OSError as error:
        msg = f"the filter of system calls cannot be made or loaded: {error}"
        raise OSError(error.errno, msg) from error
    return tuple(sorted(rules.unknown))


def _refuse_beside_landlock(library: Library, sandbox: Sandbox, foreign: int) -> None:
    """Load a filter of what `_beside_landlock` names, if it names anything."""
    refusals = list(_beside_landlock(sandbox))
    if not refusals:
        return
    rules = _new_filter(library, ALLOW, foreign)
    for name, number, conditions in refusals:
        rules.add(fail_with(number), library.number(name), *conditions)
    rules.load()


def _beside_landlock(sandbox: Sandbox) -> Iterator[Refusal]:
    """Yield what the sandbox shall refuse, and neither Landlock nor its list does."""
    if sandbox.network is False:
        for name in ("socket", "socketpair"):
            not_unix = Argument(0, NOT_EQUAL, _socket.AF_UNIX)
            yield name, errno.EAFNOSUPPORT, (not_unix,)
    elif sandbox.network is not True:
        yield from _beside_ports()
    if sandbox.network is not True:
        # It has its arguments in memory, and every libc can do without it.
        yield "socketcall", errno.EPERM, ()
    if sandbox.network is not True or refuses(sandbox.syscalls, *_BY_A_RING):
        yield "io_uring_setup", errno.EPERM, ()
    if sandbox.execute == ():
        for name in ("execve", "execveat"):
            yield name, errno.EACCES, ()
    elif sandbox.execute is not None:
        # A file in memory has no path that could be listed.
        yield "memfd_create", errno.EACCES, ()
    if not sandbox.signals:
        # A limit of CPU time that is over kills as a signal does.
        others, new_limit = Argument(0, NOT_EQUAL, 0), Argument(2, NOT_EQUAL, 0)
        yield "prlimit64", errno.EPERM, (others, new_limit)


def _beside_ports() -> Iterator[Refusal]:
    """Yield the ways to a TCP connection, beside connect(2) of a TCP socket.

    Multipath TCP and SMC, numbered from 256, fall back to TCP with any peer; with
    TCP Fast Open, sending connects.
    """
    for family in (_socket.AF_INET, _socket.AF_INET6):
        internet = Argument(0, MASKED_EQUAL, _INT, family)
        from_256 = Argument(2, MASKED_EQUAL, 0xFFFFFF00, 0x100)
        yield "socket", errno.EPROTONOSUPPORT, (internet, from_256)
    smc = Argument(0, MASKED_EQUAL, _INT, _AF_SMC)
    yield "socket", errno.EAFNOSUPPORT, (smc,)
    for name, flags in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
        opens = Argument(flags, MASKED_EQUAL, _MSG_FASTOPEN, _MSG_FASTOPEN)
        yield name, errno.EOPNOTSUPP, (opens,)


def _select(syscalls: Iterable[str]) -> tuple[bool, set[str]]:
    """Return whether `syscalls` is an allow-list, and which calls it lists."""
    if isinstance(syscalls, str):
        msg = f"the system calls {syscalls!r} are a string: write [{syscalls!r}]"
        raise ValueError(msg)  # noqa: TRY004 - the value, as any other, is wrong
    allow = None
    listed: set[str] = set()
    for item in syscalls:
        refuse = item.startswith("~")
        name = item.removeprefix("~")
        if refuse and (name in _NEEDED or name in _NEEDED_WITH or name == "clone"):
            msg = f"{item!r}: the daemon itself needs {name}, it cannot be refused"
            raise ValueError(msg)
        if allow is None:
            allow = not refuse
        if refuse is allow:
            listed -= syscall_groups.members(name)
        else:
            listed |= syscall_groups.members(name)
    return allow is not False, listed


class _Rules:
    """The filter of a list while it is made: an allow-list, or a deny-list."""

    def __init__(self, library: Library, refuse: int, *, allow: bool) -> None:
        self._library = library
        self._refuse = refuse
        self._default = refuse if allow else ALLOW
        self._filter = _new_filter(library, self._default, refuse)
        self._is_allow_list = allow
        self._done: set[str] = set()
        self.unknown: set[str] = set()

    def allow(self, listed: set[str]) -> None:
        """Allow `listed`, and what the daemon needs."""
        allow = ALLOW
        if "unshare" not in listed or "clone" not in listed:
            self._add(allow, "clone", _CLONE[0], MASKED_EQUAL, _CLONE[1], 0)
        for name in (listed | _NEEDED | {"clone", "clone3"}) - self._done:
            self._add(allow, name)
        for name in _NEEDED_WITH.keys() - listed:
            argument, values = _NEEDED_WITH[name]
            for value in values:
                self._add(allow, name, argument, EQUAL, value)
        for name in _NEEDED_WITHOUT.keys() - listed:
            argument, bits = _NEEDED_WITHOUT[name]
            self._add(allow, name, argument, MASKED_EQUAL, bits, 0)

    def refuse(self, listed: set[str]) -> None:
        """Refuse `listed`, but what the daemon needs."""
        for name in _NEEDED_WITHOUT.keys() & listed:
            self._refuse_any_bit(name, *_NEEDED_WITHOUT[name])
        if "unshare" in listed:
            self._refuse_any_bit("clone", *_CLONE)
        needed = _NEEDED | _NEEDED_WITH.keys() | {"clone", "clone3"}
        for name in listed - needed - self._done:
            self._add(self._refuse, name)

    def load(self) -> None:
        """Give the filter to the kernel."""
        self._filter.load()

    def _refuse_any_bit(self, name: str, argument: int, bits: int) -> None:
        for number in range(bits.bit_length()):
            bit = bits & 1 << number
            if bit:
                self._add(self._refuse, name, argument, MASKED_EQUAL, bit, bit)

    def _add(self, action: int, name: str, *comparison: int) -> None:
        """Add a rule: argument number, comparison, and what to compare with."""
        self._done.add(name)
        if action == self._default:  # libseccomp takes no such rule
            return
        number = self._library.number(name)
        if number == -1:
            if not self._is_allow_list:
                self.unknown.add(name)
            return
        arguments = [Argument(*comparison)] if comparison else []
        self._filter.add(action, number, *arguments)


def _new_filter(library: Library, default: int, foreign: int) -> Filter:
    """Return a filter that refuses what is `foreign`, and logs what it refuses."""
    rules = library.new_filter(default)
    rules.set_foreign(foreign)
    try:
        rules.log_refusals()
    except OSError:  # before Linux 4.14
        pass
    return rules


def _hide_clone3(library: Library) -> None:
    """Make clone3 answer ENOSYS.

    By a filter of its own, which does not log: each new thread tries clone3 first.
    """
    hide = library.new_filter(ALLOW)
    hide.set_foreign(ALLOW)
    hide.add(fail_with(errno.ENOSYS), library.number("clone3"))
    hide.load()


def _check_kernel() -> None:
    """Raise OSError if the kernel filters no system calls.

    A kernel that does complains of the missing filter: EFAULT.
    """
    try:
        libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, 0)
    except OSError as error:
        if error.errno != errno.EFAULT:
            msg = "the kernel does not filter system calls (CONFIG_SECCOMP_FILTER)"
            raise OSError(error.errno, msg) from error
