"""Clients: what they may send on a control socket, and who of them is there.

Runs in the supervisor.  A datagram is one of two constants; its descriptors are as
many as belong to it, and each is a connected AF_UNIX socket that the sender made.
Nothing else is looked at.
"""

from __future__ import annotations

from privsep._daemon.jobs import Job
from privsep._daemon.output import LogLine
from privsep._wire import descriptors
from privsep._wire.control import (
    CHANNEL_DESCRIPTORS,
    DATAGRAM_SIZE,
    HELLO,
    LOG_DESCRIPTORS,
    REQUEST,
)

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    import socket
    from typing import Protocol

    from privsep._daemon.loop import Loop
    from privsep._daemon.output import Logs
    from privsep._wire.descriptors import Credentials, Datagram

    class Taker(Protocol):
        """Who is told of what clients do: the supervisor."""

        def add_job(self, job: Job) -> None:
            """Take a request for a worker."""

        def record_refusal(self, client: Credentials | None, reason: str) -> None:
            """Record that something was not taken."""

        def end_of_client(self, control: socket.socket) -> None:
            """Let go of what the client with this control socket still waits for."""

else:
    import _socket as socket  # without enum and selectors: 4 ms

_MOST_LOG_LINES = 256

_KINDS = {
    HELLO: (socket.SOCK_SEQPACKET,) * LOG_DESCRIPTORS,
    REQUEST: (socket.SOCK_STREAM,) * CHANNEL_DESCRIPTORS,
}


class Client:
    """One control socket, which forked children of a client may share."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        #: of who made or connected it
        self.uid = descriptors.peer_credentials(sock).uid
        self.log_lines: dict[int, LogLine] = {}  #: by pid


class Clients:
    """The clients that are there.

    Args:
        shared: the daemon is for whoever may connect.  Else all are one client, with
            its forked children, and what it left behind is served to its end.

    """

    def __init__(self, loop: Loop, logs: Logs, taker: Taker, *, shared: bool) -> None:
        self._loop = loop
        self._logs = logs
        self._taker = taker
        self._shared = shared
        self._clients: list[Client] = []

    def __len__(self) -> int:
        return len(self._clients)

    def count(self, uid: int) -> int:
        """Return how many there are of a user."""
        return sum(client.uid == uid for client in self._clients)

    def add(self, sock: socket.socket) -> None:
        """Serve the client at the other end of the control socket `sock`.

        Raises:
            OSError: it cannot be watched.

        """
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        sock.settimeout(None)  # not socket.setdefaulttimeout()'s
        client = Client(sock)
        self._loop.watch(sock.fileno(), lambda: self._read(client))
        self._clients.append(client)

    def drop_all(self) -> None:
        """Take no new calls; running ones finish."""
        for client in list(self._clients):
            self._drop(client)

    def close_in_worker(self) -> None:
        """Close, in a worker, the control sockets."""
        for client in self._clients:
            client.sock.close()

    def _read(self, client: Client) -> None:
        try:
            datagram = descriptors.receive(
                client.sock, DATAGRAM_SIZE + 1, CHANNEL_DESCRIPTORS, socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)
            return
        if datagram.is_end:
            self._drop(client)
        else:
            self._take(client, datagram)

    def _take(self, client: Client, datagram: Datagram) -> None:
        """Take over the descriptors of a well-formed datagram, else close them."""
        sockets = sockets_of(datagram)
        if not sockets or datagram.sender is None:
            descriptors.close_all(datagram.descriptors)
            self._taker.record_refusal(datagram.sender, "not a request for a worker")
        elif datagram.data == HELLO:
            self._add_log_line(client, datagram.sender, sockets[0])
        else:
            channel, fate = sockets
            log = client.log_lines.get(datagram.sender.pid)
            job = Job(channel, fate, datagram.sender, client.sock, log)
            if self._shared:  # whoever was let in answers for those whom he lets call
                job.uid = client.uid
            self._taker.add_job(job)

    def _add_log_line(
        self, client: Client, sender: Credentials, sock: socket.socket
    ) -> None:
        """Log to `sock` what belongs to the sender, until it closes its end."""
        if len(client.log_lines) >= _MOST_LOG_LINES:
            sock.close()
            return
        previous = client.log_lines.get(sender.pid)
        if previous is not None:
            self._logs.close_line(previous)
        line = LogLine(sock)
        try:
            self._logs.add_line(line, lambda: self._forget_line(client, line))
        except OSError as error:  # fs.epoll.max_user_watches
            sock.close()
            self._taker.record_refusal(sender, f"no log line: {error}")
        else:
            client.log_lines[sender.pid] = line

    @staticmethod
    def _forget_line(client: Client, line: LogLine) -> None:
        for pid in [pid for pid, its in client.log_lines.items() if its is line]:
            del client.log_lines[pid]

    def _drop(self, client: Client) -> None:
        """Let go of a control socket; of a shared daemon's, of all that is with it."""
        self._loop.unwatch(client.sock.fileno())
        self._clients.remove(client)
        if self._shared:
            for line in list(client.log_lines.values()):
                self._logs.close_line(line)
            self._taker.end_of_client(client.sock)
        client.sock.close()


def sockets_of(datagram: Datagram) -> list[socket.socket]:
    """Return its descriptors as sockets, if they are what it must bring; else none."""
    wanted = _KINDS.get(datagram.data)
    sender = datagram.sender
    if (
        wanted is None
        or sender is None
        or datagram.truncated
        or len(datagram.descriptors) != len(wanted)
        or not all(map(_is_socket_of, datagram.descriptors, wanted, [sender] * 2))
    ):
        return []
    sockets = [socket.socket(fileno=fd) for fd in datagram.descriptors]
    for sock in sockets:
        # Not non-blocking, as a client with gevent or eventlet made it, nor with a
        # timeout, as socket.setdefaulttimeout() in the context's module has it.
        sock.settimeout(None)
    return sockets


def _is_socket_of(descriptor: int, kind: int, sender: Credentials) -> bool:
    """Return whether it is a connected AF_UNIX socket of `kind` made by `sender`."""
    try:
        # Not fstat(2) before it: a file system of the client's could refuse or
        # delay the answer (FUSE), and no socket has one behind it.
        # The kind is named, because Python would find it out by getsockname(2),
        # which fails on some sockets; the kernel is asked for it below.
        sock = socket.socket(socket.AF_UNIX, kind, 0, fileno=descriptor)
    except OSError:  # no socket
        return False
    try:
        return (
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_UNIX
            and sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == kind
            and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            and descriptors.peer_credentials(sock) == sender
        )
    finally:
        sock.detach()
