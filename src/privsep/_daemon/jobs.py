"""Jobs: what clients ask workers for, and whose turn it is to get one.

Runs in the supervisor.
"""

from __future__ import annotations

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from privsep._daemon.output import LogLine
    from privsep._wire.descriptors import Credentials

_MOST_WAITING = 256  # of one user by one connection


class Job:
    """What a worker is made for: one channel of one client process."""

    def __init__(
        self,
        channel: socket.socket,
        fate: socket.socket,
        peer: Credentials,
        control: socket.socket,
        log: LogLine | None,
    ) -> None:
        self.channel = channel
        self.fate = fate
        self.peer = peer
        self.uid = peer.uid  #: whose it counts as
        self.control = control  #: by which it was asked for
        self.log = log

    def close(self) -> None:
        """Close the supervisor's descriptors of it."""
        self.channel.close()
        self.fate.close()


class _Connection:
    """What one user asked for by one control socket."""

    def __init__(self) -> None:
        self.running = 0
        self.waiting: dict[Job, None] = {}  #: in the order in which they came


class _User:
    def __init__(self) -> None:
        self.running = 0
        self.waiting = 0
        self.connections: dict[socket.socket, _Connection] = {}  #: in turn


class Queue:
    """The jobs that wait, and how many run.

    First comes the user with the fewest workers, of its connections likewise; among
    those that have as many, whose worker went longest ago.  So each has its turn,
    however many the others ask for, and choosing looks at no job.
    """

    def __init__(self) -> None:
        self._users: dict[int, _User] = {}  #: in turn
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def __iter__(self) -> Iterator[Job]:
        """Go through the jobs that wait."""
        for user in self._users.values():
            for connection in user.connections.values():
                yield from connection.waiting

    def add(self, job: Job) -> bool:
        """Have `job` wait; return False if too many of its user's do."""
        user = self._users.setdefault(job.uid, _User())
        connection = user.connections.setdefault(job.control, _Connection())
        if len(connection.waiting) >= _MOST_WAITING:
            return False
        connection.waiting[job] = None
        user.waiting += 1
        self._waiting += 1
        return True

    def first(self) -> Job:
        """Return the job whose turn it is; there must be one that waits."""
        user = min(
            (user for user in self._users.values() if user.waiting),
            key=lambda user: user.running,
        )
        connection = min(
            (its for its in user.connections.values() if its.waiting),
            key=lambda connection: connection.running,
        )
        return next(iter(connection.waiting))

    def waits(self, job: Job) -> bool:
        """Return whether `job` waits still."""
        return job in self._users[job.uid].connections[job.control].waiting

    def of(self, control: socket.socket) -> list[Job]:
        """Return what waits that was asked for by a control socket."""
        return [
            job
            for user in self._users.values()
            if control in user.connections
            for job in user.connections[control].waiting
        ]

    def remove(self, job: Job) -> None:
        """Have `job` wait no longer."""
        user = self._users[job.uid]
        del user.connections[job.control].waiting[job]
        user.waiting -= 1
        self._waiting -= 1
        self._forget(job)

    def start(self, job: Job) -> None:
        """Have `job`, which waits, be one that runs."""
        user = self._users[job.uid]
        user.running += 1
        user.connections[job.control].running += 1
        self.remove(job)

    def end(self, job: Job) -> None:
        """Have `job` be one that has run: now others have their turn."""
        user = self._users[job.uid] = self._users.pop(job.uid)
        connection = user.connections.pop(job.control)
        user.connections[job.control] = connection
        user.running -= 1
        connection.running -= 1
        self._forget(job)

    def _forget(self, job: Job) -> None:
        """Keep nothing of a connection, or a user, without jobs."""
        user = self._users[job.uid]
        connection = user.connections[job.control]
        if not connection.running and not connection.waiting:
            del user.connections[job.control]
        if not user.connections:
            del self._users[job.uid]
