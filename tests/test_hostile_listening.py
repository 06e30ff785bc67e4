"""Whoever connects to a daemon that listens, others are served all the same."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import struct
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
import target
from forks import Child
from hostile import (
    HELLO,
    NOT_STARTED,
    PROMPTLY,
    REQUEST,
    TOO_MANY,
    Line,
    held,
    read_answer,
)
from listening import Manager, Peer, connect, greeting, manage, public_path
from observe import Release, wait_for_end, wait_for_rest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    import privsep

__all__ = ["held", "manage", "public_path"]

LET_IN = range(4_000_000_001, 4_000_000_010)  # uids that nobody has
NOT_LET_IN = 4_000_000_011
ADMISSION = f"users = {[*LET_IN]}"
MOST_OF_A_USER = 128
MOST = 1024


@contextmanager
def acting_as(uid: int) -> Generator[None]:
    """Connect and send, within, as this user."""
    os.setresuid(uid, uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture(params=["processes", "threads"])
def manager(manage: Callable[..., Manager], request: pytest.FixtureRequest) -> Manager:
    return manage(f"target:{request.param}", ADMISSION)


def context_of(manager: Manager) -> privsep.Context:
    context: privsep.Context = getattr(target, manager.variable.partition(":")[2])
    return context


@pytest.fixture
def join(held: ExitStack) -> Callable[[Manager], Peer]:
    """Return a function that connects a client of root's."""

    def let_in(manager: Manager) -> Peer:
        peer = Peer(manager, context_of(manager))
        held.callback(peer.close)
        return peer

    return let_in


def crowd(manager: Manager, held: ExitStack, uid: int, count: int) -> list[str]:
    """Connect as a user so often; return what the daemon says to each."""
    said = []
    with acting_as(uid):
        for _ in range(count):
            sock = held.enter_context(connect(manager.path))
            said.append(greeting(sock))
    return said


def wait_until_taken(peer: Peer) -> None:
    """Return when the daemon has taken, and queues, what the peer asked for."""
    line = peer.open_line()
    line.fate.send(b"x")
    assert line.read_fate()[0] == NOT_STARTED


def answered(socks: list[socket.socket]) -> int:
    """Return to how many of these connections the daemon has said something."""
    poll = select.poll()
    for sock in socks:
        poll.register(sock, select.POLLIN)
    return len(poll.poll(0))


def test_the_hand_written_client_is_understood(
    manager: Manager, join: Callable[[Manager], Peer]
) -> None:
    peer = join(manager)
    assert peer.call("echo", [1, "two", b"three"]) == [1, "two", b"three"]
    peer.check_unharmed()


def test_whoever_connects_and_says_nothing_keeps_nobody_and_wakes_nobody(
    manager: Manager, join: Callable[[Manager], Peer], held: ExitStack
) -> None:
    peer = join(manager)
    silent = [connect(manager.path) for _ in range(50)]  # they do not even listen
    for sock in silent:
        held.enter_context(sock)
    peer.ping()
    wait_for_rest(manager.pid)
    for sock in silent:
        sock.close()
    peer.check_unharmed()


def test_a_user_has_so_many_connections_and_no_more(
    manager: Manager, join: Callable[[Manager], Peer], held: ExitStack
) -> None:
    first, second, *_ = LET_IN
    with ExitStack() as crowded:
        said = crowd(manager, crowded, first, MOST_OF_A_USER)
        assert set(said) == {"ready"}
        refused = crowd(manager, crowded, first, 3)
        assert refused == [f"uid {first} has {MOST_OF_A_USER} connections already"] * 3
        assert crowd(manager, crowded, second, 1) == ["ready"]
        peer = join(manager)
        peer.ping()
    while (said := crowd(manager, held, first, 1)) != ["ready"]:
        assert "connections already" in said[0]  # some are not yet seen to have closed


