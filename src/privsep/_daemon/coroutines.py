"""Running coroutines and asynchronous generators, in an event loop of the worker.

Runs in a worker, and is loaded, with asyncio, by daemons that have such an
entrypoint.  The loop runs while a call does, or makes an item; what a call leaves
running is cancelled at its end, so that nothing of it goes on in the next.
"""

from __future__ import annotations

import asyncio
import select
import threading
from typing import TYPE_CHECKING, cast

from privsep._daemon.generators import run_generator

if TYPE_CHECKING:
    import socket
    from asyncio import AbstractEventLoop
    from collections.abc import AsyncGenerator, Coroutine
    from typing import Any, TypeAlias

    from privsep._daemon.serve import Channel
    from privsep.context import Entry

    _Generator: TypeAlias = AsyncGenerator[object, object]
    _Step: TypeAlias = Coroutine[Any, Any, object]


def run(
    entry: Entry, args: list[object], kwargs: dict[str, object], channel: Channel
) -> object:
    """Run a coroutine function; see `privsep._daemon.serve.Run`."""
    coroutine = cast("_Step", entry.function(*args, **kwargs))
    loop = _loop(channel)
    try:
        result = _complete(loop, coroutine, channel.frames.sock)
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
        return self._run(self._generator.asend(value), self._channel.frames.sock)

    def throw(self, error: BaseException) -> object:
        return self._run(self._generator.athrow(error), self._channel.frames.sock)

    def close(self) -> None:
        # Of a channel that has ended already: cleaning up is never cut short.
        self._run(self._generator.aclose(), None)

    def _run(self, step: _Step, watched: socket.socket | None) -> object:
        async def take_step() -> object:
            return await step

        try:
            return _complete(_loop(self._channel), take_step(), watched)
        except StopAsyncIteration:
            ending = StopIteration()
        raise ending


def _loop(channel: Channel) -> AbstractEventLoop:
    """Return the worker's event loop, made at its first use."""
    slot = channel.slot
    if slot.loop is None:
        slot.loop = asyncio.new_event_loop()
    return slot.loop


def _complete(
    loop: AbstractEventLoop, coroutine: _Step, watched: socket.socket | None
) -> object:
    """Run the loop until the coroutine has ended; return its result.

    A process is killed when its client gives up, or the deadline comes; a thread
    sees the end of its channel, `watched`, then, and the coroutine is cancelled.
    """
    task = loop.create_task(coroutine)
    try:
        if watched is None or threading.current_thread() is threading.main_thread():
            return loop.run_until_complete(task)
        with select.epoll(1) as ending:
            # What a client sends ahead is not read here, and shall not wake the loop.
            ending.register(watched, select.EPOLLRDHUP)
            loop.add_reader(ending, _cancel, loop, ending, task)
            try:
                return loop.run_until_complete(task)
            finally:
                loop.remove_reader(ending)
    finally:
        if task.done() and not task.cancelled():
            task.exception()  # it is raised: nobody needs to be told a second time


def _cancel(
    loop: AbstractEventLoop, ending: select.epoll, task: asyncio.Task[object]
) -> None:
    """Cancel the task, once: the channel has ended."""
    loop.remove_reader(ending)
    task.cancel()


def _cancel_rest(loop: AbstractEventLoop) -> None:
    """Cancel what a call has left running, and wait until it has ended."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
