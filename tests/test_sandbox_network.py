"""What a sandbox leaves of the network, and of others' processes and sockets."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest
from sandboxes import NEEDS_ABI_6, NEEDS_ROOT, make, refused

import privsep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jail import Jail

__all__ = ["make"]


_IPPROTO_MPTCP = 262


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Listen on a TCP port."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@NEEDS_ROOT  # a user namespace has a network of its own
def test_tcp_ports(make: Callable[..., Jail], server: socket.socket) -> None:
    port = server.getsockname()[1]
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", 0))
        kept = keeper.getsockname()[1]  # nobody else gets it before the jail does
        with socket.create_server(("127.0.0.1", kept)):
            jail = make(network={"connect": [port]})
            jail.connect_tcp(port)
            with refused():
                jail.connect_tcp(kept)
            with refused():
                jail.bind_tcp(0)
        jail = make(network={"bind": [kept], "connect": None})
        jail.bind_tcp(kept)
        jail.connect_tcp(port)
        with refused():
            jail.bind_tcp(0)


@NEEDS_ROOT
def test_no_other_way_to_tcp_leads_around_the_ports(
    make: Callable[..., Jail], server: socket.socket
) -> None:
    try:
        socket.socket(proto=_IPPROTO_MPTCP).close()
    except OSError:
        pytest.skip("this kernel has no Multipath TCP")
    port = server.getsockname()[1]
    free = make(network=True)
    free.connect_tcp(port, _IPPROTO_MPTCP)
    jail = make(network={"connect": [1]})
    with refused():
        jail.connect_tcp(port)
    with pytest.raises(OSError, match="Errno 93"):
        jail.connect_tcp(port, _IPPROTO_MPTCP)
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 1)
    free.connect_by_sending(port)
    with pytest.raises(OSError, match="Errno 95"):
        jail.connect_by_sending(port)


@NEEDS_ROOT
def test_network_false_and_true(
    make: Callable[..., Jail], server: socket.socket
) -> None:
    port = server.getsockname()[1]
    with pytest.raises(OSError, match=r"Errno (1|13|97)\b"):
        make().connect_tcp(port)
    make(network=True).connect_tcp(port)


@NEEDS_ABI_6
@NEEDS_ROOT
def test_signals_do_not_leave_the_sandbox(make: Callable[..., Jail]) -> None:
    jail = make()
    with pytest.raises(PermissionError, match="Errno 1]"):
        jail.send_signal(os.getpid())
    assert jail.signal_own_child() == -signal.SIGKILL
    make(signals=True).send_signal(os.getpid())


@NEEDS_ROOT
def test_limits_of_processes_outside_are_out_of_reach_as_signals_are(
    make: Callable[..., Jail],
) -> None:
    make(signals=True).repeat_limit_of(os.getpid())
    with pytest.raises(PermissionError, match="Errno 1]"):
        make().repeat_limit_of(os.getpid())


@NEEDS_ABI_6
@NEEDS_ROOT
def test_abstract_sockets_of_others_are_out_of_reach(
    make: Callable[..., Jail],
) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("")  # the kernel finds a name
        server.listen()
        address = server.getsockname().decode()
        with pytest.raises(PermissionError, match="Errno 1]"):
            make().connect_unix(address)
        make(abstract_sockets=True).connect_unix(address)


def test_a_deadline_still_kills_a_worker(make: Callable[..., Jail]) -> None:
    jail = make(read=(), write=(), execute=())
    with pytest.raises(privsep.WorkerDied) as died:
        jail.signal_own_worker()
    assert died.value.signal == signal.SIGKILL