def test_a_daemon_has_so_many_connections_and_whoever_comes_next_waits(
    manage: Callable[..., Manager], held: ExitStack
) -> None:
    manager = manage("target:processes", ADMISSION)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * MOST), hard))
    held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
    with ExitStack() as crowded:
        for uid in LET_IN[:8]:
            said = crowd(manager, crowded, uid, MOST_OF_A_USER)
            assert set(said) == {"ready"}
        next_one = held.enter_context(connect(manager.path))
        wait_for_rest(manager.pid)
        assert not answered([next_one])
    assert greeting(next_one) == "ready"


def test_who_is_not_let_in_leaves_nothing_behind(
    manager: Manager, join: Callable[[Manager], Peer]
) -> None:
    peer = join(manager)

    def knock() -> set[str]:
        os.setresuid(NOT_LET_IN, NOT_LET_IN, NOT_LET_IN)
        said = set()
        for _ in range(100):
            with ExitStack() as mine:
                sock = mine.enter_context(connect(manager.path))
                line = Line()
                mine.callback(line.close)
                # It may be there before it is accepted, or come too late.
                for data, ends in (
                    (HELLO, [sock]),
                    (REQUEST, [line.workers, line.supervisors]),
                ):
                    numbers = [end.fileno() for end in ends]
                    try:
                        socket.send_fds(sock, [data], numbers)
                    except (BrokenPipeError, ConnectionResetError):
                        break
                line.let_go()
                try:
                    said.add(greeting(sock))
                except ConnectionResetError:  # it is told once, before what was said
                    said.add(greeting(sock))
                line.wait_until_closed()
        return said

    said = Child(knock).result()
    assert said.startswith(f"""{{"uid {NOT_LET_IN}, gid 0 may not connect: root's""")
    assert said.count("may not connect") == 1
    peer.check_unharmed()


@pytest.mark.parametrize("data", [b"", b"x", REQUEST, HELLO, REQUEST * 100])
def test_another_datagram_is_dropped_and_the_connection_goes_on(
    manager: Manager, join: Callable[[Manager], Peer], data: bytes
) -> None:
    peer = join(manager)
    other = join(manager)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        other.send(data, [theirs] * 3)
        other.ping()
    other.close()
    peer.check_unharmed()


def test_what_a_connection_waits_for_ends_with_it(
    manager: Manager, join: Callable[[Manager], Peer], held: ExitStack, tmp_path: Path
) -> None:
    peer = join(manager)
    leaver = join(manager)
    release = held.enter_context(Release(tmp_path))
    busy = [leaver.start_call("wait_for_end", release.path) for _ in range(4)]
    waiting = [leaver.open_line() for _ in range(256)]
    line = leaver.open_line()
    assert line.read_fate()[0] == TOO_MANY
    leaver.control.close()
    assert {line.read_fate()[0] for line in waiting} == {NOT_STARTED}
    release.let_go()  # what runs is finished
    for line in busy:
        assert not read_answer(line).error
    leaver.close()
    peer.check_unharmed()


def test_the_waiting_of_one_connection_do_not_count_for_another_of_its_user(
    manager: Manager, join: Callable[[Manager], Peer], held: ExitStack, tmp_path: Path
) -> None:
    greedy, modest = join(manager), join(manager)
    release = held.enter_context(Release(tmp_path))
    for _ in range(4):
        greedy.start_call("wait_for_end", release.path)
    for _ in range(256):
        greedy.open_line()
    assert greedy.open_line().read_fate()[0] == TOO_MANY
    wait_until_taken(modest)


def test_the_next_worker_is_for_the_connection_that_has_fewest(
    manager: Manager, join: Callable[[Manager], Peer], held: ExitStack, tmp_path: Path
) -> None:
    greedy, modest = join(manager), join(manager)
    soon, late = Release(tmp_path, "soon"), Release(tmp_path, "late")
    held.enter_context(soon)
    held.enter_context(late)
    for release in (soon, late, late, late, late, late, late):
        greedy.start_call("wait_for_end", release.path)
    wait_until_taken(greedy)
    line = modest.start_call("echo", "modest")
    soon.let_go()
    assert read_answer(line).result == "modest"


