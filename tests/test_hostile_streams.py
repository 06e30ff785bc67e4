"""Whatever a client sends within a stream, the daemon lives and serves the others."""

from __future__ import annotations

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
    CLOSE,
    END,
    ERR,
    HEADER,
    ITEM,
    LOG,
    NEXT,
    OVERRAN,
    RET,
    RUNS_ON,
    SEND,
    THROW,
    Daemon,
    Line,
    call_body,
    pack,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

WINDOW = 16


@pytest.fixture(scope="module", params=["processes", "threads"])
def daemons(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    daemon = Daemon(getattr(target, request.param), METHOD)
    yield daemon
    daemon.close()


@pytest.fixture
def daemon(daemons: Daemon) -> Iterator[Daemon]:
    """A daemon that all rows share, and that each leaves as it was."""
    yield daemons
    daemons.check_unharmed()


def more(count: int) -> bytes:
    return struct.pack("!I", count)


def thrown(name: object, *arguments: object) -> bytes:
    return msgpack.packb([name, list(arguments)])


def begin(daemon: Daemon, function: str = "count_up") -> Line:
    """Begin a stream; return its line when the first item has come."""
    line = daemon.start_call(function)
    kind, _ = line.receive_frame()
    assert kind in (ITEM, ATTACH)
    return line


def error_of(body: bytes) -> tuple[str, str]:
    """Return class and message of what an ERR holds."""
    bases, arguments, *_ = msgpack.unpackb(
        body, strict_map_key=False, ext_hook=lambda code, _: ("mark", code)
    )
    return bases[0][-1], str(arguments[-1])


def frames_until(line: Line, wanted: int) -> tuple[list[int], bytes]:
    """Return the kinds of frames until `wanted`, and its body."""
    kinds: list[int] = []
    while True:
        kind, body = line.receive_frame()
        if kind == wanted:
            return kinds, body
        kinds.append(kind)


WRONG = {
    "NEXT without a number": (NEXT, b""),
    "NEXT with half a number": (NEXT, b"\0\0"),
    "NEXT with two numbers": (NEXT, more(1) * 2),
    "NEXT for no item": (NEXT, more(0)),
    "NEXT beyond the window": (NEXT, more(WINDOW + 2)),
    "NEXT for 4,294,967,295 items": (NEXT, more(2**32 - 1)),
    "SEND where the worker may be ahead": (SEND, b"\xc0"),
    "CLOSE with a body": (CLOSE, b"x"),
    "ATTACH": (ATTACH, b""),
    "ATTACH with a body": (ATTACH, b"x"),
    "a CALL": (CALL, call_body(b"target.echo", pack(1))),
    "ITEM": (ITEM, b"\1"),
    "END": (END, b"\0"),
    "RET": (RET, b"\1"),
    "ERR": (ERR, b"\1"),
    "LOG": (LOG, b"\1"),
    "BYE": (BYE, b""),
    "kind 0": (0, b""),
    "kind 255": (255, b"x" * 100),
    "THROW of nothing": (THROW, b""),
    "THROW of no message": (THROW, b"\xc1"),
    "THROW of a name": (THROW, msgpack.packb("KeyError")),
    "THROW without arguments": (THROW, msgpack.packb(["KeyError"])),
    "THROW of arguments that are none": (THROW, msgpack.packb(["KeyError", "x"])),
    "THROW of a class of a module": (THROW, thrown("target.Level")),
    "THROW of a class that is no exception": (THROW, thrown("open", "/x", "w")),
    "THROW of a group": (THROW, thrown("ExceptionGroup", "x", [])),
    "THROW of a list": (THROW, thrown(["KeyError"])),
    "THROW with too few arguments": (THROW, thrown("UnicodeDecodeError", "x")),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_frame_that_may_not_come_ends_the_stream(daemon: Daemon, wrong: str) -> None:
    line = begin(daemon)
    line.send_frame(*WRONG[wrong])
    kinds, body = frames_until(line, ERR)
    assert kinds == []
    name, message = error_of(body)
    assert name == "Refused"
    assert "that may not come now in a stream" in message
    daemon.finish(line)


def test_credit_does_not_add_up_beyond_the_window(daemon: Daemon) -> None:
    line = begin(daemon, "yield_files")  # it waits for us, who are to be ready
    for _ in range(3):
        line.send_frame(NEXT, more(WINDOW))
    kinds, body = frames_until(line, ERR)
    assert error_of(body)[0] == "Refused"
    assert kinds == []
    daemon.finish(line)


def test_an_answer_that_is_waited_for_has_no_body(daemon: Daemon) -> None:
    line = begin(daemon, "yield_files")
    line.send_frame(ATTACH, b"x")
    assert error_of(frames_until(line, ERR)[1])[0] == "Refused"
    daemon.finish(line)


@pytest.mark.parametrize("function", ["count_up", "yield_files"])
def test_descriptors_that_come_in_a_stream_are_closed(
    daemon: Daemon, function: str
) -> None:
    line = daemon.open_line()
    with open("/dev/null", "rb") as file:
        # A worker that was asked once takes descriptors with each ATTACH.
        line.send_frame(ATTACH, b"")
        assert line.receive_frame() == (ATTACH, b"")
        body = call_body(daemon.name("echo"), pack(1))
        whole = HEADER.pack(len(body), CALL) + body
        socket.send_fds(line.channel, [whole], [file.fileno()])
        assert error_of(frames_until(line, ERR)[1])[0] == "Refused"
        line.send_frame(CALL, call_body(daemon.name(function), pack()))
        assert line.receive_frame()[0] in (ITEM, ATTACH)
        attach = HEADER.pack(0, ATTACH)
        for _ in range(3):
            socket.send_fds(line.channel, [attach], [file.fileno()] * 10)
        kinds, body = frames_until(line, ERR)
    assert error_of(body)[0] == "Refused"
    assert kinds == ([ITEM] if function == "yield_files" else [])
    daemon.finish(line)


def test_two_requests_at_once_are_one_too_many(daemon: Daemon) -> None:
    line = begin(daemon, "yield_files")
    line.send_frame(THROW, thrown("KeyError"))
    line.send_frame(CLOSE, b"")
    assert error_of(frames_until(line, ERR)[1])[0] == "Refused"
    daemon.finish(line)


def test_what_may_be_thrown_is_built_in(daemon: Daemon) -> None:
    for name in ("KeyError", "SystemExit", "KeyboardInterrupt", "Exception"):
        line = begin(daemon)
        line.send_frame(THROW, thrown(name, 1, 2))
        kinds, body = frames_until(line, END)
        assert (kinds, body) == ([THROW], b"\1")
        line.send_frame(CLOSE, b"")
        assert error_of(frames_until(line, ERR)[1])[0] == name
        daemon.finish(line)


def test_after_the_end_only_what_crossed_it_is_taken(daemon: Daemon) -> None:
    line = begin(daemon, "count_to_three")
    line.send_frame(NEXT, more(10))
    assert frames_until(line, END) == ([ITEM, ITEM], b"\0")
    line.send_frame(NEXT, more(1))
    line.send_frame(THROW, thrown("KeyError"))
    line.send_frame(CLOSE, b"")
    assert line.receive_frame()[0] == RET
    line.send_frame(CALL, call_body(daemon.name("echo"), pack(7)))
    assert line.receive_frame() == (RET, b"\7")
    daemon.finish(line)


def test_a_second_close_is_no_call(daemon: Daemon) -> None:
    line = begin(daemon)
    line.send_frame(CLOSE, b"")
    assert frames_until(line, END) == ([], b"\0")
    assert line.receive_frame()[0] == RET
    line.send_frame(CLOSE, b"")
    assert line.receive_frame()[0] == BYE
    line.wait_until_closed()


@pytest.mark.parametrize("kind", [NEXT, SEND, THROW, CLOSE])
def test_a_frame_of_a_stream_is_no_call(daemon: Daemon, kind: int) -> None:
    line = daemon.open_line()
    line.send_frame(kind, b"")
    assert line.receive_frame()[0] == BYE
    line.wait_until_closed()


def test_a_value_that_is_no_message_is_refused(daemon: Daemon) -> None:
    line = begin(daemon, "answer")
    line.send_frame(SEND, b"\xc1")
    assert error_of(frames_until(line, ERR)[1])[0] == "Refused"
    daemon.finish(line)


def test_a_value_has_to_be_waited_for(daemon: Daemon) -> None:
    line = begin(daemon, "answer")
    line.send_frame(SEND, b"\1")
    assert line.receive_frame() == (ITEM, b"\1")
    line.send_frame(NEXT, more(1))
    assert line.receive_frame() == (ITEM, b"\xc0")
    line.channel.sendall(HEADER.pack(4, NEXT) + more(1) + HEADER.pack(1, SEND) + b"\1")
    kinds, body = frames_until(line, ERR)
    assert kinds in ([], [ITEM])  # it may have been read by itself
    assert error_of(body)[0] == "Refused" or kinds == [ITEM]
    daemon.finish(line)


@pytest.mark.parametrize("sent", [b"", b"\0", HEADER.pack(4, NEXT) + b"\0"])
def test_a_consumer_that_stops_is_held_to_the_deadline(
    daemon: Daemon, sent: bytes
) -> None:
    """It asks for nothing, or begins to; within the deadline, so with its CALL."""
    line = daemon.open_line()
    body = call_body(daemon.name("count_up"), pack(), timeout=0.3)
    line.channel.sendall(HEADER.pack(len(body), CALL) + body + sent)
    assert line.read_fate()[0] == (RUNS_ON if daemon.threaded else OVERRAN)
    line.wait_until_closed()


def test_a_consumer_that_never_reads_is_held_to_the_deadline(daemon: Daemon) -> None:
    line = daemon.start_call("yield_much", timeout=0.3)
    assert line.read_fate()[0] == (RUNS_ON if daemon.threaded else OVERRAN)
    line.wait_until_closed()


def test_a_consumer_that_does_not_close_is_held_to_the_deadline(daemon: Daemon) -> None:
    line = daemon.open_line()
    body = call_body(daemon.name("count_up"), pack(), timeout=1.5)
    throw = thrown("KeyError")
    line.channel.sendall(
        HEADER.pack(len(body), CALL) + body + HEADER.pack(len(throw), THROW) + throw
    )
    assert frames_until(line, END) == ([ITEM, THROW], b"\1")
    assert line.read_fate()[0] == (RUNS_ON if daemon.threaded else OVERRAN)
    line.wait_until_closed()


def test_a_request_to_leave_ends_no_other_worker(daemon: Daemon) -> None:
    other = begin(daemon)
    line = begin(daemon)
    line.fate.send(b"LLL")
    line.fate.close()
    line.channel.close()
    other.send_frame(NEXT, more(1))
    assert other.receive_frame() == (ITEM, b"\1")
    other.send_frame(CLOSE, b"")
    assert frames_until(other, RET)[0] == [END]
    daemon.finish(other)
