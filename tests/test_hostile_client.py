"""Whatever a client sends, the daemon lives and serves the others."""

from __future__ import annotations

import fcntl
import math
import os
import resource
import select
import socket
import struct
import tempfile
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

import msgpack
import pytest
import target
from conftest import METHOD
from hostile import (
    BYE,
    CALL,
    CALL_HEADER,
    ENDED,
    ERR,
    HEADER,
    HELLO,
    LOG,
    NO_WORKER,
    NOT_STARTED,
    OVERRAN,
    PROMPTLY,
    REQUEST,
    RET,
    RUNS_ON,
    TOO_MANY,
    Daemon,
    Line,
    call_body,
    pack,
    read_answer,
    wait_for_end,
)
from observe import Release, wait_for_rest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

_SO_PASSPIDFD = 76
_AF_XDP = 44


@pytest.fixture(params=["processes", "threads"])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    daemon = Daemon(getattr(target, request.param), METHOD)
    yield daemon
    daemon.close()


@pytest.fixture
def open_daemon() -> Iterator[Callable[[str], Daemon]]:
    """Start the daemon of one of the contexts in `target`."""
    with ExitStack() as stack:

        def start(name: str) -> Daemon:
            daemon = Daemon(getattr(target, name), METHOD)
            stack.callback(daemon.close)
            return daemon

        yield start


@pytest.fixture
def release(tmp_path: Path) -> Iterator[Release]:
    """A fifo that keeps the calls of `wait_for_end`."""
    with Release(tmp_path) as release:
        yield release


@pytest.fixture
def held() -> Iterator[ExitStack]:
    """What a test opens besides; closed at its end."""
    with ExitStack() as stack:
        yield stack


def test_the_hand_written_client_is_understood(daemon: Daemon) -> None:
    assert daemon.call("echo", [1, "two", b"three"]) == [1, "two", b"three"]
    daemon.check_unharmed()


# -- control socket: what a request carries ------------------------------------


def _pair_of(held: ExitStack, kind: int) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    held.enter_context(ours)
    held.enter_context(theirs)
    ours.settimeout(PROMPTLY)
    return ours, theirs


def _stream(held: ExitStack) -> socket.socket:
    return _pair_of(held, socket.SOCK_STREAM)[1]


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
    return _pair_of(held, socket.SOCK_SEQPACKET)[1]


def _datagram(held: ExitStack) -> socket.socket:
    return _pair_of(held, socket.SOCK_DGRAM)[1]


def _netlink(held: ExitStack) -> socket.socket:
    return held.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))


def _foreign(held: ExitStack) -> socket.socket:
    """One end of a pair that another process made."""
    receiver, sender = _pair_of(held, socket.SOCK_STREAM)
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
    ours, theirs = _pair_of(held, socket.SOCK_STREAM)
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
    ours, theirs = _pair_of(held, socket.SOCK_STREAM)
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
    ours, theirs = _pair_of(held, socket.SOCK_STREAM)
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
    ends = _pair_of(held, socket.SOCK_STREAM)
    daemon.send(REQUEST, list(ends))
    held.close()
    daemon.send(REQUEST, list(reversed(_pair_of(held, socket.SOCK_STREAM))))
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


# -- control socket: what a datagram is ----------------------------------------


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
    ours, theirs = _pair_of(held, socket.SOCK_STREAM)
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
    assert daemon.workers() == 4
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
    ours, theirs = _pair_of(held, socket.SOCK_STREAM)
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
    pairs = [_pair_of(held, socket.SOCK_SEQPACKET) for _ in range(100)]
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


# -- channel: frames -----------------------------------------------------------


def test_half_a_header_and_silence_holds_nobody_up(daemon: Daemon) -> None:
    for _ in range(8):  # twice as many as there are workers
        daemon.open_line().channel.sendall(HEADER.pack(100, CALL)[:3])
    daemon.check_unharmed()


def test_half_a_frame_and_silence_holds_nobody_up(daemon: Daemon) -> None:
    for _ in range(8):
        line = daemon.open_line()
        body = call_body(daemon.name("echo"), pack("x" * 100_000))
        line.channel.sendall((HEADER.pack(len(body), CALL) + body)[:70_000])
    daemon.check_unharmed()


