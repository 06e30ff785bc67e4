"""Whatever becomes of a line's ends, the daemon serves the others, and rests."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hostile import (
    CALL,
    ENDED,
    HEADER,
    HELLO,
    NOT_STARTED,
    OVERRAN,
    RUNS_ON,
    Daemon,
    Line,
    call_body,
    daemon,
    open_daemon,
    pack,
    read_answer,
    release,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from observe import Release

__all__ = ["daemon", "open_daemon", "release"]


# -- played with from outside ---------------------------------------------------


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
    idle, in_reply = Line(), Line()
    body = call_body(daemon.name("make_bytes"), pack(10_000_000))
    in_reply.send_frame(CALL, body)  # later there may be nobody to send it to
    for line in (idle, in_reply):
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            timer = struct.pack("@ll", 0, 1000)
            line.workers.setsockopt(socket.SOL_SOCKET, option, timer)
        daemon.ask_for_worker(line)
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


# -- never read -----------------------------------------------------------------


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


@pytest.mark.parametrize("how", ["RD", "WR", "RDWR"])
@pytest.mark.parametrize("whose", ["ours", "the daemon's"])
@pytest.mark.parametrize("which", ["control", "log", "channel", "fate", "waiting fate"])
def test_no_descriptor_that_is_shut_down_keeps_the_daemon_busy(
    daemon: Daemon, release: Release, which: str, whose: str, how: str
) -> None:
    """A client has all of them: of the daemon's ends it may have kept copies."""
    log, daemons_log = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with log, daemons_log:
        daemon.send(HELLO, [daemons_log])
        lines = [Line() for _ in range(5)]  # one more than workers
        body = call_body(daemon.name("print_at_end"), pack(release.path))
        for each in lines:
            each.send_frame(CALL, body)
            daemon.ask_for_worker(each)
        line, waiting = lines[0], lines[-1]
        pair = {
            "control": (daemon.control, daemon.daemons_end),
            "log": (log, daemons_log),
            "channel": (line.channel, line.workers),
            "fate": (line.fate, line.supervisors),
            "waiting fate": (waiting.fate, waiting.supervisors),
        }[which]
        pair[whose != "ours"].shutdown(getattr(socket, f"SHUT_{how}"))
        daemon.check_idle()
        release.let_go()
        daemon.check_idle()
