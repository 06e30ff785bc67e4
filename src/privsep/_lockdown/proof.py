"""Attempts to regain what was given up: each must fail.

Runs in the locked-down process itself.  OpenSSH's monitor asks the same question
after it has dropped: not what the kernel reports, but what the kernel allows.  An
attempt that fails changes nothing, and one that succeeds ends the daemon, so no
child is needed for it (a fork costs a millisecond and more).
Sources: capabilities(7), ptrace(2), prctl(2).
"""

from __future__ import annotations

import _socket
import os
import resource

from privsep._lockdown import attributes, capabilities, libc
from privsep._lockdown.capability_names import (
    SETGID,
    SETUID,
    SYS_PTRACE,
    describe,
    mask,
)
from privsep._lockdown.status import SIZE, field

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from privsep._lockdown.status import Status
    from privsep.sandbox import Sandbox

    #: what it would regain, and the attempt, which must raise OSError
    Attempt = tuple[str, Callable[[], object]]


_OUTSIDE = "/dev/zero"
_CLONE_NEWUSER = 0x10000000
_IPPROTO_MPTCP = 262


def regained(status: Status, sandbox: Sandbox | None) -> list[str]:
    """Return what could be regained; empty is the proof.  Else the process must end.

    Args:
        status: what this process has now.
        sandbox: whose paths are enforced by now; None: none are.

    """
    found = _capabilities(status.permitted) + _succeeding(_attempts(status))
    if sandbox is not None:
        found += _succeeding(_beside_paths(sandbox))
    return found


def passed_filter(sandbox: Sandbox | None) -> list[str]:
    """Return which system calls pass the filters that are loaded and should refuse."""
    if sandbox is None:
        return []
    return _succeeding(_beside_landlock(sandbox)) + _succeeding(_beside_list(sandbox))


def _succeeding(attempts: Iterable[Attempt]) -> list[str]:
    found = []
    for name, attempt in attempts:
        try:
            attempt()
        except OSError:
            continue
        found.append(name)
    return found


def _beside_paths(sandbox: Sandbox) -> Iterator[Attempt]:
    """Open what everybody may open, and no sandbox lists by itself."""
    for paths, flags, name in (
        (sandbox.read, os.O_RDONLY, "reading"),
        (sandbox.write, os.O_WRONLY, "writing"),
    ):
        if paths is not None and not any(_OUTSIDE.startswith(path) for path in paths):
            yield f"{name} {_OUTSIDE}", _open(_OUTSIDE, flags)


def _open(path: str, flags: int) -> Callable[[], None]:
    return lambda: os.close(os.open(path, flags | os.O_CLOEXEC))


def _beside_landlock(sandbox: Sandbox) -> Iterator[Attempt]:
    """Do what the fields of `sandbox` refuse, unless its list does (and may kill)."""
    from privsep._lockdown import seccomp  # noqa: PLC0415 - it is loaded by now

    def is_left(name: str) -> bool:
        return not seccomp.refuses(sandbox.syscalls, name)

    if sandbox.network is False and is_left("socket"):
        yield "a socket", lambda: _socket.socket(_socket.AF_INET).close()
    if not isinstance(sandbox.network, bool) and is_left("socket"):
        yield "Multipath TCP", _multipath_tcp
    if sandbox.execute and is_left("memfd_create"):
        yield "a file in memory", lambda: os.memfd_create("privsep")
    if not sandbox.signals and is_left("prlimit64"):
        yield "limits of other processes", _limit_by_pid


def _beside_list(sandbox: Sandbox) -> Iterator[Attempt]:
    """Do what the list refuses, if it is what no daemon needs."""
    from privsep._lockdown import seccomp  # noqa: PLC0415 - as above

    if seccomp.refuses(sandbox.syscalls, "unshare"):
        kills = sandbox.syscall_action == "kill"
        yield "a user namespace", _in_a_child(_unshare_user) if kills else _unshare_user


def _multipath_tcp() -> None:
    _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, _IPPROTO_MPTCP).close()


def _limit_by_pid() -> None:
    """Do to this process what is refused for any process with a number."""
    resource.prlimit(os.getpid(), resource.RLIMIT_CORE, (0, 0))


def _unshare_user() -> None:
    libc.unshare(_CLONE_NEWUSER)


def _in_a_child(attempt: Callable[[], object]) -> Callable[[], None]:
    """Return an attempt that raises OSError if `attempt` is killed or fails."""

    def run() -> None:
        child = os.fork()
        if child == 0:
            try:
                attempt()
                os._exit(0)
            finally:
                os._exit(1)
        if os.waitpid(child, 0)[1] != 0:
            raise PermissionError

    return run


def _capabilities(kept: int) -> list[str]:
    missing = (
        1 << number
        for number in range(capabilities.last_capability() + 1)
        if not kept >> number & 1
    )
    return [describe(bit) for bit in missing if libc.may_capset(kept | bit)]


def _attempts(status: Status) -> Iterator[Attempt]:
    kept = status.permitted
    if status.uids[1] and not kept & mask([SETUID]):
        yield "uid 0", lambda: os.setresuid(0, 0, 0)
    if status.gids[1] and not kept & mask([SETGID]):
        yield "gid 0", lambda: os.setresgid(0, 0, 0)
    if attributes.securebits() == attributes.SECUREBITS:
        yield "other securebits", attributes.clear_securebits
        yield "the ambient set", _raise_ambient(kept or 1)
    if not kept & mask([SYS_PTRACE]) and _is_stronger(1, kept):
        yield "ptrace of process 1", lambda: libc.ptrace_seize(1)


def _raise_ambient(bits: int) -> Callable[[], None]:
    return lambda: capabilities.raise_ambient(bits)


def _is_stronger(pid: int, kept: int) -> bool:
    """Return whether process `pid` has a capability that we have not.

    Otherwise (an unprivileged container's init) tracing it would gain nothing.
    What /proc hides (hidepid=) is what we may not trace.
    """
    try:
        descriptor = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        permitted = int(field(os.pread(descriptor, SIZE, 0), b"CapPrm"), 16)
    finally:
        os.close(descriptor)
    return bool(permitted & ~kept)
