"""A daemon's process as its starter sees it, and the sockets between them.

Runs in the client.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import threading
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from privsep._client import forking
from privsep._client.readiness import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class ChildProcess:
    """A child of this process: the daemon, or the helper in front of it.

    Any thread may wait for it; the first that sees the end reaps it.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._lock = threading.Lock()
        self._reaped = False
        self.status: int | None = None  #: exit code, or minus the signal

    def wait(self, timeout: float) -> bool:
        """Wait for its end, `timeout` seconds at most; return whether it came."""
        deadline = monotonic() + timeout
        with self._lock:
            if self._reaped:
                return True
            pidfd = os.dup(self._pidfd)
        try:
            # Not select.poll(), which eventlet takes away.
            with selectors.DefaultSelector() as selector:
                selector.register(pidfd, selectors.EVENT_READ)
                if not wait_until(selector, deadline):
                    return False
        finally:
            os.close(pidfd)
        with self._lock:
            if not self._reaped:
                self._reap()
        return True

    def end(self, grace: float) -> None:
        """Kill and reap it, unless it ends by itself within `grace` seconds.

        What runs as another user (sudo) cannot be killed; it ends with its child.
        """
        ended = False
        try:
            ended = self.wait(grace)
        finally:  # an interrupt (Ctrl-C) does not leave it running either
            if not ended:
                self._kill()
        self.wait(grace)

    def _kill(self) -> None:
        with self._lock:
            try:
                if not self._reaped:
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except (PermissionError, ProcessLookupError):
                pass

    def _reap(self) -> None:
        """Take its status: by the descriptor, whose process is no other."""
        self._reaped = True
        try:
            ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        except ChildProcessError:  # the service reaps all of its children
            return
        finally:
            os.close(self._pidfd)
        if ended is not None:
            exited = ended.si_code == os.CLD_EXITED
            self.status = ended.si_status if exited else -ended.si_status


class Launched(NamedTuple):
    """A daemon that has been launched, and may or may not become ready."""

    control: socket.socket
    stderr: socket.socket
    process: ChildProcess
    said: bytes = b""  #: what it wrote to stderr until it was ready


class Reached(NamedTuple):
    """A daemon that somebody else has started, and that has let this process in."""

    control: socket.socket
    stderr: None = None
    process: None = None
    said: bytes = b""


def control_pair() -> tuple[socket.socket, socket.socket]:
    """Return the client's and the daemon's end of a control socket.

    No forked child has the client's end until the connection is made.
    Credentials are asked for before anything can be sent: a datagram carries
    them only if the receiver wanted them by then.
    """
    ours, daemons = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    forking.own(ours)
    daemons.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return ours, daemons


def spawn(command: Sequence[str], environment: Mapping[str, str]) -> Launched:
    """Run `command` with the control socket as its standard input.

    Raises:
        OSError: the program cannot be run.

    """
    with (
        forking.undivided
    ):  # a child that another thread forks shall not keep their ends
        return _spawn(command, environment)


def _spawn(command: Sequence[str], environment: Mapping[str, str]) -> Launched:
    ours, daemons = control_pair()
    stderr, daemons_stderr = socket.socketpair()
    with daemons, daemons_stderr:
        try:
            child = subprocess.Popen(  # noqa: S603 - the service chose the command
                command,
                stdin=daemons.fileno(),
                stdout=daemons_stderr.fileno(),
                stderr=daemons_stderr.fileno(),
                env=dict(environment),
            )
        except BaseException:
            ours.close()
            stderr.close()
            raise
    child.returncode = 0  # ChildProcess reaps it, Popen need not
    return Launched(ours, stderr, ChildProcess(child.pid))