@pytest.mark.parametrize("uid", [LET_IN[0], LET_IN[1]], ids=["one user", "two users"])
def test_whoever_was_served_waits_until_others_were(
    manager: Manager,
    join: Callable[[Manager], Peer],
    held: ExitStack,
    tmp_path: Path,
    uid: int,
) -> None:
    """However many the one asked for before: neither has a worker by then."""
    occupant = join(manager)
    with acting_as(LET_IN[0]):
        greedy = join(manager)
    with acting_as(uid):
        modest = join(manager)
    soon, late = Release(tmp_path, "soon"), Release(tmp_path, "late")
    held.enter_context(soon)
    held.enter_context(late)
    for _ in range(3):
        occupant.start_call("wait_for_end", late.path)
    occupant.ping()
    with acting_as(LET_IN[0]):
        for release in (soon, *[late] * 100):
            greedy.start_call("wait_for_end", release.path)
        wait_until_taken(greedy)
    with acting_as(uid):
        line = modest.start_call("echo", "modest")
        wait_until_taken(modest)
    soon.let_go()
    assert read_answer(line).result == "modest"


def test_whoever_is_handed_a_connection_counts_as_the_user_that_made_it(
    manager: Manager, join: Callable[[Manager], Peer], held: ExitStack, tmp_path: Path
) -> None:
    """Or a user with many uids (subuid(5)) had a share of the workers for each."""
    first, *accomplices = LET_IN[:3]
    with acting_as(first):
        greedy = join(manager)
    modest = join(manager)
    soon, late = Release(tmp_path, "soon"), Release(tmp_path, "late")
    held.enter_context(soon)
    held.enter_context(late)
    modest.start_call("wait_for_end", late.path)
    with acting_as(first):
        for release in (soon, late, late):
            greedy.start_call("wait_for_end", release.path)
        wait_until_taken(greedy)
    for uid in accomplices:
        with acting_as(uid):
            for _ in range(150):
                greedy.open_line()
    assert greedy.open_line().read_fate()[0] == TOO_MANY
    line = modest.start_call("echo", "modest")
    wait_until_taken(modest)
    soon.let_go()
    assert read_answer(line).result == "modest"


def test_the_log_lines_of_a_connection_end_with_it(
    manager: Manager, join: Callable[[Manager], Peer], held: ExitStack
) -> None:
    peer = join(manager)
    for _ in range(3):
        leaver = join(manager)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        held.enter_context(ours)
        ours.settimeout(PROMPTLY)
        with theirs:
            leaver.send(HELLO, [theirs])
        leaver.ping()
        leaver.control.close()
        assert not ours.recv(1)
        leaver.close()
    peer.check_unharmed()


def test_a_daemon_without_descriptors_comes_to_rest_and_goes_on_when_it_has_some(
    manage: Callable[..., Manager], held: ExitStack
) -> None:
    before = ["prlimit", "--nofile=48:48"]
    manager = manage("target:processes", ADMISSION, before=before)
    limits = resource.prlimit(manager.pid, resource.RLIMIT_NOFILE, (5, 48))
    with connect(manager.path) as first:  # there is nothing that could be let go
        wait_for_rest(manager.pid)
        assert not answered([first])
        resource.prlimit(manager.pid, resource.RLIMIT_NOFILE, limits)
        assert greeting(first) == "ready"
    with ExitStack() as crowded:
        socks = [crowded.enter_context(connect(manager.path)) for _ in range(60)]
        wait_for_rest(manager.pid)
        assert 0 < answered(socks) < len(socks)
    peer = Peer(manager, target.processes)
    held.callback(peer.close)
    peer.ping()


def test_a_peer_that_shuts_its_connection_down_is_let_go(
    manager: Manager, join: Callable[[Manager], Peer]
) -> None:
    peer = join(manager)
    for how in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
        with connect(manager.path) as sock:
            sock.shutdown(how)
            peer.ping()
    peer.check_unharmed()