def test_a_frame_of_which_another_has_need_is_ended_by_bye(daemon: Daemon) -> None:
    lines = [daemon.open_line() for _ in range(4)]
    for line in lines:
        line.channel.sendall(HEADER.pack(100, CALL)[:3])
    daemon.ping()
    ended, _, _ = select.select([line.channel for line in lines], [], [], PROMPTLY)
    assert len(ended) == 1
    assert next(x for x in lines if x.channel in ended).receive_frame()[0] == BYE
    daemon.check_unharmed()


@pytest.mark.parametrize("length", [2**32 - 1, 2**31, 2**28 + 1])
def test_a_header_that_claims_gigabytes_holds_nobody_up(
    daemon: Daemon, length: int
) -> None:
    for _ in range(8):
        daemon.open_line().channel.sendall(HEADER.pack(length, CALL) + b"x" * 1000)
    daemon.check_unharmed()


def test_a_claim_within_the_limit_takes_no_memory_before_the_bytes_come(
    daemon: Daemon,
) -> None:
    for _ in range(4):
        daemon.open_line().channel.sendall(HEADER.pack(2**28, CALL) + b"x" * 1000)
    assert daemon.resident() < 200 * 1024 * 1024
    daemon.check_unharmed()


def test_a_frame_over_the_limit_is_refused_and_the_channel_goes_on(
    open_daemon: Callable[[str], Daemon],
) -> None:
    daemon = open_daemon("frugal")
    line = daemon.open_line()
    line.send_frame(CALL, bytes(256 * 1024 + 1))
    answer = read_answer(line)
    assert answer.error[0] == "MessageTooLarge"
    line.send_frame(CALL, call_body(daemon.name("echo"), pack(1)))
    assert read_answer(line).result == 1
    daemon.check_unharmed()


@pytest.mark.parametrize("kind", [0, RET, ERR, LOG, BYE, 6, 255])
def test_a_frame_of_another_kind_ends_the_channel(daemon: Daemon, kind: int) -> None:
    line = daemon.open_line()
    line.send_frame(kind, call_body(daemon.name("echo"), pack(1)))
    assert line.receive_frame()[0] == BYE
    daemon.check_unharmed()


@pytest.mark.parametrize(
    "body",
    [b"", b"\0", bytes(CALL_HEADER.size - 1), bytes(CALL_HEADER.size), b"\xff" * 200],
    ids=repr,
)
def test_a_call_without_its_header_is_refused(daemon: Daemon, body: bytes) -> None:
    assert daemon.ask(body).error[0] == "Refused"
    daemon.check_unharmed()


def test_calls_that_are_sent_before_the_reply_are_answered_in_turn(
    daemon: Daemon,
) -> None:
    line = daemon.open_line()
    frames = []
    for number in range(500):
        body = call_body(daemon.name("echo"), pack(number))
        frames.append(HEADER.pack(len(body), CALL) + body)
    line.channel.sendall(b"".join(frames))
    assert [read_answer(line).result for _ in range(500)] == list(range(500))
    daemon.check_unharmed()


def test_a_call_byte_by_byte_is_answered(daemon: Daemon) -> None:
    line = daemon.open_line()
    body = call_body(daemon.name("echo"), pack(7))
    for byte in HEADER.pack(len(body), CALL) + body:
        line.channel.sendall(bytes([byte]))
    assert read_answer(line).result == 7
    daemon.check_unharmed()


def test_descriptors_that_come_with_a_frame_or_on_the_fate_line_are_dropped(
    daemon: Daemon, held: ExitStack
) -> None:
    ours, theirs = _pair_of(held, socket.SOCK_STREAM)
    line = daemon.open_line()
    body = call_body(daemon.name("echo"), pack(7))
    socket.send_fds(
        line.channel, [HEADER.pack(len(body), CALL) + body], [theirs.fileno()] * 100
    )
    assert read_answer(line).result == 7
    socket.send_fds(line.fate, [b"x"], [theirs.fileno()] * 100)
    theirs.close()
    wait_for_end(ours)
    daemon.check_unharmed()


def test_urgent_bytes_are_no_trap(daemon: Daemon) -> None:
    line = daemon.open_line()
    try:
        line.fate.send(b"K", socket.MSG_OOB)
    except OSError:
        pytest.skip("this kernel has no urgent bytes on AF_UNIX sockets")
    line.channel.send(b"x", socket.MSG_OOB)
    daemon.check_idle()
    daemon.check_unharmed()


# -- channel: the call ---------------------------------------------------------

