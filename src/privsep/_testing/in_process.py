"""A daemon that is none: its workers are threads of the test's own process.

Runs in a test's process.  A worker's end of a channel is served by the daemon's own
code, and the other by the client's, so that what crosses is what would; but nothing is
dropped, and nobody supervises.
"""

from __future__ import annotations

import os
import socket
import threading
from time import monotonic
from typing import TYPE_CHECKING, NoReturn

from privsep._client import forking
from privsep._client.channel import Channel
from privsep._client.connection import Connection
from privsep._client.pool import Pool
from privsep._daemon.serve import Logging, Service
from privsep._daemon.slots import Slot
from privsep._testing import faults
from privsep._wire.control import FATE_SIZE, Ending, Fate
from privsep.errors import StartError

if TYPE_CHECKING:
    from privsep._daemon.output import LogLine
    from privsep._wire.frames import Frames
    from privsep.context import Context

METHOD = "in-process"


class Died(BaseException):
    """Unwinds the function in which the daemon is to have died."""


class _OwnLogging(Logging):
    """Leaves what a function logs to the process, whose loggers are the client's."""

    def use_line(self, line: LogLine | None) -> None:
        """Do nothing."""

    def use_frames(self, frames: Frames | None) -> None:
        """Do nothing."""

    def set_level(self, frames: Frames, level: int) -> None:
        """Do nothing."""


class _Worker:
    """A thread that serves one channel, and what a supervisor would have of it."""

    def __init__(self, context: Context, service: Service) -> None:
        ours, self._channel = forking.socket_pair()
        self._fate, self._supervisors = forking.socket_pair()
        # What a supervisor would say at a deadline; of no other end it has to tell.
        runs_on = Fate(Ending.RUNS_ON, 0, os.getpid())
        self._supervisors.send(runs_on.to_bytes())
        self.channel = Channel(ours, self._fate, context, lambda: None)
        self.thread = threading.Thread(
            target=self._run, args=(context, service), daemon=True
        )
        self.thread.start()

    def _run(self, context: Context, service: Service) -> None:
        here.serving = context
        with self._channel, self._supervisors:
            service.serve(self._channel, _slot())

    def die(self) -> None:
        """Be gone, without a word."""
        try:
            self._fate.recv(FATE_SIZE, socket.MSG_DONTWAIT)
            self._supervisors.shutdown(socket.SHUT_RDWR)
            self._channel.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has ended
            pass


class _Here(threading.local):
    """Of each thread: the context whose function it runs."""

    serving: Context | None = None


here = _Here()


def _slot() -> Slot:
    """Return a slot that nobody looks at."""
    times, flags = memoryview(bytearray(8)), memoryview(bytearray(1))
    slot = Slot(0, times.cast("d"), times.cast("Q"), flags, memoryview(bytearray(1)), 0)
    slot.disown()
    return slot


def _import_all(context: Context) -> None:
    """Import the context's modules, which is what a daemon does first.

    Raises:
        StartError: one of them cannot be imported.

    """
    try:
        for name in context.modules:
            __import__(name)
    except (Exception, SystemExit) as error:
        what = f"context {context.name!r} could not be started in-process"
        msg = f"{what}: {type(error).__name__}: {error}"
        raise StartError(msg) from error


class InProcess(Connection):
    """Stands for the connection to a daemon."""

    def __init__(self, context: Context) -> None:
        self.method = METHOD
        self._context = context
        _import_all(context)
        table = faults.with_fatal(context.served_table(), self._die)
        self._service = Service(context.name, table, context.max_message)
        self._service.logging = _OwnLogging()
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Have workers of its own: threads are not forked."""
        self.pool = Pool(self._context.workers, self._open_channel)
        self._workers: list[_Worker] = []
        self._dead = False

    def _open_channel(self, deadline: float) -> Channel:
        del deadline
        if self._dead:
            raise ConnectionError
        worker = _Worker(self._context, self._service)
        self._workers.append(worker)
        return worker.channel

    def _die(self) -> NoReturn:
        self.kill()
        raise Died

    def kill(self) -> None:
        """Have it die as a daemon that is killed."""
        self._dead = True
        for worker in self._workers:
            worker.die()

    def share(self) -> None:
        """There is no daemon to share."""

    def let_go(self) -> None:
        """There is no daemon to let go of."""

    def close(self, timeout: float) -> None:
        """Close idle channels, and wait for calls that run."""
        until = monotonic() + timeout
        self.pool.close()
        for worker in self._workers:
            worker.thread.join(max(0.0, until - monotonic()))
