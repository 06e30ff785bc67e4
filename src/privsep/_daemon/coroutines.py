"""Running coroutines and asynchronous generators, in an event loop of the worker.

Runs in a worker, and is loaded, with asyncio, by daemons that have such an
entrypoint.  The loop runs while a call does, or makes an item; what a call leaves
running is cancelled at its end, so that nothing of it goes on in the next.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, cast

from privsep._daemon.generators import run_generator

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import AsyncGenerator, Coroutine
    from typing import Any, TypeAlias

    from privsep._daemon.serve import Channel
    from privsep.context import Entry

    _Generator: TypeAlias = AsyncGenerator[object, object]
    _Step: TypeAlias = Coroutine[Any, Any, object]

_PEEK = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)


def run(
    entry: Entry, args: list[object], kwargs: dict[str, object], channel: Channel
) -> object:
    """Run a coroutine function; see `privsep._daemon.serve.Run`."""
    coroutine = cast("_Step", entry.function(*args, **kwargs))
    loop = _loop(channel)
    try:
        result = _complete(loop, coroutine, channel)
    finally:
        _cancel_rest(loop)
    _, lower = entry.lower
    return result if lower is None else lower(result)


def run_stream(
    entry: Entry, args: list[object], kwargs: dict[str, object], channel: Channel
) -> object:
    """Run an asynchronous generator function; see `privsep._daemon.serve.Run`."""
    generator = cast("_Generator", entry.function(*args, **kwargs))
    steps = _Steps(generator, channel)
    try:
        return run_generator(entry, steps, channel)
    finally:
        _cancel_rest(_loop(channel))


class _Steps:
    """An asynchronous generator, as one whose steps are run in the loop."""

    def __init__(self, generator: _Generator, channel: Channel) -> None:
        self._generator = generator
        self._channel = channel

    def send(self, value: object) -> object:
        return self._run(self._generator.asend(value))

    def throw(self, error: BaseException) -> object:
        return self._run(self._generator.athrow(error))

    def close(self) -> None:
        self._run(self._generator.aclose())

    def _run(self, step: _Step) -> object:
        async def take_step() -> object:
            return await step

        try:
            return _complete(_loop(self._channel), take_step(), self._channel)
        except StopAsyncIteration:
            ending = StopIteration()
        raise ending


def _loop(channel: Channel) -> AbstractEventLoop:
    """Return the worker's event loop, made at its first use."""
    slot = channel.slot
    if slot.loop is None:
        slot.loop = asyncio.new_event_loop()
    return slot.loop


def _complete(loop: AbstractEventLoop, coroutine: _Step, channel: Channel) -> object:
    """Run the loop until the coroutine has ended; return its result.

    A process is killed when its client gives up, or the deadline comes; a thread
    sees the end of its channel then, and the coroutine is cancelled.
    """
    task = loop.create_task(coroutine)
    sock = channel.frames.sock
    watched = threading.current_thread() is not threading.main_thread()
    if watched:
        loop.add_reader(sock, _look, loop, sock, task)
    try:
        return loop.run_until_complete(task)
    finally:
        if watched:
            loop.remove_reader(sock)
        if task.done() and not task.cancelled():
            task.exception()  # it is raised: nobody needs to be told a second time


def _look(
    loop: AbstractEventLoop, sock: socket.socket, task: asyncio.Task[object]
) -> None:
    """Cancel the task if the channel has ended."""
    loop.remove_reader(sock)  # what else has come may wait
    try:
        gone = not sock.recv(1, _PEEK)
    except BlockingIOError:
        gone = False
    except OSError:
        gone = True
    if gone:
        task.cancel()


def _cancel_rest(loop: AbstractEventLoop) -> None:
    """Cancel what a call has left running, and wait until it has ended."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
