"""A command that the daemon runs for this process.

Runs in the client.  Its worker is the command's parent: it passes on signals, and
answers the call with the status.
"""

from __future__ import annotations

import asyncio
import math
import os
import selectors
import signal
import struct
import subprocess
import threading
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, cast

from privsep._client.readiness import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from privsep._client.pending import PendingCall

_SIGNAL = struct.Struct("b")
_GRACE = 5.0  # seconds that a worker has to kill its command: see architecture.md


class Process:
    """A command that `Client.popen` has started; much like `subprocess.Popen`.

    If it is no longer used, or this process ends, the command goes on.

    Attributes:
        args: the command.
        returncode: what it ended with, once `poll` or `wait` has seen that: the exit
            status; minus the signal, if one ended it; 99 if no filter allows it, 96
            if there is no such executable, 97 if its filter is wrong, 98 if it is
            empty.  None before.

    """

    def __init__(self, args: tuple[bytes, ...], call: PendingCall) -> None:
        self.args = args
        self.returncode: int | None = None
        self._call: PendingCall | None = call
        self._failure: BaseException | None = None
        self._lock = threading.Lock()  #: of whoever waits for the reply
        #: of whoever signals: the channel is another command's after the reply
        self._signalling = threading.RLock()
        self._wakers: list[Callable[[], object]] = []  #: of the tasks that wait

    def poll(self) -> int | None:
        """Return `returncode`, having looked whether the command has ended.

        Raises:
            DaemonGone, WorkerDied: the daemon ended before; the command goes on.

        """
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the command has ended; return `returncode`.

        Args:
            timeout: seconds; None: as long as it takes.

        Raises:
            subprocess.TimeoutExpired: it goes on.
            DaemonGone, WorkerDied: as `poll`.

        """
        until = math.inf if timeout is None else monotonic() + timeout
        if self._lock.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
            try:
                if self._call is None or _is_readable(self._call, until):
                    return self.finish()
            finally:
                self._lock.release()
                if self._call is None:
                    self._wake()
        raise subprocess.TimeoutExpired(list(self.args), timeout or 0)

    async def await_(self) -> int:
        """Wait as `wait` does, and let the event loop of asyncio run meanwhile.

        Raises:
            DaemonGone, WorkerDied: as `poll`.

        """
        come = asyncio.Event()
        wake = partial(asyncio.get_running_loop().call_soon_threadsafe, come.set)
        self._wakers.append(wake)
        try:
            while True:
                come.clear()
                status = self.poll()
                if status is not None:
                    return status
                await _readable(self._call, come)
        finally:
            self._wakers.remove(wake)

    def _wake(self) -> None:
        """Have the tasks look that wait: what they wait for a thread has taken."""
        for wake in self._wakers.copy():
            with suppress(RuntimeError):  # its loop is closed
                wake()

    def send_signal(self, number: int) -> None:
        """Send a signal to the command; none if it has ended.

        Raises:
            ValueError: there is no such signal.

        """
        if not 0 < number < signal.NSIG:
            msg = f"there is no signal {number}"
            raise ValueError(msg)
        self.send(number)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send(signal.SIGKILL)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait until it has ended."""
        self.wait()

    def __del__(self) -> None:
        """Let go of it: nobody will ask for its end."""
        if self._call is not None:
            self.drop()

    def __repr__(self) -> str:
        """Return the command, and what it ended with."""
        command = list(map(os.fsdecode, self.args))
        return f"<{type(self).__name__} {command}, returncode {self.returncode}>"

    # -- for Client ------------------------------------------------------------

    def fileno(self) -> int:
        """Return the descriptor that can be read when it has ended."""
        return -1 if self._call is None else self._call.fileno()

    def finish(self) -> int:
        """Take what the daemon says of its end, which has come, or is about to.

        Raises:
            NotStarted: it was never begun; it may be begun once more.
            DaemonGone, WorkerDied: as `poll`.

        """
        call = self._take_call()
        if call is not None:
            try:
                self.returncode = cast("int", call.result())
            except BaseException as error:
                self._failure = error
                raise
        if self.returncode is None:
            raise self._failure or ValueError("nobody waits for it any more")
        return self.returncode

    def send(self, number: int) -> None:
        """Have it signalled; its process group, if `number` is negative."""
        with self._signalling:
            if self._call is not None:
                self._call.signal(_SIGNAL.pack(number))

    def take_end(self) -> bool:
        """Take what the daemon says of its end; there is nothing more then."""
        self.finish()
        return False

    def drop(self) -> None:
        """Let go of it, whatever it does."""
        call = self._take_call()
        if call is not None:
            call.drop()

    def kill_group(self) -> None:
        """Kill it and its process group; let go of it."""
        self.send(-signal.SIGKILL)
        self.drop()

    def kill_group_and_wait(self) -> None:
        """Kill it and its process group, and wait until it has ended.

        A worker that does not get to that, because it still judges, is killed itself.

        Raises:
            DaemonGone, WorkerDied: as `poll`.

        """
        self.send(-signal.SIGKILL)
        try:
            self.wait(_GRACE)
        except subprocess.TimeoutExpired:
            call = self._take_call()
            if call is not None:
                call.abandon()

    def _take_call(self) -> PendingCall | None:
        with self._signalling:
            call, self._call = self._call, None
        return call


def _is_readable(call: PendingCall, until: float) -> bool:
    """Wait, `until` then at most; return whether the reply has begun to come."""
    with selectors.DefaultSelector() as selector:
        selector.register(call, selectors.EVENT_READ)
        return bool(wait_until(selector, until))


async def _readable(call: PendingCall | None, come: asyncio.Event) -> None:
    """Wait until the reply may have begun to come, or `come` is set by who takes it.

    By a descriptor of its own: the loop has one waiter for each.
    """
    try:
        descriptor = os.dup(-1 if call is None else call.fileno())
    except OSError:  # it is being taken
        await come.wait()
        return
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, come.set)
    try:
        await come.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