_NO_ENTRYPOINTS = [
    b"",
    b"target",
    b"target._helper",
    b"target.log",
    b"target.Context",
    b"target.os.system",
    b"target.sys.exit",
    b"target.__builtins__",
    b"target.echo.__globals__",
    b"target.echo.__class__",
    b"os.system",
    b"builtins.eval",
    b"__main__.echo",
    b"echo",
    b"target.echo\0",
    b"TARGET.ECHO",
    b"target.echo ",
    b"antigravity.fly",
    b"\xff\xfe\x00",
    b"target." + b"a." * 3000,
    b"x" * 65_535,
]


def test_a_name_that_is_no_entrypoint_is_refused(daemon: Daemon) -> None:
    for name in _NO_ENTRYPOINTS:
        answer = daemon.ask(call_body(name, pack()))
        assert answer.error[0] == "Refused"
        assert "is not an entrypoint" in answer.message
        assert len(answer.message) < 1500
    daemon.check_unharmed()


@pytest.mark.parametrize("claim", [0, 5, 12, 65_535])
def test_a_false_size_of_the_name_is_refused(daemon: Daemon, claim: int) -> None:
    name = daemon.name("echo")
    answer = daemon.ask(call_body(name, b"", name_size=claim))
    assert answer.error[0] == "Refused"
    daemon.check_unharmed()


@pytest.mark.parametrize(
    "timeout", [math.nan, -1.0, -math.inf, -0.0, 5e-324, 0.0, 1e-9, math.inf, 1e308]
)
def test_no_timeout_in_the_header_lengthens_or_breaks_a_deadline(
    daemon: Daemon, timeout: float
) -> None:
    line = daemon.start_call("echo", 7, timeout=timeout)
    with suppress(EOFError):
        assert read_answer(line).result == 7
    daemon.check_unharmed()


@pytest.mark.parametrize(
    "timeout", [math.nan, -1.0, 1e9, 1e18, 1e300, 1.7e308, math.inf]
)
def test_no_timeout_in_the_header_breaks_a_daemon_without_deadlines(
    open_daemon: Callable[[str], Daemon], timeout: float
) -> None:
    daemon = open_daemon("patient")
    line = daemon.start_call("echo", 7, timeout=timeout)
    assert read_answer(line).result == 7
    daemon.check_unharmed()


def test_a_deadline_of_a_month_is_served(open_daemon: Callable[[str], Daemon]) -> None:
    daemon = open_daemon("month")
    line = daemon.start_call("echo", 7, timeout=31 * 86400.0)
    assert read_answer(line).result == 7
    daemon.check_unharmed()


def test_a_timeout_in_the_header_shortens_the_deadline(
    daemon: Daemon, release: Release
) -> None:
    line = daemon.start_call("wait_for_end", release.path, timeout=0.1)
    assert line.read_fate()[0] in (OVERRAN, RUNS_ON)
    release.let_go()
    daemon.check_unharmed()


def _nested(depth: int, leaf: bytes = b"\xc0") -> bytes:
    return b"\x91" * depth + leaf


_SET, _TUPLE, _FROZENSET, _MAPPING = (
    msgpack.packb(msgpack.ExtType(code, b"")) for code in (2, 1, 3, 4)
)
_EMPTY_KEYWORDS = b"\x80"


def _as_argument(value: bytes) -> bytes:
    """[[value], {}]."""
    return b"\x92\x91" + value + _EMPTY_KEYWORDS


