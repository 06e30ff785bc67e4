"""What a client says while its command runs: signals, for that command alone."""

from __future__ import annotations

import math
import os
import signal
import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from commanding import (
    NEVER,
    Fifo,
    Shared,
    daemon_of,
    held,
    own,
    reading,
    said,
    shell,
    valid_arguments,
    wait_until_gone,
)
from procfs import children

import privsep
from privsep._wire.frames import HEADER, Frames, Kind
from privsep.rootwrap import service
from privsep.rootwrap.client import _RUN

if TYPE_CHECKING:
    from collections.abc import Generator

    from privsep._client.pending import PendingCall
    from privsep.rootwrap import Client

__all__ = ["held", "own", "said", "shell"]

_KILLED = -signal.SIGKILL


def _signal(number: int) -> bytes:
    """Return the frame of a signal, of a byte."""
    return HEADER.pack(1, Kind.SIGNAL) + struct.pack("b", number)


def _begin(client: Client, script: str, shell: str = "sh") -> PendingCall:
    """Begin a command of a shell that ends by itself, unless it reads its input."""
    arguments = valid_arguments()
    arguments[0] = [shell.encode(), b"-c", script.encode()]
    arguments[2] = privsep.Fd(os.dup(NEVER))
    return client._client.begin(_RUN, tuple(arguments), math.inf)


@contextmanager
def _running(
    client: Client, said: Fifo, held: Fifo, before: str = ""
) -> Generator[PendingCall]:
    """Run a command that ends with status 7 when the ``with`` does."""
    script = f"{before} echo x > {said.path}; read x < {held.path}; exit 7"
    call = _begin(client, script)
    said.read()
    yield call
    held.write()
    assert call.result() == 7


def _reading(descriptor: int) -> list[tuple[int, int, int]]:
    return [(os.POSIX_SPAWN_DUP2, descriptor, 0)]


def _send(call: PendingCall, data: bytes) -> None:
    call._channel.sock.sendall(data)


def test_a_signal_that_comes_before_the_command_has_started_is_sent(
    own: Shared, shell: str
) -> None:
    call = _begin(own.client, "read x", shell)
    call.signal(struct.pack("b", signal.SIGKILL))
    assert call.result() == _KILLED


def test_a_signal_that_comes_with_the_call_is_sent() -> None:
    """The worker may read both at once."""
    theirs, ours = socket.socketpair()
    frames = Frames(theirs, 100)
    frames.rest = _signal(0) + _signal(signal.SIGKILL)
    pid = os.posix_spawnp("cat", ["cat"], os.environ, file_actions=_reading(NEVER))
    with theirs, ours:
        assert service._attend(pid, frames) == _KILLED


def test_a_signal_may_come_in_pieces(own: Shared, said: Fifo) -> None:
    call = _begin(own.client, f"echo x > {said.path}; read x")
    said.read()
    for byte in _signal(signal.SIGKILL):
        _send(call, bytes([byte]))
    assert call.result() == _KILLED


def test_signals_that_are_none_or_for_nobody_change_nothing(
    own: Shared, said: Fifo, held: Fifo
) -> None:
    with _running(own.client, said, held, "trap '' USR1;") as call:
        for number in (0, 65, 127, -128, -65, signal.SIGUSR1, -signal.SIGUSR1):
            _send(call, _signal(number) * 20)


@pytest.mark.parametrize(
    "said_instead",
    [
        _signal(signal.SIGKILL)[:-1],
        HEADER.pack(2, Kind.SIGNAL) + b"\x09\x09",
        HEADER.pack(0, Kind.SIGNAL) + bytes([signal.SIGKILL]) * 9,
        HEADER.pack(0xFFFFFFFF, Kind.SIGNAL),
        HEADER.pack(1, Kind.SEND) + b"\x09",
        HEADER.pack(1, Kind.CALL) + b"\x09",
        bytes(1000),
        b"\xff" * 1000,
    ],
    ids=["half", "two", "empty", "endless", "SEND", "CALL", "zeros", "ones"],
)
def test_what_is_no_signal_harms_no_command(
    own: Shared, said: Fifo, held: Fifo, said_instead: bytes
) -> None:
    with _running(own.client, said, held) as call:
        _send(call, said_instead)
        if len(said_instead) > len(_signal(0)) - 1:
            _send(call, _signal(signal.SIGKILL))  # which is no frame any more
    call._pool.idle.remove(call._channel)
    call._channel.close()
    assert own.client.execute(["true"]) == (0, "", "")


def test_descriptors_that_come_with_a_signal_are_closed(
    own: Shared, said: Fifo, held: Fifo
) -> None:
    reader, writer = os.pipe()
    with _running(own.client, said, held) as call:
        socket.send_fds(call._channel.sock, [_signal(0)], [writer])
        os.close(writer)
        assert os.read(reader, 1) == b""  # nobody else has it
    os.close(reader)


def test_a_signal_for_no_command_ends_its_worker(own: Shared) -> None:
    """Or it would be the next command's that the client sends there."""
    workers = children(daemon_of(own.client))
    call = _begin(own.client, "exit 0")
    assert call.result() == 0
    _send(call, _signal(signal.SIGKILL))
    for worker in workers:
        wait_until_gone(worker)
    assert own.client.execute(["true"]) == (0, "", "")


def test_a_command_that_was_signalled_shares_its_channel_with_no_other(
    own: Shared, said: Fifo, held: Fifo
) -> None:
    with _running(own.client, said, held, "trap '' USR1;") as call:
        call.signal(struct.pack("b", signal.SIGUSR1))
    with _running(own.client, said, held) as other:
        assert other._channel is not call._channel


def test_a_process_that_has_ended_signals_no_other(
    own: Shared, said: Fifo, held: Fifo
) -> None:
    """Its worker runs the next command."""
    ended = own.client.popen(["true"])
    call = ended._call
    assert call is not None
    assert ended.wait() == 0
    with _running(own.client, said, held) as other:
        assert other._channel is call._channel
        ended.kill()
        ended.terminate()
        ended.kill_group()


def test_a_signal_reaches_its_own_command_alone(own: Shared) -> None:
    with reading(own.client) as other:
        process = own.client.popen(["cat"], stdin=NEVER)
        process.kill()
        assert process.wait() == _KILLED
        assert other.poll() is None


@pytest.mark.parametrize("said_last", [b"", b"x", _signal(0) + b"x" * 10])
def test_a_client_that_has_gone_or_says_other_things_is_listened_to_once(
    monkeypatch: pytest.MonkeyPatch, said_last: bytes
) -> None:
    """The command goes on; the worker does not spin, and keeps no more of it."""
    theirs, ours = socket.socketpair()
    ours.sendall(said_last)
    ours.close()
    reader, writer = os.pipe()
    receive = service._receive

    def receive_once(frames: Frames) -> bool:
        os.close(writer)  # a second time it is none
        return receive(frames)

    monkeypatch.setattr(service, "_receive", receive_once)
    pid = os.posix_spawnp("cat", ["cat"], os.environ, file_actions=_reading(reader))
    with theirs:
        assert service._attend(pid, Frames(theirs, 100)) == 0
    os.close(reader)
