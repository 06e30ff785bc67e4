"""Whatever segments a client sends, the daemon lives and serves the others."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

import msgpack
import pytest
import target
from conftest import METHOD
from hostile import (
    ATTACH,
    BYE,
    CALL,
    ENDED,
    ERR,
    HEADER,
    RET,
    SEGMENTS,
    Answer,
    Daemon,
    Line,
    bare,
    call_body,
    daemon,
    pack,
    read_answer,
    send_with,
)
from large import MEBIBYTE

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["daemon"]


@pytest.fixture
def limited() -> Iterator[Daemon]:
    daemon = Daemon(target.frugal, METHOD)
    yield daemon
    daemon.close()


DATA = os.urandom(MEBIBYTE)


def segment(place: int, code: int = 40) -> msgpack.ExtType:
    return msgpack.ExtType(code, struct.pack("!I", place))


def announce(line: Line, *lengths: int) -> None:
    line.send_frame(SEGMENTS, struct.pack(f"!{len(lengths)}I", *lengths))


def send_segments(line: Line, *segments: bytes) -> None:
    announce(line, *map(len, segments))
    assert line.receive_frame() == (SEGMENTS, b"")
    line.channel.sendall(b"".join(segments))


def ask_with(line: Line, name: bytes, arguments: bytes, *segments: bytes) -> Answer:
    send_segments(line, *segments)
    line.send_frame(CALL, call_body(name, arguments))
    return read_answer(line)


def test_the_hand_written_client_is_understood(daemon: Daemon) -> None:
    line = daemon.open_line()
    name = daemon.name("echo")
    body = call_body(name, pack([segment(1, 41), "x", segment(0)]))
    send_segments(line, DATA, b"little")
    line.send_frame(CALL, body)
    assert line.receive_frame() == (SEGMENTS, struct.pack("!I", MEBIBYTE))
    line.send_frame(SEGMENTS, b"")
    assert line.receive_exactly(MEBIBYTE) == DATA
    kind, body = line.receive_frame()
    assert kind == RET
    assert msgpack.unpackb(body) == [msgpack.ExtType(18, b"little"), "x", segment(0)]
    line.send_frame(CALL, call_body(name, pack("next")))
    assert read_answer(line).result == "next"
    daemon.check_unharmed()


@pytest.mark.parametrize(
    "arguments",
    [
        pack(),
        pack("no segment"),
        pack(segment(0)),
        pack(segment(0), segment(0)),
        pack(segment(0), segment(0), segment(1)),
        pack(segment(0), segment(2)),
        pack(segment(2**32 - 1)),
        pack(msgpack.ExtType(40, b"")),
        pack(msgpack.ExtType(40, b"\0\0\0\0\0")),
        pack(segment(0), segment(1), bare(0)),
        pack(segment(0), segment(1))[:-1],
        b"\xc1",
        b"",
    ],
    ids=repr,
)
def test_a_message_that_does_not_fit_its_segments_is_refused(
    daemon: Daemon, arguments: bytes
) -> None:
    line = daemon.open_line()
    name = daemon.name("echo")
    answer = ask_with(line, name, arguments, b"first", DATA)
    assert answer.error[0] == "Refused"
    line.send_frame(CALL, call_body(name, pack("still there")))
    assert read_answer(line).result == "still there"
    daemon.check_unharmed()


def test_segments_for_a_name_that_is_no_entrypoint_are_let_go(daemon: Daemon) -> None:
    line = daemon.start_call("echo", "ready")
    assert read_answer(line).result == "ready"
    before = daemon.resident()
    answer = ask_with(line, b"os.close", pack(segment(0)), bytes(128 * MEBIBYTE))
    assert answer.error[0] == "Refused"
    assert daemon.resident() - before < 64 * MEBIBYTE
    daemon.check_unharmed()


@pytest.mark.parametrize(
    "announced",
    [b"", b"\0\0\0", bytes(5), bytes(4 * 2049)],
    ids=["none", "odd", "odd beyond one", "too many"],
)
def test_an_announcement_that_is_none_ends_the_channel(
    daemon: Daemon, announced: bytes
) -> None:
    line = daemon.open_line()
    line.send_frame(SEGMENTS, announced)
    assert line.receive_frame()[0] == BYE
    daemon.check_unharmed()


def test_segments_that_come_unasked_end_the_channel(daemon: Daemon) -> None:
    line = daemon.open_line()
    lengths = struct.pack("!I", 4)
    line.channel.sendall(HEADER.pack(len(lengths), SEGMENTS) + lengths + b"data")
    assert line.receive_frame()[0] == BYE
    daemon.check_unharmed()


@pytest.mark.parametrize("kind", [RET, ERR, BYE, SEGMENTS, 255])
def test_segments_with_a_frame_of_another_kind_end_the_channel(
    daemon: Daemon, kind: int
) -> None:
    line = daemon.open_line()
    send_segments(line, DATA)
    line.send_frame(kind, b"")
    assert line.receive_frame()[0] == BYE
    daemon.check_unharmed()


def test_segments_over_the_limit_are_declined_before_they_come(
    limited: Daemon,
) -> None:
    line = limited.open_line()
    most = limited.context.max_message
    for lengths in ([most + 1], [2**32 - 1] * 2048, [1, most]):
        announce(line, *lengths)
        assert read_answer(line).error[0] == "MessageTooLarge"
    answer = ask_with(line, limited.name("count_arguments"), pack(segment(0)), b"x")
    assert answer.result == 1
    limited.check_unharmed()


@pytest.mark.parametrize("rest", [1, 10_000])
def test_segments_and_their_frame_are_counted_together(
    limited: Daemon, rest: int
) -> None:
    line = limited.open_line()
    name = limited.name("count_arguments")
    body = call_body(name, pack(segment(0), "x" * rest))
    fits = bytes(limited.context.max_message - len(body))
    for data, error in ((fits + b"x", ["MessageTooLarge"]), (fits, [])):
        send_segments(line, data)
        line.send_frame(CALL, body)
        assert read_answer(line).error[:1] == error
    limited.check_unharmed()


def test_announced_segments_take_no_memory_before_their_bytes_come(
    daemon: Daemon,
) -> None:
    lines = [daemon.start_call("echo", "ready") for _ in range(4)]
    assert [read_answer(line).result for line in lines] == ["ready"] * 4
    before = daemon.resident()
    for line in lines:
        announce(line, 2**27, 2**27)
        assert line.receive_frame() == (SEGMENTS, b"")
        line.channel.sendall(b"x" * 1000)
    assert daemon.resident() - before < 64 * MEBIBYTE
    daemon.check_unharmed()


def test_an_announcement_or_half_a_segment_and_silence_holds_nobody_up(
    daemon: Daemon,
) -> None:
    for size in (0, MEBIBYTE - 1) * 4:  # twice as many as there are workers
        line = daemon.open_line()
        announce(line, MEBIBYTE)
        if line.receive_frame()[0] == SEGMENTS:  # else BYE: the others wait
            line.channel.sendall(bytes(size))
    daemon.check_unharmed()


def test_segments_that_come_in_small_pieces_arrive(daemon: Daemon) -> None:
    # A read ends where descriptors are, however much it was to wait for.
    line = daemon.open_line()
    announce(line, 400, 3)
    assert line.receive_frame() == (SEGMENTS, b"")
    for _ in range(400):
        socket.send_fds(line.channel, [b"x"], [line.fate.fileno()])
    for byte in b"end":
        line.channel.sendall(bytes([byte]))
    arguments = pack([segment(0), segment(1)])
    line.send_frame(CALL, call_body(daemon.name("echo"), arguments))
    assert read_answer(line).result == [b"x" * 400, b"end"]
    daemon.check_unharmed()


def test_segments_and_descriptors_come_in_this_order_only(daemon: Daemon) -> None:
    line = daemon.open_line()
    send_segments(line, b"data")
    line.send_frame(ATTACH, b"")
    assert line.receive_frame() == (ATTACH, b"")
    arguments = pack(segment(0), bare(0))
    body = call_body(daemon.name("count_arguments"), arguments)
    send_with(line, body, [line.fate.fileno()])
    assert read_answer(line).result == 2
    line.send_frame(ATTACH, b"")
    assert line.receive_frame() == (ATTACH, b"")
    announce(line, 4)
    assert line.receive_frame()[0] == BYE
    daemon.check_unharmed()


@pytest.mark.parametrize("kind", [CALL, ERR, SEGMENTS])
def test_a_large_reply_that_nobody_takes_is_given_up(daemon: Daemon, kind: int) -> None:
    line = daemon.open_line()
    line.send_frame(CALL, call_body(daemon.name("make_bytes"), pack(MEBIBYTE)))
    assert line.receive_frame() == (SEGMENTS, struct.pack("!I", MEBIBYTE))
    line.send_frame(kind, b"no answer to it")
    ending, status, _ = line.read_fate()
    assert (ending, status) == (ENDED, 0)
    with pytest.raises((EOFError, ConnectionError)):
        while True:
            assert line.receive_frame()[0] == BYE
    daemon.check_unharmed()