_MALFORMED = {
    "nothing": b"",
    "garbage": b"\xc1" * 100,
    "random": bytes(range(255, -1, -1)),
    "trailing bytes": pack(1) + b"\xc0",
    "truncated": pack("abc")[:-3],
    "a number": b"\x01",
    "one element": b"\x91\x90",
    "three elements": b"\x93\x90\x80\x80",
    "a dict": b"\x80",
    "arguments that are a dict": b"\x92\x80\x80",
    "keywords that are a list": b"\x92\x90\x90",
    "an array of 4 Gi elements": b"\x92\xdd\xff\xff\xff\xff",
    "a map of 4 Gi pairs": b"\x92\x90\xdf\xff\xff\xff\xff",
    "text of 4 GiB": b"\x92\xdb\xff\xff\xff\xff",
    "bytes of 4 GiB": b"\x92\xc6\xff\xff\xff\xff",
    "an extension of 4 GiB": b"\x92\xc9\xff\xff\xff\xff\x10",
    "an unknown extension": _as_argument(msgpack.packb(msgpack.ExtType(99, b"x"))),
    "a negative extension": _as_argument(b"\xd4\xf0x"),
    "a false timestamp": _as_argument(b"\xd4\xff\x00"),
    "a timestamp beyond its range": _as_argument(b"\xd7\xff" + b"\xff" * 8),
    "a mark with a payload": _as_argument(msgpack.packb(msgpack.ExtType(1, b"x"))),
    "a lone mark": _as_argument(_TUPLE),
    "a mark in second place": _as_argument(b"\x92\xc0" + _TUPLE),
    "two marks": _as_argument(b"\x92" + _TUPLE + _TUPLE),
    "two marks of a set": _as_argument(b"\x92" + _SET + _SET),
    "a mark as a key": _as_argument(b"\x81" + _TUPLE + b"\xc0"),
    "a mark as a value": _as_argument(b"\x81\xc0" + _TUPLE),
    "marks as the same key": _as_argument(b"\x82" + (_TUPLE + b"\xc0") * 2),
    "a mapping with an odd number": _as_argument(b"\x92" + _MAPPING + b"\x01"),
    "a set of lists": _as_argument(b"\x92" + _SET + b"\x90"),
    "a frozenset of dicts": _as_argument(b"\x92" + _FROZENSET + b"\x80"),
    "a mapping with a list as key": _as_argument(b"\x93" + _MAPPING + b"\x90\xc0"),
    "a dict with a list as key": _as_argument(b"\x81\x90\xc0"),
    "a dict with a dict as key": _as_argument(b"\x81\x80\xc0"),
    "half a complex": _as_argument(msgpack.packb(msgpack.ExtType(17, b"12345678"))),
    "text that is not UTF-8": _as_argument(b"\xa2\xff\xfe"),
    "a keyword that is a number": b"\x92\x90\x81\x01\x02",
    "a keyword that is bytes": b"\x92\x90\x81\xc4\x05value\x02",
    "a keyword that is None": b"\x92\x90\x81\xc0\x02",
    "a keyword that is a tuple": b"\x92\x90\x93"
    + _MAPPING
    + b"\x91"
    + _TUPLE
    + b"\x01",
}


def test_arguments_that_no_client_writes_are_refused(daemon: Daemon) -> None:
    for what, arguments in _MALFORMED.items():
        answer = daemon.ask(call_body(daemon.name("echo"), arguments))
        assert answer.error[:1] == ["Refused"], what
    daemon.check_unharmed()


def test_large_messages_are_refused_as_small_ones_are(daemon: Daemon) -> None:
    """They are decoded in another way; here each has an argument more."""
    text = b"\xda" + struct.pack("!H", 10_000) + b"x" * 10_000
    for what, arguments in _MALFORMED.items():
        if not (arguments.startswith(b"\x92\x91") and arguments.endswith(b"\x80")):
            continue
        large = b"\x92\x92" + arguments[2:-1] + text + _EMPTY_KEYWORDS
        answer = daemon.ask(call_body(daemon.name("echo"), large))
        assert answer.error[:1] == ["Refused"], what
    daemon.check_unharmed()


@pytest.mark.parametrize("text", ["", "x" * 10_000], ids=["small", "large"])
def test_an_extension_that_msgpack_knows_makes_no_object(
    daemon: Daemon, text: str
) -> None:
    """MessagePack's timestamp never comes to our hook; it arrives as a number."""
    stamp = b"\xd6\xff\x00\x00\x00\x01"
    value = b"\x92" + stamp + msgpack.packb(text)
    answer = daemon.ask(call_body(daemon.name("echo"), _as_argument(value)))
    assert answer.result == [1.0, text]
    daemon.check_unharmed()


@pytest.mark.parametrize("depth", [101, 1000, 1100, 8000, 1_000_000])
def test_deep_nesting_is_refused(daemon: Daemon, depth: int) -> None:
    answer = daemon.ask(call_body(daemon.name("echo"), _as_argument(_nested(depth))))
    assert answer.error[0] == "MessageTooLarge"
    daemon.check_unharmed()


@pytest.mark.parametrize("mark", [_TUPLE, _SET, _FROZENSET, _MAPPING], ids=repr)
def test_deep_nesting_of_marked_containers_is_refused(
    daemon: Daemon, mark: bytes
) -> None:
    head = b"\x92" + mark if mark != _MAPPING else b"\x93" + mark + b"\xc0"
    answer = daemon.ask(
        call_body(daemon.name("echo"), _as_argument(head * 5000 + b"\xc0"))
    )
    assert answer.error[0] in ("MessageTooLarge", "Refused")
    daemon.check_unharmed()


