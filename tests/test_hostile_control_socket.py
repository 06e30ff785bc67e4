"""Whatever is sent on the control socket, the daemon lives and serves the others."""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import tempfile
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

import pytest
import target
from conftest import METHOD
from hostile import (
    ENDED,
    HELLO,
    NO_WORKER,
    NOT_STARTED,
    PROMPTLY,
    REQUEST,
    TOO_MANY,
    Daemon,
    Line,
    daemon,
    held,
    pair_of,
    read_answer,
    release,
    wait_for_end,
)
from observe import Release, wait_for_rest

from privsep._daemon.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["daemon", "held", "release"]


# -- what a request carries -----------------------------------------------------

_SO_PASSPIDFD = 76
_AF_XDP = 44


def _stream(held: ExitStack) -> socket.socket:
    return pair_of(held, socket.SOCK_STREAM)[1]


def _file(held: ExitStack) -> Any:
    return held.enter_context(tempfile.TemporaryFile())


def _pipe(held: ExitStack) -> int:
    ends = os.pipe()
    for end in ends:
        held.callback(os.close, end)
    return ends[0]


def _directory(held: ExitStack) -> int:
    descriptor = os.open("/", os.O_RDONLY)
    held.callback(os.close, descriptor)
    return descriptor


def _path_only(held: ExitStack) -> int:
    descriptor = os.open("/", os.O_PATH)
    held.callback(os.close, descriptor)
    return descriptor


def _epoll(held: ExitStack) -> Any:
    return held.enter_context(closing(select.epoll()))


def _udp(held: ExitStack) -> socket.socket:
    return held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))


def _tcp(held: ExitStack) -> socket.socket:
    return held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))


def _listening_tcp(held: ExitStack) -> socket.socket:
    return held.enter_context(socket.create_server(("127.0.0.1", 0)))


def _listening_unix(held: ExitStack) -> socket.socket:
    sock = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    sock.bind("")  # the kernel finds a name, and it is not the file system's
    sock.listen()
    return sock


def _connected_by_address(held: ExitStack) -> socket.socket:
    """A stream that was accepted: its peer made it, and is this very process."""
    listening = _listening_unix(held)
    client = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    client.connect(listening.getsockname())
    return held.enter_context(listening.accept()[0])


def _unconnected(held: ExitStack) -> socket.socket:
    return held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))


def _seqpacket(held: ExitStack) -> socket.socket:
    return pair_of(held, socket.SOCK_SEQPACKET)[1]


def _datagram(held: ExitStack) -> socket.socket:
    return pair_of(held, socket.SOCK_DGRAM)[1]


def _netlink(held: ExitStack) -> socket.socket:
    return held.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))


def _foreign(held: ExitStack) -> socket.socket:
    """One end of a pair that another process made."""
    receiver, sender = pair_of(held, socket.SOCK_STREAM)
    child = os.fork()
    if child == 0:
        try:
            pair = socket.socketpair()
            socket.send_fds(sender, [b"x"], [sock.fileno() for sock in pair])
        finally:
            os._exit(0)
    _, descriptors, _, _ = socket.recv_fds(receiver, 1, 2)
    os.waitpid(child, 0)
    received = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    for sock in received:
        held.enter_context(sock)
    return received[1]


_WRONG = [
    _file,
    _pipe,
    _directory,
    _path_only,
    _epoll,
    _udp,
    _tcp,
    _listening_tcp,
    _listening_unix,
    _unconnected,
    _seqpacket,
    _datagram,
    _netlink,
    _foreign,
]


@pytest.mark.parametrize("wrong", _WRONG)
@pytest.mark.parametrize("place", [0, 1])
def test_a_request_with_another_kind_of_descriptor_is_dropped(
    daemon: Daemon, held: ExitStack, wrong: Callable[[ExitStack], Any], place: int
) -> None:
    ours, theirs = pair_of(held, socket.SOCK_STREAM)
    sent: list[Any] = [theirs, theirs]
    sent[place] = wrong(held)
    daemon.send(REQUEST, sent)
    theirs.close()
    wait_for_end(ours)
    daemon.check_unharmed()


@pytest.mark.parametrize(
    "wrong", [*_WRONG[:10], _datagram, _netlink, _stream, _foreign]
)
def test_a_hello_with_another_kind_of_descriptor_is_dropped(
    daemon: Daemon, held: ExitStack, wrong: Callable[[ExitStack], Any]
) -> None:
    daemon.send(HELLO, [wrong(held)])
    line = daemon.start_call("print_much", 1, 3)
    assert read_answer(line).result == 1
    assert daemon.log.recv(1 << 16)  # the first HELLO still holds
    daemon.check_unharmed()


def test_a_socket_whose_family_has_no_names_is_refused(
    daemon: Daemon, held: ExitStack
) -> None:
    """getsockname(2) fails on AF_ALG and AF_XDP, and Python asks it for a family."""
    for family, kind in (
        (socket.AF_ALG, socket.SOCK_SEQPACKET),
        (_AF_XDP, socket.SOCK_RAW),
    ):
        try:
            sock = socket.socket(family, kind)
        except OSError:
            continue
        held.enter_context(sock)
        break
    else:
        pytest.skip("this kernel, or this user, has neither AF_ALG nor AF_XDP")
    daemon.send(REQUEST, [sock, sock])
    daemon.send(HELLO, [sock])
    daemon.check_unharmed()


