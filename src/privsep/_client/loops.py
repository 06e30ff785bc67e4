"""What a caller in an event loop waits by: asyncio's ways, or trio's.

Runs in the client.  Trio's own functions and not anyio's: whoever calls from trio has
trio, and a caller of asyncio's pays for no layer in between.
"""

from __future__ import annotations

import asyncio
import math
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from privsep._client.pool import Turn

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager
    from typing import ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")


def _runs_asyncio() -> bool:
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():  # be it a guest of asyncio's
        return False
    asyncio.get_running_loop()
    return True


async def in_thread(function: Callable[..., R], *arguments: object) -> R:
    """Call a function in a thread, and return what it returns.

    If the task is cancelled, the thread goes on, and nobody hears what came of it.
    """
    if _runs_asyncio():
        return await asyncio.to_thread(function, *arguments)
    import trio  # noqa: PLC0415 - the caller has loaded it

    return await trio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True)


async def sleep(seconds: float) -> None:
    """Let others run, for so long at least."""
    if _runs_asyncio():
        await asyncio.sleep(seconds)
        return
    import trio  # noqa: PLC0415

    await trio.sleep(seconds)


def timeout(seconds: float) -> AbstractAsyncContextManager[object]:
    """Return what raises TimeoutError in its block after so long; infinite: never."""
    if _runs_asyncio():
        return asyncio.timeout(None if seconds == math.inf else max(seconds, 0.0))
    return _timeout_of_trio(max(seconds, 0.0))


@asynccontextmanager
async def _timeout_of_trio(seconds: float) -> AsyncGenerator[None, None]:
    import trio  # noqa: PLC0415

    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError as late:
        raise TimeoutError from late


async def readable(sock: socket.socket) -> None:
    """Wait until `sock` can be read from."""
    if not _runs_asyncio():
        import trio  # noqa: PLC0415

        await trio.lowlevel.wait_readable(sock)
        return
    loop = asyncio.get_running_loop()
    await _wait(loop.add_reader, loop.remove_reader, sock)


async def writable(sock: socket.socket) -> None:
    """Wait until `sock` can be written to."""
    if not _runs_asyncio():
        import trio  # noqa: PLC0415

        await trio.lowlevel.wait_writable(sock)
        return
    loop = asyncio.get_running_loop()
    await _wait(loop.add_writer, loop.remove_writer, sock)


async def _wait(
    add: Callable[..., None], remove: Callable[[int], object], sock: socket.socket
) -> None:
    future = asyncio.get_running_loop().create_future()
    descriptor = sock.fileno()
    add(descriptor, _wake, future)
    try:
        await future
    finally:
        remove(descriptor)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def turn() -> LoopTurn:
    """Return a turn of the task that runs."""
    return _AsyncioTurn() if _runs_asyncio() else _TrioTurn()


class LoopTurn(Turn):
    """A task that waits for a channel."""

    look_again: Callable[[], None]  #: to be called when its loop runs again

    async def wait_in_loop(self, seconds: float) -> bool:
        """Wait until the turn has come; return False if it has not in time."""
        try:
            async with timeout(seconds):
                await self._wait()
        except TimeoutError:
            return False
        return True

    async def _wait(self) -> None:
        raise NotImplementedError


class _AsyncioTurn(LoopTurn):
    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()
        self._looks_again = False

    def is_over(self) -> bool:
        """Return whether its loop is closed."""
        return self._loop.is_closed()

    def can_go_on(self) -> bool:
        """Return whether its loop runs; if it stands still, it looks again later."""
        if self._loop.is_running():
            return True
        if not self._looks_again:
            self._looks_again = True
            try:
                self._loop.call_soon_threadsafe(self._runs_again)
            except RuntimeError:  # it is closed
                pass
        return False

    def _runs_again(self) -> None:
        self._looks_again = False
        self.look_again()

    def come(self) -> None:
        """Wake the task, from whichever thread this is."""
        try:
            self._loop.call_soon_threadsafe(_wake, self._future)
        except RuntimeError:  # its loop is closed: nobody waits
            pass

    async def _wait(self) -> None:
        await self._future


class _TrioTurn(LoopTurn):
    def __init__(self) -> None:
        super().__init__()
        import trio  # noqa: PLC0415

        self._ended = trio.RunFinishedError
        self._token = trio.lowlevel.current_trio_token()
        self._event = trio.Event()

    def is_over(self) -> bool:
        """Return whether its loop has ended; one of trio's does not stand still."""
        try:
            self._token.run_sync_soon(bool)
        except self._ended:
            return True
        return False

    def can_go_on(self) -> bool:
        """Return whether its loop runs."""
        return not self.is_over()

    def come(self) -> None:
        """Wake the task, from whichever thread this is."""
        try:
            self._token.run_sync_soon(self._event.set)
        except self._ended:  # nobody waits
            pass

    async def _wait(self) -> None:
        await self._event.wait()