def test_more_than_a_million_elements_are_refused(daemon: Daemon) -> None:
    many = b"\xdd" + struct.pack("!I", 1_000_001) + b"\xc0" * 1_000_001
    answer = daemon.ask(call_body(daemon.name("echo"), _as_argument(many)))
    assert answer.error[0] in ("MessageTooLarge", "Refused")
    lists = b"\xdd" + struct.pack("!I", 600_000) + b"\x91\xc0" * 600_000
    answer = daemon.ask(call_body(daemon.name("echo"), _as_argument(lists)))
    assert answer.error[0] == "MessageTooLarge"
    daemon.check_unharmed()


def test_nested_claims_of_huge_arrays_take_no_time_and_no_memory(
    daemon: Daemon,
) -> None:
    """Each level claims a million elements, and none has them."""
    claims = (b"\xdd" + struct.pack("!I", 1_000_000)) * 1000
    answer = daemon.ask(
        call_body(daemon.name("echo"), b"\x92" + claims + b"\xc0" * 1_000_000)
    )
    assert answer.error[0] in ("MessageTooLarge", "Refused")
    daemon.check_unharmed()


def test_a_keyword_twice_is_a_keyword_once(daemon: Daemon) -> None:
    twice = b"\x92\x90\x82\xa5value\x01\xa5value\x02"
    answer = daemon.ask(call_body(daemon.name("echo"), twice))
    assert answer.result == 2
    daemon.check_unharmed()


def test_arguments_that_do_not_fit_the_function_are_a_type_error(
    daemon: Daemon,
) -> None:
    for arguments in (pack(), pack(1, 2), pack(1, value=2), pack(nothing=1)):
        answer = daemon.ask(call_body(daemon.name("echo"), arguments))
        assert answer.error[0] == "TypeError"
    daemon.check_unharmed()


@pytest.mark.parametrize(
    "keyword", ["self", "__class__", "a b", "\udcff", "", "é" * 1000]
)
def test_strange_keywords_stay_keywords(daemon: Daemon, keyword: str) -> None:
    answer = daemon.ask(call_body(daemon.name("keywords"), pack(**{keyword: 1})))
    assert answer.result == {keyword: 1}
    daemon.check_unharmed()


# -- the ends, played with from outside -----------------------------------------


def _set_nonblocking(sock: socket.socket) -> None:
    flags = fcntl.fcntl(sock, fcntl.F_GETFL)
    fcntl.fcntl(sock, fcntl.F_SETFL, flags | os.O_NONBLOCK)


def test_o_nonblock_on_the_workers_end_ends_that_worker_only(daemon: Daemon) -> None:
    idle = daemon.open_line(keep=True)
    _set_nonblocking(idle.workers)
    in_reply = daemon.open_line(keep=True)
    body = call_body(daemon.name("make_bytes"), pack(10_000_000))
    in_reply.send_frame(CALL, body)
    _set_nonblocking(in_reply.workers)
    for line in (idle, in_reply):
        line.let_go()
    daemon.check_unharmed()


def test_o_nonblock_on_the_fate_line_changes_nothing(
    daemon: Daemon, release: Release
) -> None:
    line = daemon.open_line(keep=True)
    _set_nonblocking(line.supervisors)
    line.let_go()
    line.send_frame(CALL, call_body(daemon.name("wait_for_end"), pack(release.path)))
    line.fate.send(b"K")
    assert line.read_fate()[0] in (ENDED, RUNS_ON)
    release.let_go()
    daemon.check_unharmed()


def test_a_timer_on_the_workers_end_ends_that_worker_only(daemon: Daemon) -> None:
    line = daemon.open_line(keep=True)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        line.workers.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", 0, 1000))
    line.let_go()
    line.send_frame(CALL, call_body(daemon.name("make_bytes"), pack(10_000_000)))
    line.wait_until_closed()
    daemon.check_unharmed()


