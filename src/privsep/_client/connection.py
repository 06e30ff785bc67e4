"""A client's hold on one daemon: control socket, pool, log reader, process.

Runs in the client.  A forked child shares the control socket, on which nothing is
read; it has its own pool and its own log line.
"""

from __future__ import annotations

import errno
import selectors
import socket
import threading
from time import monotonic
from typing import TYPE_CHECKING

from privsep._client import forking
from privsep._client.channel import Channel
from privsep._client.logs import LogReader
from privsep._client.pool import Pool
from privsep._client.readiness import wait_until
from privsep._wire import descriptors
from privsep._wire.control import HELLO, REQUEST
from privsep.errors import CallTimeout

if TYPE_CHECKING:
    from privsep._start.process import ChildProcess, Launched, Reached
    from privsep.context import Context


_LONGEST_WAIT = 3600.0  # seconds at a time: a selector takes no infinity


class Connection:
    """Open channels to the daemon of `context`, once it is there.

    Attributes:
        method: how it was started.

    """

    method: str
    _control: socket.socket
    _process: ChildProcess | None

    def __init__(self, context: Context) -> None:
        self._context = context
        self._begin()

    def _begin(self) -> None:
        self.pool = Pool(self._context.workers, self._open_channel)
        self._logs = LogReader(self._context, self._reap)
        self._introduced = False
        self._introducing = threading.Lock()

    def use(self, launched: Launched | Reached, method: str) -> None:
        """Use a daemon that is ready; one that was only reached outlives this."""
        self.method = method
        self._control = launched.control
        self._process = launched.process
        self._logs.use(launched.stderr, launched.said)

    def share(self) -> None:
        """Have forked children share the daemon from now on."""
        forking.share(self._control)

    def _introduce(self, deadline: float) -> None:
        """Say HELLO, unless that is said; who waits for room does not hold the lock.

        Raises:
            ConnectionError: the daemon is gone.
            BlockingIOError: there is no room, or another thread says it at `deadline`.

        """
        left = min(max(deadline - monotonic(), 0.0), _LONGEST_WAIT)
        if not self._introducing.acquire(timeout=left):
            raise BlockingIOError
        try:
            if not self._introduced:
                daemon_end = self._logs.open_line()
                try:
                    self._send(HELLO, [daemon_end.fileno()])
                finally:
                    forking.close(daemon_end)
                self._introduced = True
        finally:
            self._introducing.release()

    def _send(self, data: bytes, ends: list[int]) -> None:
        """Send one datagram.

        Raises:
            ConnectionError: the daemon is gone.
            BlockingIOError: there is no room: it is stopped, or very busy.

        """
        try:
            descriptors.send(self._control, data, ends, socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            raise ConnectionError(*error.args) from None  # another thread let go

    def duplicate_control(self) -> socket.socket:
        """Return a control socket for a task, to wait by: a loop has one task for each.

        Raises:
            ConnectionError: another thread let go of the daemon.
            OSError: no descriptors.

        """
        try:
            return forking.duplicate(self._control)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            raise ConnectionError(*error.args) from None

    def _wait_for_room(self, deadline: float) -> None:
        """Return when the control socket may take a datagram again, or soon after."""
        left = min(deadline - monotonic(), _LONGEST_WAIT)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._control, selectors.EVENT_WRITE)
                ready = wait_until(selector, monotonic() + left)
        except ValueError as error:
            raise ConnectionError(*error.args) from None  # another thread let go
        if left <= 0 or (not ready and left < _LONGEST_WAIT):
            msg = (
                f"the daemon of context {self._context.name!r} took no request in time"
            )
            raise CallTimeout(msg)

    def _open_channel(self, deadline: float) -> Channel:
        """Ask, until `deadline`, for a worker; its channel can be written to at once.

        Raises:
            CallTimeout: the daemon did not take the request.
            ConnectionError: the daemon is gone.
            OSError: no descriptors.

        """
        while True:
            try:
                return self._try_to_open_channel(deadline)
            except BlockingIOError:
                self._wait_for_room(deadline)

    def _try_to_open_channel(self, deadline: float) -> Channel:
        if not self._introduced:
            self._introduce(deadline)
        ours, workers = forking.socket_pair()
        fate, supervisors = forking.socket_pair()
        try:
            self._send(REQUEST, [workers.fileno(), supervisors.fileno()])
        except BaseException:
            forking.close(ours, fate)
            raise
        finally:
            forking.close(workers, supervisors)
        return Channel(ours, fate, self._context, self._logs.start)

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait(1.0)  # its sockets close before it can be reaped

    def let_go(self) -> None:
        """Let go of the daemon, which ends after its calls if nobody else has it."""
        self._control.close()

    def close(self, timeout: float) -> None:
        """Let go of the daemon and wait until it has ended, `timeout` at most."""
        deadline = monotonic() + timeout
        self.let_go()
        self.pool.close()
        ended = self._process is None or self._process.wait(timeout)
        if ended:
            self._logs.join(max(0.0, deadline - monotonic()))
        else:
            self._logs.start()  # it reaps the daemon when that has ended

    def after_fork_in_child(self) -> None:
        """Leave the parent's calls, logs and child process to the parent."""
        self._logs.leave()
        self._process = None
        self._begin()