@pytest.mark.parametrize("count", [0, 1, 3, 4, 10, 200, 253])
def test_a_request_with_another_number_of_descriptors_is_dropped(
    daemon: Daemon, held: ExitStack, count: int
) -> None:
    ours, theirs = pair_of(held, socket.SOCK_STREAM)
    daemon.send(REQUEST, [theirs] * count)
    theirs.close()
    wait_for_end(ours)
    daemon.check_unharmed()


@pytest.mark.parametrize("count", [0, 2, 3, 253])
def test_a_hello_with_another_number_of_descriptors_is_dropped(
    daemon: Daemon, held: ExitStack, count: int
) -> None:
    daemon.send(HELLO, [_seqpacket(held)] * count)
    daemon.check_unharmed()


def test_a_request_whose_sockets_have_the_same_maker_by_connect_is_served(
    daemon: Daemon, held: ExitStack
) -> None:
    """The check is about who made a socket, not about how."""
    line = Line()
    channel = _connected_by_address(held)
    daemon.send(REQUEST, [channel, line.supervisors])
    channel.close()
    line.supervisors.close()
    line.channel.close()
    held.callback(line.close)
    held.close()
    daemon.check_unharmed()


def test_a_request_with_the_same_socket_twice_harms_nobody(
    daemon: Daemon, held: ExitStack
) -> None:
    ours, theirs = pair_of(held, socket.SOCK_STREAM)
    daemon.send(REQUEST, [theirs, theirs])
    theirs.close()
    ours.sendall(b"K" * 10_000)
    daemon.ping()
    ours.close()
    daemon.check_unharmed()


def test_a_request_with_both_ends_of_one_pair_harms_nobody(
    daemon: Daemon, held: ExitStack
) -> None:
    """The supervisor tells the fate to the worker, which takes it for a frame."""
    ends = pair_of(held, socket.SOCK_STREAM)
    daemon.send(REQUEST, list(ends))
    held.close()
    daemon.send(REQUEST, list(reversed(pair_of(held, socket.SOCK_STREAM))))
    held.close()
    daemon.ping()


@pytest.mark.parametrize("which", ["control", "daemons_end"])
def test_a_request_with_the_control_socket_is_dropped(
    daemon: Daemon, which: str
) -> None:
    sock = getattr(daemon, which)
    daemon.send(REQUEST, [sock, sock])
    daemon.check_unharmed()


@pytest.mark.xfail(
    strict=True,
    reason="the kernel does not tell that a log line is the end of the daemon's own "
    "control socket; a client can keep its daemon with any process of its own, too",
)
def test_a_client_cannot_keep_its_daemon_with_the_control_socket_as_its_log_line() -> (
    None
):
    daemon = Daemon(target.processes, METHOD)
    daemon.send(HELLO, [daemon.control])
    try:
        daemon.let_go()
        wait_for_rest(daemon.pid)
        assert not daemon.is_alive()
    finally:
        daemon.launched.process.end(0)
        daemon.close()


# -- what a datagram is ---------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"p",
        REQUEST[:-1],
        HELLO[:-1],
        REQUEST + b"\0",
        HELLO + b"\0",
        REQUEST.upper(),
        bytes(15),
        bytes(16),
        REQUEST * 1000,
        b"privsep 2 chan.",
    ],
    ids=repr,
)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_another_datagram_is_dropped(
    daemon: Daemon, held: ExitStack, data: bytes, count: int
) -> None:
    ours, theirs = pair_of(held, socket.SOCK_STREAM)
    daemon.send(data, [theirs] * count)
    theirs.close()
    wait_for_end(ours)
    daemon.check_unharmed()


def test_hundreds_of_requests_are_bounded_and_answered(
    daemon: Daemon, release: Release
) -> None:
    answers = set()
    busy = [daemon.start_call("wait_for_end", release.path) for _ in range(4)]
    waiting = [daemon.open_line() for _ in range(256)]  # so many may
    for _ in range(500):
        line = daemon.open_line()
        answers.add(line.read_fate()[0])
        line.close()
    assert answers == {TOO_MANY}
    daemon.wait_for_workers(4)
    for line in waiting:
        line.fate.send(b"x")
        assert line.read_fate()[0] == NOT_STARTED
    for line in busy:
        line.fate.send(b"K")
    release.let_go()
    daemon.close_lines()
    daemon.check_unharmed()


def test_requests_whose_ends_are_closed_at_once_leave_nothing(daemon: Daemon) -> None:
    for _ in range(600):
        line = Line()
        daemon.send(REQUEST, [line.workers, line.supervisors])
        line.close()
    daemon.check_unharmed()