def test_tiny_buffers_slow_the_client_down_and_nobody_else(daemon: Daemon) -> None:
    line = daemon.open_line(keep=True)
    for sock in (line.workers, line.supervisors, daemon.log, daemon.daemons_end):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    line.let_go()
    line.send_frame(CALL, call_body(daemon.name("make_bytes"), pack(300_000)))
    assert len(read_answer(line).result) == 300_000  # type: ignore[arg-type]
    assert daemon.call("print_much", 100, 10_000) == 100
    daemon.check_unharmed()


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR])
@pytest.mark.parametrize("end", ["channel", "workers", "fate", "supervisors"])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_an_end_that_is_shut_down_from_outside_costs_its_own_call(
    daemon: Daemon, release: Release, end: str, how: int, *, busy: bool
) -> None:
    line = daemon.open_line(keep=True)
    if busy:
        body = call_body(daemon.name("wait_for_end"), pack(release.path))
        line.send_frame(CALL, body)
    getattr(line, end).shutdown(how)
    daemon.check_idle()
    release.let_go()
    daemon.check_unharmed()


def test_a_worker_killed_through_the_fate_line_is_gone(
    daemon: Daemon, release: Release
) -> None:
    line = daemon.start_call("wait_for_end", release.path)
    line.fate.send(b"K")
    assert line.read_fate()[0] in (ENDED, RUNS_ON)
    if daemon.threaded:  # a thread cannot be killed
        release.let_go()
    daemon.check_unharmed()


@pytest.mark.parametrize("data", [b"K", b"x", b"\0"], ids=repr)
def test_bytes_without_end_on_the_fate_line_cost_one_worker(
    daemon: Daemon, release: Release, data: bytes
) -> None:
    line = daemon.start_call("wait_for_end", release.path)
    line.fate.setblocking(False)
    with suppress(OSError):
        for _ in range(1000):
            line.fate.send(data * 100_000)
    daemon.check_idle()
    release.let_go()
    daemon.check_unharmed()


def test_bytes_on_the_fate_line_of_a_request_that_waits_end_it(
    daemon: Daemon, release: Release
) -> None:
    for _ in range(4):
        daemon.start_call("wait_for_end", release.path)
    waiting = daemon.open_line()
    waiting.fate.send(b"x" * 100)
    assert waiting.read_fate()[0] == NOT_STARTED
    release.let_go()
    daemon.check_unharmed()


def test_a_client_that_never_reads_its_reply_loses_its_worker(daemon: Daemon) -> None:
    lines = [daemon.start_call("make_bytes", 10_000_000, timeout=0.3) for _ in range(4)]
    for line in lines:
        assert line.read_fate()[0] in (OVERRAN, RUNS_ON)
    daemon.check_unharmed()


def test_a_client_that_never_reads_the_records_loses_its_worker(
    daemon: Daemon,
) -> None:
    lines = [daemon.start_call("log_much", 5000, 1000, timeout=0.3) for _ in range(4)]
    for line in lines:
        assert line.read_fate()[0] in (OVERRAN, RUNS_ON)
    daemon.check_unharmed()


def test_a_client_that_never_reads_refusals_loses_its_worker(
    open_daemon: Callable[[str], Daemon],
) -> None:
    """Each reply is small and has a minute; room is made when others wait."""
    daemon = open_daemon("processes")
    lines = [daemon.open_line() for _ in range(4)]
    frame = HEADER.pack(0, CALL)
    for line in lines:
        line.channel.setblocking(False)
        with suppress(BlockingIOError):
            for _ in range(100):
                line.channel.send(frame * 10_000)
    daemon.close_lines()
    daemon.check_unharmed()


def test_output_without_end_is_bounded(daemon: Daemon) -> None:
    """Nobody reads the log line, and nobody waits for that."""
    assert daemon.call("print_much", 3000, 1000) == 3000
    assert daemon.call("print_much", 1, 5_000_000) == 1
    assert daemon.resident() < 200 * 1024 * 1024
    daemon.check_unharmed()


def test_calls_that_overrun_and_whose_client_is_gone_are_ended(
    daemon: Daemon, release: Release
) -> None:
    for _ in range(4):
        daemon.start_call("wait_for_end", release.path, timeout=0.2)
    daemon.close_lines()
    if daemon.threaded:  # a thread cannot be killed
        release.let_go()
    daemon.check_unharmed()


# -- at rest --------------------------------------------------------------------


def test_an_idle_daemon_uses_no_time(daemon: Daemon) -> None:
    line = daemon.start_call("echo", 1)
    assert read_answer(line).result == 1  # a worker is kept, and idle
    daemon.check_idle()
    daemon.check_unharmed()


def test_a_daemon_with_stuck_clients_uses_no_time(daemon: Daemon) -> None:
    daemon.open_line().channel.sendall(b"\0")
    daemon.start_call("make_bytes", 10_000_000)
    daemon.open_line().fate.send(b"xxx")
    daemon.check_idle()
    daemon.check_unharmed()
