"""What a client that is taken over sends to its supervisor."""

from __future__ import annotations

import os
import select
import socket
from typing import TYPE_CHECKING

import pytest
from conftest import METHOD
from observe import Forked, daemon_pid, wait_for_end, wait_for_rest

from privsep._wire import descriptors
from privsep._wire.control import HELLO

if TYPE_CHECKING:
    from service import Service

_AF_XDP = 44


def control(service: Service) -> socket.socket:
    client = service.context.client
    assert client is not None
    connection = client.ensure_started()
    return connection._control


def open_log_line(service: Service) -> socket.socket:
    ours, daemons = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with daemons:
        descriptors.send(control(service), HELLO, [daemons.fileno()])
    return ours


def is_closed(sock: socket.socket) -> bool:
    """Return whether the other end is closed: to be asked of a daemon at rest."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def test_a_process_leaves_one_log_line_the_last(plain: Service) -> None:
    plain.echo(1)
    lines = [open_log_line(plain) for _ in range(300)]
    wait_for_rest(daemon_pid())
    closed = [is_closed(line) for line in lines[:-1]]
    last_closed = is_closed(lines[-1])
    plain.echo(1)
    for line in lines:
        line.close()
    assert all(closed)
    assert not last_closed


def test_a_log_line_that_was_written_to_and_closed_keeps_nobody_busy(
    plain: Service,
) -> None:
    plain.echo(1)
    line = open_log_line(plain)
    line.send(b"what nobody reads")
    line.close()
    wait_for_rest(daemon_pid())


@pytest.mark.skipif(METHOD != "fork", reason="needs root, to make such a socket")
def test_a_socket_that_has_no_name_does_not_end_the_daemon(plain: Service) -> None:
    pid = plain.process_id()
    try:
        nameless = socket.socket(_AF_XDP, socket.SOCK_RAW)
    except OSError as error:
        pytest.skip(f"no socket of AF_XDP: {error}")
    with nameless:
        descriptors.send(control(plain), HELLO, [nameless.fileno()])
    assert plain.process_id() == pid
    line = open_log_line(plain)
    wait_for_rest(daemon_pid())
    assert not is_closed(line)
    line.close()


def test_the_daemons_end_waits_once_for_all_that_do_not_read_their_logs(
    plain: Service,
) -> None:
    """A process has one log line, so there is one process for each."""
    receiver, sender = socket.socketpair()
    client = plain.context.client
    assert client is not None

    def leave_full_line() -> None:
        plain.echo(1)
        line = open_log_line(plain)
        client.ensure_started().pool.idle.pop().cancel()
        for _ in range(3):  # a worker begun now prints to the line opened last
            plain.write_output("y\n" * 30_000)
        socket.send_fds(sender, [b"x"], [line.fileno()])

    # One wait is three seconds; so many, one after the other, are beyond WITHIN.
    lines: list[int] = []
    with receiver, sender:
        for _ in range(24):
            assert Forked(leave_full_line).wait() == 0
            lines += socket.recv_fds(receiver, 1, 1)[1]
    daemon = os.pidfd_open(daemon_pid())
    plain.context.stop()
    wait_for_end(daemon)
    for line in lines:
        os.close(line)