def test_thousands_of_bad_datagrams_leave_nothing(
    daemon: Daemon, held: ExitStack
) -> None:
    wrong = [_file(held), _seqpacket(held), _stream(held)]
    for number in range(3000):
        daemon.send([b"x", REQUEST, HELLO][number % 3], wrong[: number % 4])
    daemon.check_unharmed()


def test_a_client_that_fills_the_control_socket_waits_for_itself(
    daemon: Daemon,
) -> None:
    daemon.control.setblocking(False)
    with suppress(BlockingIOError):
        for _ in range(100_000):
            daemon.send(b"x" * 1000, [])
    daemon.control.settimeout(PROMPTLY)
    daemon.check_unharmed()


def test_a_client_that_takes_away_the_credentials_is_refused(
    daemon: Daemon, held: ExitStack
) -> None:
    daemon.daemons_end.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
    ours, theirs = pair_of(held, socket.SOCK_STREAM)
    for count in (0, 1, 2, 10, 200):
        daemon.send(REQUEST, [theirs] * count)
        daemon.send(HELLO, [theirs] * count)
    theirs.close()
    wait_for_end(ours)
    daemon.daemons_end.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    daemon.check_unharmed()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_client_that_has_pidfds_sent_along_leaks_none(
    daemon: Daemon, held: ExitStack, count: int
) -> None:
    """SO_PASSPIDFD on a shared socket gives its receiver a descriptor more."""
    try:
        daemon.daemons_end.setsockopt(socket.SOL_SOCKET, _SO_PASSPIDFD, 1)
    except OSError:
        pytest.skip("this kernel has no SO_PASSPIDFD (Linux 6.5)")
    wrong = _stream(held)
    for _ in range(20):
        daemon.send(b"x", [wrong] * count)
        daemon.send(REQUEST, [wrong] * count)
        daemon.send(HELLO, [wrong] * count)
    daemon.daemons_end.setsockopt(socket.SOL_SOCKET, _SO_PASSPIDFD, 0)
    daemon.check_unharmed()


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR])
@pytest.mark.parametrize("which", ["control", "daemons_end"])
def test_a_control_socket_that_is_shut_down_ends_the_daemon_in_order(
    daemon: Daemon, which: str, how: int
) -> None:
    getattr(daemon, which).shutdown(how)
    assert daemon.wait_until_gone()


def test_o_nonblock_on_the_control_socket_changes_nothing(daemon: Daemon) -> None:
    daemon.daemons_end.setblocking(False)
    daemon.check_unharmed()
    daemon.daemons_end.setblocking(True)
    daemon.check_unharmed()


def test_another_hello_takes_the_place_of_the_first(
    daemon: Daemon, held: ExitStack
) -> None:
    pairs = [pair_of(held, socket.SOCK_SEQPACKET) for _ in range(100)]
    for _, theirs in pairs:
        daemon.send(HELLO, [theirs])
        theirs.close()
    daemon.call("print_much", 1, 3)
    assert b"xxx" in pairs[-1][0].recv(1 << 16)
    daemon.check_unharmed()


def test_children_that_said_hello_and_ended_leave_nothing_in_the_daemon(
    daemon: Daemon,
) -> None:
    for _ in range(20):
        child = os.fork()
        if child == 0:
            try:
                daemon.send(
                    HELLO, [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)[1]]
                )
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    daemon.check_unharmed()


def test_a_daemon_without_descriptors_to_spare_refuses_and_recovers(
    daemon: Daemon,
) -> None:
    limit = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    most = (
        max(map(int, os.listdir(f"/proc/{daemon.pid}/fd"))) if os.getuid() == 0 else 20
    )
    for spare in range(1, 14):
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (most + spare, limit[1]))
        for _ in range(5):
            line = daemon.open_line()
            wait = select.select([line.fate], [], [], 0.02)
            if wait[0]:
                fate = line.fate.recv(9)
                assert not fate or fate[0] in (NO_WORKER, NOT_STARTED, ENDED)
        daemon.close_lines()
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, limit)
    daemon.check_unharmed()


def test_a_daemon_that_can_watch_no_more_refuses_and_recovers(
    monkeypatch: pytest.MonkeyPatch, release: Release
) -> None:
    """As a user's descriptors in epolls are bounded: here in the loop itself."""
    watch = Loop.watch

    def watch_few(self: Loop, descriptor: int, *more: Any, **by_name: Any) -> None:
        if len(self._handlers) >= 40:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        watch(self, descriptor, *more, **by_name)

    monkeypatch.setattr(Loop, "watch", watch_few)
    daemon = Daemon(target.processes, "fork")
    for _ in range(4):  # all workers are busy, or idle ones would go for the waiting
        daemon.start_call("wait_for_end", release.path)
    lines = [daemon.open_line() for _ in range(60)]
    fates = {line.fate: line for line in lines}
    refused, _, _ = select.select(fates, [], [], PROMPTLY)
    assert fates[refused[0]].read_fate()[:2] == (NO_WORKER, errno.ENOSPC)
    release.let_go()
    daemon.close_lines()
    daemon.check_unharmed()
    daemon.close()