def test_the_unit_of_who_has_ended_lets_nobody_in(
    manage: Callable[..., Manager], held: ExitStack, public_path: Path
) -> None:
    """Its number, and so its cgroup, could be another's by the time it is looked up."""
    ours, theirs = socket.socketpair()
    held.enter_context(ours)

    def connect_and_end() -> None:
        ours.close()
        os.setresuid(NOT_LET_IN, NOT_LET_IN, NOT_LET_IN)
        with connect(theirs.recv(4096).decode()) as sock:
            socket.send_fds(theirs, [b"x"], [sock.fileno()])

    child = Child(connect_and_end)
    theirs.close()
    cgroup = public_path / "cgroup"
    cgroup.write_text("0::/my.service\n")
    mounts = {f"/proc/{child.pid}/cgroup": cgroup}
    manager = manage("target:processes", 'units = ["my.service"]', mounts=mounts)
    manager.send_signal(signal.SIGSTOP)
    ours.send(manager.path.encode())
    _, (number,), _, _ = socket.recv_fds(ours, 1, 1)
    wait_for_end(os.pidfd_open(child.pid))  # a zombie, whose cgroup can still be read
    manager.send_signal(signal.SIGCONT)
    with socket.socket(fileno=number) as sock:
        sock.settimeout(PROMPTLY)
        assert "its unit cannot be told: it has ended" in greeting(sock)
    child.result()


class Lingering:
    """TCP sockets whose last close waits: SO_LINGER of socket(7), and unsent data.

    Ours must not be the last; so the daemon stands still until we have closed them.
    """

    def __init__(self, count: int) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=count)
        address = self._server.getsockname()
        self.socks = [socket.create_connection(address) for _ in range(count)]
        self._peers = [self._server.accept()[0] for _ in range(count)]
        for sock in self.socks:
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600)
            )
            sock.setblocking(False)
            try:
                while True:
                    sock.send(bytes(1 << 20))
            except BlockingIOError:  # its reader has as much as it takes
                pass

    def let_go(self) -> None:
        """Close them, while others have copies: that does not wait."""
        for sock in self.socks:
            sock.close()

    def close(self) -> None:
        for sock in (*self._peers, self._server, *self.socks):
            sock.close()


@pytest.mark.parametrize(
    "count", [1, 2, 9], ids=["too few", "of another kind", "too many"]
)
def test_a_descriptor_whose_close_waits_keeps_nobody(
    manager: Manager, join: Callable[[Manager], Peer], held: ExitStack, count: int
) -> None:
    peer, other = join(manager), join(manager)
    lingering = Lingering(count)
    held.callback(lingering.close)
    manager.send_signal(signal.SIGSTOP)
    other.send(REQUEST, lingering.socks)
    lingering.let_go()
    manager.send_signal(signal.SIGCONT)
    peer.ping()
    other.close()


@pytest.mark.parametrize("uid", [LET_IN[0], NOT_LET_IN])
def test_a_descriptor_whose_close_waits_keeps_nobody_where_it_is_not_even_received(
    manager: Manager, join: Callable[[Manager], Peer], held: ExitStack, uid: int
) -> None:
    peer = join(manager)
    lingering = Lingering(2)
    held.callback(lingering.close)
    line = Line()
    held.callback(line.close)
    # On a connection, and on a channel that no worker is to have.
    socket.send_fds(line.channel, [b"x"], [lingering.socks[0].fileno()])
    manager.send_signal(signal.SIGSTOP)
    with acting_as(uid), connect(manager.path) as sock:
        socket.send_fds(sock, [b"x"], [lingering.socks[1].fileno()])
        socket.send_fds(sock, [REQUEST], [line.workers.fileno()])
    line.let_go()
    lingering.let_go()
    manager.send_signal(signal.SIGCONT)
    peer.ping()
