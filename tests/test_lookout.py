"""A caller looks for its reply for a moment, where that pays."""

from __future__ import annotations

import signal
import socket
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from privsep._client.lookout import Lookout
from privsep._wire.frames import Frames, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator


class Line:
    """What a caller looks at, and the other end of it."""

    def __init__(self) -> None:
        near, self.far = socket.socketpair()
        self.frames = Frames(near, 1024)
        self.channels = ["this", "idle"]
        self.lookout = Lookout(self.channels, self.channels[1:])

    def look(self) -> int:
        """Look once; return how many calls are not to look."""
        self.lookout.look(self.frames)
        return self.lookout.skipped

    def answer(self) -> None:
        Frames(self.far, 1024).send(Kind.RET, b"reply")

    def close(self) -> None:
        self.frames.sock.close()
        self.far.close()


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


def test_a_reply_that_is_found_is_received(line: Line) -> None:
    line.answer()
    assert line.look() == 0
    line.far.close()
    assert line.frames.receive() == (Kind.RET, b"reply")
    assert line.frames.receive() is None


def test_who_looks_in_vain_lets_twice_as_many_calls_wait_each_time(line: Line) -> None:
    skipped = [line.look() for _ in range(12)]
    assert skipped == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1024, 1024]


def test_who_finds_a_reply_has_not_looked_in_vain_before(line: Line) -> None:
    assert [line.look(), line.look()] == [2, 4]
    line.answer()
    line.look()
    line.frames.receive()
    assert line.look() == 2


def test_a_reply_that_took_the_callers_own_processor_was_looked_for_in_vain(
    line: Line,
) -> None:
    """Between two looks the worker has run: so it could not while one looked."""

    class Switching(socket.socket):
        looks = 0

        def recv(self, *arguments: int) -> bytes:
            self.looks += 1
            if self.looks == 2:
                begun = monotonic()
                while monotonic() < begun + 20e-6:
                    pass
                line.answer()
            return super().recv(*arguments)

    with Switching(fileno=line.frames.sock.detach()) as switching:
        line.frames = Frames(switching, 1024)
        assert line.look() == 2
        assert line.frames.receive() == (Kind.RET, b"reply")


def test_nobody_looks_beside_another_call(line: Line) -> None:
    line.answer()
    line.channels.append("another")
    assert line.look() == 1024
    assert line.frames.rest == b""


def test_the_end_of_a_channel_is_left_to_the_receiver(line: Line) -> None:
    line.far.close()
    line.look()
    assert line.frames.receive() is None


def test_a_channel_that_is_reset_is_left_to_the_receiver(line: Line) -> None:
    line.frames.send(Kind.CALL, b"unread")
    line.far.close()
    line.look()
    assert line.frames.receive() is None


class _Interrupted(socket.socket):
    """A socket whose recv a signal interrupts."""

    def recv(self, *arguments: int) -> bytes:
        signal.raise_signal(signal.SIGUSR1)
        return super().recv(*arguments)


def test_what_a_signals_handler_raises_gets_through(line: Line) -> None:
    def interrupt(*_: object) -> None:
        raise TimeoutError("mine")

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with _Interrupted(fileno=line.frames.sock.detach()) as interrupted:
            line.frames = Frames(interrupted, 1024)
            with pytest.raises(TimeoutError, match="mine"):
                line.look()
    finally:
        signal.signal(signal.SIGUSR1, before)
