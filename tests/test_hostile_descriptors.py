"""Descriptors that a hostile client sends along with a call: none is left open."""

from __future__ import annotations

import array
import fcntl
import os
import resource
import socket
import struct
import termios
from typing import TYPE_CHECKING

import msgpack
import pytest
import target
from conftest import IS_ROOT, METHOD
from hostile import (
    ATTACH,
    BARE,
    BYE,
    CALL,
    FILE,
    HEADER,
    SOCKET,
    Answer,
    Daemon,
    Line,
    bare,
    call_body,
    daemon,
    pack,
    read_answer,
    send_with,
    wait_for_end,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["daemon"]


class Sent:
    """Descriptors that tell when nobody has them any more."""

    def __init__(self, count: int) -> None:
        self._ours, self._theirs = socket.socketpair()
        self.numbers = [self._theirs.fileno()] * count

    def wait_until_closed(self) -> None:
        self._theirs.close()
        try:
            wait_for_end(self._ours)
        finally:
            self._ours.close()

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


@pytest.fixture
def sent(request: pytest.FixtureRequest) -> Iterator[Sent]:
    sent = Sent(getattr(request, "param", 1))
    yield sent
    sent.close()


def file(place: int, layer: int = 0, encoding: int = 0, errors: int = 0) -> object:
    return msgpack.ExtType(FILE, struct.pack("!HBBB", place, layer, encoding, errors))


def sock(place: int, timeout: float) -> msgpack.ExtType:
    return msgpack.ExtType(SOCKET, struct.pack("!Hd", place, timeout))


def attach(line: Line) -> None:
    """Announce descriptors, and wait until the worker is ready for them."""
    line.send_frame(ATTACH, b"")
    assert line.receive_frame() == (ATTACH, b"")


def ask_with(
    daemon: Daemon, line: Line, arguments: bytes, descriptors: list[int]
) -> Answer:
    attach(line)
    send_with(line, call_body(daemon.name("echo"), arguments), descriptors)
    return read_answer(line)


def test_the_hand_written_client_is_understood(daemon: Daemon, sent: Sent) -> None:
    line = daemon.open_line()
    attach(line)
    body = call_body(daemon.name("count_arguments"), pack(bare(0)))
    send_with(line, body, sent.numbers)
    assert read_answer(line).result == 1
    sent.wait_until_closed()
    daemon.check_unharmed()


_ATTACH_FRAME = HEADER.pack(0, ATTACH)


def test_what_was_announced_once_comes_with_its_announcement(
    daemon: Daemon, sent: Sent
) -> None:
    """A client saves a round trip."""
    line = daemon.open_line()
    attach(line)
    body = call_body(daemon.name("count_arguments"), pack(bare(0)))
    send_with(line, body, sent.numbers)
    assert read_answer(line).result == 1
    frame = _ATTACH_FRAME + HEADER.pack(len(body), CALL) + body
    for _ in range(3):
        socket.send_fds(line.channel, [frame], sent.numbers)
        assert read_answer(line).result == 1
    attach(line)
    send_with(line, body, sent.numbers)
    assert read_answer(line).result == 1
    sent.wait_until_closed()
    daemon.check_unharmed()


@pytest.mark.parametrize("arguments", [pack(), pack(bare(1)), b"", b"\xc1"])
@pytest.mark.parametrize("announced", [b"", _ATTACH_FRAME, _ATTACH_FRAME[:3]])
def test_what_comes_unasked_and_is_not_claimed_is_closed(
    daemon: Daemon, sent: Sent, announced: bytes, arguments: bytes
) -> None:
    line = daemon.open_line()
    attach(line)
    body = call_body(daemon.name("count_arguments"), pack())
    send_with(line, body, [])
    assert read_answer(line).result == 0
    body = call_body(daemon.name("echo"), arguments)
    frame = announced + HEADER.pack(len(body), CALL) + body
    socket.send_fds(line.channel, [frame], sent.numbers)
    sent.wait_until_closed()
    line.close()
    daemon.check_unharmed()


@pytest.mark.parametrize(
    "arguments",
    [
        pack(),
        pack("no descriptor"),
        pack(bare(1)),
        pack(bare(0), bare(0)),
        pack(bare(0), bare(1)),
        pack(bare(65535)),
        pack(msgpack.ExtType(BARE, b"")),
        pack(msgpack.ExtType(BARE, b"\0\0\0")),
        pack(msgpack.ExtType(SOCKET, b"\0\0")),
        pack(msgpack.ExtType(FILE, b"\0\0")),
        pack(msgpack.ExtType(35, b"\0\0")),
        pack(sock(0, -1.0)),
        pack(sock(0, float("inf"))),
        pack(sock(0, 1e300)),
        pack(file(0, layer=0, encoding=9), bare(1)),
        pack(file(0, layer=2, encoding=5)),
        pack(file(0, layer=2, errors=5)),
        pack(bare(0))[:-1],
        b"\xc1",
        b"",
    ],
    ids=repr,
)
def test_a_message_that_does_not_fit_its_descriptor_is_refused(
    daemon: Daemon, sent: Sent, arguments: bytes
) -> None:
    line = daemon.open_line()
    assert ask_with(daemon, line, arguments, sent.numbers).error[0] == "Refused"
    sent.wait_until_closed()
    line.send_frame(CALL, call_body(daemon.name("echo"), pack("still there")))
    assert read_answer(line).result == "still there"
    daemon.check_unharmed()


def test_descriptors_that_were_announced_and_do_not_come_are_refused(
    daemon: Daemon,
) -> None:
    line = daemon.open_line()
    assert ask_with(daemon, line, pack(bare(0)), []).error[0] == "Refused"
    assert ask_with(daemon, line, pack("plain"), []).result == "plain"
    daemon.check_unharmed()


@pytest.mark.parametrize("sent", [253], indirect=True)
def test_as_many_as_the_kernel_takes_are_closed_again(
    daemon: Daemon, sent: Sent
) -> None:
    line = daemon.open_line()
    assert ask_with(daemon, line, pack(bare(0)), sent.numbers).error[0] == "Refused"
    sent.wait_until_closed()
    daemon.check_unharmed()


@pytest.mark.parametrize(
    ("path", "flags"),
    [
        ("/", os.O_RDONLY | os.O_DIRECTORY),
        ("/", os.O_PATH),
        ("/dev/null", os.O_RDONLY),
        ("/dev/null", 3),  # no access, for ioctl only
    ],
)
@pytest.mark.parametrize("claimed", [file(0, 1), file(0, 2), sock(0, 1.0)], ids=repr)
def test_what_is_not_what_it_is_said_to_be_harms_nobody(
    daemon: Daemon, path: str, flags: int, claimed: object
) -> None:
    descriptor = os.open(path, flags)
    line = daemon.open_line()
    attach(line)
    body = call_body(daemon.name("count_arguments"), pack(claimed))
    send_with(line, body, [descriptor])
    os.close(descriptor)
    answer = read_answer(line)
    assert answer.result == 1 or answer.error[0] == "Refused"
    daemon.check_unharmed()


@pytest.mark.parametrize("layer", [1, 2])
def test_a_descriptor_of_which_no_file_can_be_made_is_closed_once(
    daemon: Daemon, sent: Sent, layer: int
) -> None:
    """Its number may be another thread's by then: closing it again is EBADF, or worse.

    A socket is open for reading and writing, and is not seekable, as a buffer for both
    has to be.
    """
    answer = ask_with(daemon, daemon.open_line(), pack(file(0, layer)), sent.numbers)
    assert answer.error[0] == "Refused"
    assert answer.message.endswith("File or stream is not seekable.")
    sent.wait_until_closed()
    daemon.check_unharmed()


def test_descriptors_for_a_name_that_is_no_entrypoint_are_closed(
    daemon: Daemon, sent: Sent
) -> None:
    line = daemon.open_line()
    attach(line)
    send_with(line, call_body(b"os.close", pack(bare(0))), sent.numbers)
    assert read_answer(line).error[0] == "Refused"
    sent.wait_until_closed()
    daemon.check_unharmed()


def test_descriptors_of_a_message_over_the_limit_are_closed(sent: Sent) -> None:
    daemon = Daemon(target.frugal, METHOD)
    line = daemon.open_line()
    attach(line)
    body = bytes(daemon.context.max_message + 1)
    send_with(line, body, sent.numbers)
    assert read_answer(line).error[0] == "MessageTooLarge"
    sent.wait_until_closed()
    daemon.check_unharmed()
    daemon.close()


@pytest.mark.parametrize("kind", [0, 2, 3, 4, 5, ATTACH, 255])
def test_descriptors_with_a_frame_of_another_kind_end_the_channel(
    daemon: Daemon, sent: Sent, kind: int
) -> None:
    line = daemon.open_line()
    attach(line)
    send_with(line, b"", sent.numbers, kind)
    assert line.receive_frame()[0] == BYE
    sent.wait_until_closed()
    daemon.check_unharmed()


def test_an_announcement_and_silence_holds_nobody_up(daemon: Daemon) -> None:
    for _ in range(8):  # twice as many as there are workers
        daemon.open_line().send_frame(ATTACH, b"")
    daemon.check_unharmed()


def test_descriptors_and_half_a_frame_hold_nobody_up(
    daemon: Daemon, sent: Sent
) -> None:
    lines = [daemon.open_line() for _ in range(4)]
    for line in lines:
        attach(line)
        socket.send_fds(line.channel, [HEADER.pack(100, CALL)[:3]], sent.numbers)
    daemon.ping()
    daemon.close_lines()
    sent.wait_until_closed()
    daemon.check_unharmed()


def test_descriptors_that_come_later_in_the_frame_are_dropped(
    daemon: Daemon, sent: Sent
) -> None:
    line = daemon.open_line()
    attach(line)
    body = call_body(daemon.name("echo"), pack(bare(0)))
    line.channel.sendall(HEADER.pack(len(body), CALL))
    unread = array.array("i", [1])
    while unread[0]:  # what is read together brings them along
        fcntl.ioctl(line.channel, termios.TIOCOUTQ, unread)
    socket.send_fds(line.channel, [body], sent.numbers)
    assert read_answer(line).error[0] == "Refused"
    sent.wait_until_closed()
    daemon.check_unharmed()


def test_a_worker_without_room_for_descriptors_refuses_and_goes_on(
    daemon: Daemon,
) -> None:
    if not IS_ROOT or daemon.context.isolation == "thread":
        pytest.skip("needs a worker process whose limits root may change")
    line = daemon.open_line()
    line.send_frame(CALL, call_body(daemon.name("process_id"), pack()))
    worker = read_answer(line).result
    assert isinstance(worker, int)
    highest = max(map(int, os.listdir(f"/proc/{worker}/fd")))
    _, most = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (highest + 3, most))
    sent = Sent(253)
    answer = ask_with(daemon, line, pack(bare(0)), sent.numbers)
    assert answer.error[0] == "MessageTooLarge"
    assert "RLIMIT_NOFILE" in answer.message
    sent.wait_until_closed()
    line.send_frame(CALL, call_body(daemon.name("echo"), pack(1)))
    assert read_answer(line).result == 1
    daemon.check_unharmed()


def test_a_reply_with_descriptors_that_nobody_takes_is_given_up(
    daemon: Daemon,
) -> None:
    line = daemon.open_line()
    line.send_frame(CALL, call_body(daemon.name("return_file"), pack()))
    assert line.receive_frame() == (ATTACH, b"")
    line.send_frame(CALL, call_body(daemon.name("echo"), pack(1)))  # no answer to it
    with pytest.raises((EOFError, ConnectionError)):
        while True:
            assert line.receive_frame()[0] == BYE
    daemon.check_unharmed()


def test_a_reply_with_descriptors_reaches_the_hand_written_client(
    daemon: Daemon,
) -> None:
    line = daemon.open_line()
    line.send_frame(CALL, call_body(daemon.name("return_file"), pack()))
    assert line.receive_frame() == (ATTACH, b"")
    line.send_frame(ATTACH, b"")
    data, descriptors, _, _ = socket.recv_fds(line.channel, 1000, 10)
    assert len(descriptors) == 1
    os.close(descriptors[0])
    assert data[4] == 2
    daemon.check_unharmed()
