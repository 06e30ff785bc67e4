"""A client written by hand: the raw protocol, and no word of privsep's client.

What crosses is written out here once more, so that a change on the wire is seen.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import socket
import struct
import termios
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import IO, TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import msgpack
import pytest
import target
from conftest import METHOD
from observe import Release, wait_for_rest

from privsep._start import fork, methods, process
from privsep.context import StartOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import privsep

HELLO = b"privsep 1 hello"
REQUEST = b"privsep 1 chan."
HEADER = struct.Struct("!IB")
CALL_HEADER = struct.Struct("!diH")
FATE = struct.Struct("!BiI")
CALL, RET, ERR, LOG, BYE, ATTACH, SEGMENTS = 1, 2, 3, 4, 5, 6, 13
ITEM, END, NEXT, SEND, THROW, CLOSE = 7, 8, 9, 10, 11, 12
SOCKET, FILE, BARE = 32, 33, 34  # what a message claims of descriptors
ENDED, OVERRAN, RUNS_ON, NOT_STARTED, TOO_MANY, NO_WORKER = 1, 2, 3, 4, 5, 6

#: Seconds: what hangs shall not block for ever.  Calls have twice as long, so what
#: goes on at a call's deadline only has hung.
PROMPTLY = 60.0
DEADLINE = 2 * PROMPTLY


def stream_pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.settimeout(PROMPTLY)
    return ours, theirs


class Line:
    """A channel and its fate line; the client's ends, and copies of the others."""

    def __init__(self) -> None:
        self.channel, self.workers = stream_pair()
        self.fate, self.supervisors = stream_pair()

    def let_go(self) -> None:
        """Keep our own ends only, as a good client does."""
        self.workers.close()
        self.supervisors.close()

    def close(self) -> None:
        for sock in (self.channel, self.fate):
            sock.close()
        self.let_go()

    def send_frame(self, kind: int, body: bytes) -> None:
        self.channel.sendall(HEADER.pack(len(body), kind) + body)

    def receive_exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.channel.recv(min(size - len(data), 1 << 20))
            if not more:
                raise EOFError
            data += more
        return data

    def receive_frame(self) -> tuple[int, bytes]:
        """Return kind and body of the next frame; EOFError at the end."""
        length, kind = HEADER.unpack(self.receive_exactly(HEADER.size))
        return kind, self.receive_exactly(length)

    def read_fate(self) -> tuple[int, int, int]:
        """Return ending, status and pid."""
        data = self.fate.recv(FATE.size)
        return FATE.unpack(data)

    def wait_until_closed(self) -> None:
        """Wait until the daemon has closed its ends (ours must be let go)."""
        self.let_go()
        for sock in (self.channel, self.fate):
            try:
                while sock.recv(1 << 16):
                    pass
            except ConnectionError:
                pass


def call_body(
    name: bytes,
    arguments: bytes,
    *,
    timeout: float = DEADLINE,
    level: int = 30,
    name_size: int | None = None,
) -> bytes:
    """Return the body of a CALL; `arguments` are bytes already."""
    size = len(name) if name_size is None else name_size
    return CALL_HEADER.pack(timeout, level, size) + name + arguments


def pack(*args: object, **kwargs: object) -> bytes:
    """Return the arguments of a call as an honest client packs them."""
    return msgpack.packb([list(args), kwargs], unicode_errors="surrogatepass")


class Answer(NamedTuple):
    """An answer to a CALL: a result, or the names of an exception's classes."""

    result: object
    error: list[str]
    message: str
    logged: int


def read_answer(line: Line) -> Answer:
    """Read frames until the answer."""
    logged = 0
    while True:
        kind, body = line.receive_frame()
        if kind == LOG:
            logged += 1
            continue
        value = msgpack.unpackb(
            body,
            strict_map_key=False,
            ext_hook=lambda code, _: ("mark", code),
            unicode_errors="surrogatepass",
        )
        if kind == RET:
            return Answer(value, [], "", logged)
        assert kind == ERR, kind
        bases, arguments, *_ = value
        names = [base[-1] for base in bases]
        return Answer(None, names, str(arguments[-1]), logged)


class Daemon:
    """A daemon whose control socket the test has in its own hands.

    `daemons_end` is a copy of the daemon's own end, which only the starter can
    have kept.
    """

    def __init__(self, context: privsep.Context, method: str) -> None:
        self.context = context
        self.threaded = context.isolation == "thread"
        self._module = context.module
        copies = []
        make_pair = process.control_pair

        def control_pair() -> tuple[socket.socket, socket.socket]:
            ours, daemons = make_pair()
            copies.append(daemons.dup())
            return ours, daemons

        # No pid namespace: the test wants to see the daemon, and the daemon who
        # is who.
        options = StartOptions(
            method=method, namespaces=("net", "mount"), deadline=PROMPTLY
        )
        with (
            mock.patch.object(process, "control_pair", control_pair),
            mock.patch.object(fork, "control_pair", control_pair),
        ):
            launched, _ = methods.launch(context, options)
        self.launched = launched
        self.control = launched.control
        self.control.settimeout(PROMPTLY)
        (self.daemons_end,) = copies
        self.pid: int = launched.process.pid
        self._lines: list[Line] = []
        self._greet()

    # -- what an honest client does --------------------------------------------

    def _greet(self) -> None:
        self.log, daemons_log = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.log.settimeout(PROMPTLY)
        with daemons_log:
            self.send(HELLO, [daemons_log])
        self.ping()
        self._before = self.descriptors()

    def send(
        self, data: bytes, sockets: Sequence[int | socket.socket | IO[Any]]
    ) -> None:
        """Send a datagram on the control socket, with descriptors."""
        numbers = [x if isinstance(x, int) else x.fileno() for x in sockets]
        rights = array.array("i", numbers)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if numbers else []
        self.control.sendmsg([data], ancillary)

    def open_line(self, *, keep: bool = False) -> Line:
        """Ask for a worker; `keep` copies of the daemon's ends."""
        line = Line()
        self.ask_for_worker(line)
        if not keep:
            line.let_go()
        return line

    def ask_for_worker(self, line: Line) -> None:
        """Ask for a worker for a line, on which something may have been sent.

        While others wait, a worker to whom nothing comes for a moment goes again.
        """
        self._lines.append(line)
        self.send(REQUEST, [line.workers, line.supervisors])

    def name(self, function: str) -> bytes:
        return f"{self._module}.{function}".encode()

    def start_call(
        self, function: str, *args: object, timeout: float = DEADLINE
    ) -> Line:
        """Send a CALL on a new line, and read nothing."""
        line = self.open_line()
        body = call_body(self.name(function), pack(*args), timeout=timeout)
        line.send_frame(CALL, body)
        return line

    def call(self, function: str, *args: object) -> object:
        """Make one call on a line of its own; return when its worker has ended."""
        line = self.start_call(function, *args)
        answer = read_answer(line)
        assert not answer.error, answer
        self.finish(line)
        return answer.result

    def finish(self, line: Line) -> None:
        """Close a line, and wait until the daemon has done so."""
        line.let_go()
        line.channel.close()
        while line.fate.recv(4096):
            pass
        line.close()
        self._lines.remove(line)

    def ask(self, body: bytes, kind: int = CALL) -> Answer:
        """Send one frame on a line of its own; return the answer."""
        line = self.open_line()
        line.send_frame(kind, body)
        answer = read_answer(line)
        self.finish(line)
        return answer

    def ping(self) -> None:
        """Make a call, which must succeed promptly."""
        assert self.call("echo", "ping") == "ping"

    # -- what is seen of it from outside ---------------------------------------

    def is_alive(self) -> bool:
        state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"

    def workers(self) -> int:
        """Return how many workers there are: processes, or threads."""
        if self.threaded:
            return len(os.listdir(f"/proc/{self.pid}/task")) - 1
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return len(children.split())

    def wait_for_workers(self, count: int) -> None:
        """Return when there are so many: a thread is told to have ended before it has.

        What goes on at the deadline has too many, or too few.
        """
        end = monotonic() + PROMPTLY
        while self.workers() != count:
            assert monotonic() < end, self.workers()

    def descriptors(self) -> int | None:
        """Return how many descriptors the daemon has open; None if that is hidden.

        Only root sees those of another process that is not dumpable.
        """
        try:
            return len(os.listdir(f"/proc/{self.pid}/fd"))
        except PermissionError:
            if not self.threaded:
                return None
        seen = self.call("open_descriptors")
        return len(seen) if isinstance(seen, list) else None

    def resident(self) -> int:
        """Return the resident memory of daemon and workers, in bytes."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        pids = [self.pid, *map(int, children.split())]
        return 1024 * sum(int(self.status("VmRSS", pid).split()[0]) for pid in pids)

    def status(self, field: str, pid: int | None = None) -> str:
        lines = Path(f"/proc/{pid or self.pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return fields[field].strip()

    def wait_until_gone(self) -> bool:
        """Let go of it; return whether it ends."""
        self.let_go()
        return self.launched.process.wait(PROMPTLY)

    def let_go(self) -> None:
        """Close all by which the test holds the daemon."""
        self.close_lines()
        self.control.close()
        self.daemons_end.close()

    # -- what must hold after everything that a client did ----------------------

    def check_unharmed(self) -> None:
        """Alive, prompt for others, no descriptor more, and no worker left.

        A ping returns when the supervisor has reaped its worker, so each round
        gives the supervisor time for what it still has to do.
        """
        assert self.is_alive()
        self.ping()
        self.close_lines()
        wanted = self._before, 0
        end = monotonic() + PROMPTLY
        seen = None
        while seen != wanted and monotonic() < end:
            self.ping()
            seen = self.descriptors(), self.workers()
        assert seen == wanted

    def check_idle(self) -> None:
        """The daemon comes to rest, whatever is open: nothing wakes its supervisor."""
        wait_for_rest(self.pid)

    def close_lines(self) -> None:
        for line in self._lines:
            line.close()
        self._lines.clear()

    def close(self) -> None:
        """Let go of all that the test held; the daemon must end."""
        ended = self.wait_until_gone()
        self.log.close()
        self.launched.stderr.close()
        if not ended:
            self.launched.process.end(0)
            self.launched.process.wait(PROMPTLY)
        assert ended, "the daemon outlives its client"


def wait_for_end(sock: socket.socket) -> None:
    """Wait until the other end of `sock` is closed by everybody."""
    poll = select.poll()
    poll.register(sock, select.POLLHUP)
    assert poll.poll(PROMPTLY * 1000)


def wait_until_read(line: Line) -> None:
    """Wait until the worker has read all that was sent on the channel."""
    unread = array.array("i", [1])
    while unread[0]:
        fcntl.ioctl(line.channel, termios.TIOCOUTQ, unread)


def bare(place: int) -> msgpack.ExtType:
    """Return the place that a message claims for a descriptor."""
    return msgpack.ExtType(BARE, struct.pack("!H", place))


def send_with(
    line: Line, body: bytes, descriptors: list[int], kind: int = CALL
) -> None:
    """Send a frame, and descriptors along with it."""
    frame = HEADER.pack(len(body), kind) + body
    taken = socket.send_fds(line.channel, [frame], descriptors)
    if taken < len(frame):
        line.channel.sendall(frame[taken:])


@pytest.fixture(params=["processes", "threads"])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """The daemon of each of two contexts in `target`."""
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


def pair_of(held: ExitStack, kind: int) -> tuple[socket.socket, socket.socket]:
    """Return a pair of sockets that is closed at the end of the test."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    held.enter_context(ours)
    held.enter_context(theirs)
    ours.settimeout(PROMPTLY)
    return ours, theirs
