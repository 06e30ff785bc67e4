"""A service of coroutines; importable by any daemon."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Generator  # noqa: TC003 - looked at
from contextlib import contextmanager
from typing import Annotated, Any

from service import services
from streaming import Color, Point

import privsep

log = logging.getLogger("awaited")
_left: list[asyncio.Task[None]] = []


def echo(value: object) -> object:
    return value


def process_id() -> int:
    return os.getpid()


@contextmanager
def _holding(fifo: str) -> Generator[None, None, None]:
    descriptor = os.open(fifo, os.O_WRONLY)
    os.write(descriptor, b"%d\n" % os.getpid())
    try:
        yield
    finally:
        os.close(descriptor)


def hold(fifo: str) -> None:
    """Hold a fifo open, for ever."""
    with _holding(fifo):
        time.sleep(1000)


async def hold_async(fifo: str) -> None:
    """Hold a fifo open, for ever."""
    with _holding(fifo):
        await asyncio.sleep(1000)


def hold_briefly(fifo: str) -> None:
    """As `hold`; its deadline is 0.3 seconds."""
    hold(fifo)


async def hold_async_briefly(fifo: str) -> None:
    """As `hold_async`; its deadline is 0.3 seconds."""
    await hold_async(fifo)


async def echo_async(value: object) -> object:
    await asyncio.sleep(0)
    return value


async def which_loop() -> tuple[int, int]:
    """Return process and loop."""
    return os.getpid(), id(asyncio.get_running_loop())


async def fail(kind: str) -> None:
    await asyncio.sleep(0)
    raise {
        "KeyError": KeyError("x", 1),
        "SystemExit": SystemExit(3),
        "CancelledError": asyncio.CancelledError("y"),
        "StopIteration": StopIteration(1),
        "TimeoutError": TimeoutError("own"),
    }[kind]


async def gather(count: int) -> list[int]:
    async def one(number: int) -> int:
        await asyncio.sleep(0)
        return number

    return await asyncio.gather(*map(one, range(count)))


async def run_program(text: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "/bin/echo", text, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return out.decode()


async def leave_task() -> None:
    """Leave a task that would go on."""
    _left.append(asyncio.create_task(asyncio.sleep(1000)))
    await asyncio.sleep(0)


async def was_cancelled() -> bool:
    return all(task.cancelled() for task in _left)


async def judged(
    number: Annotated[int, privsep.Range(1, 3)], color: Color
) -> list[Point]:
    return [Point(number, color)]


def log_here(text: str) -> None:
    log.warning(text)


async def count_async(stop: int) -> AsyncGenerator[int, None]:
    for number in range(stop):
        await asyncio.sleep(0)
        yield number


async def hold_items(fifo: str) -> AsyncGenerator[int, None]:
    with _holding(fifo):
        number = 0
        while True:
            yield number
            number += 1
            await asyncio.sleep(0)


async def hold_after(fifo: str, items: int) -> AsyncGenerator[int, None]:
    """Hold a fifo; after some items make nothing, for ever."""
    with _holding(fifo):
        for number in range(items):
            yield number
        await asyncio.sleep(1000)


async def hold_until_clean(
    fifo: str, clean: str, items: int
) -> AsyncGenerator[int, None]:
    """As `hold_after`; take some time to clean up, and make the file `clean`."""
    with _holding(fifo):
        try:
            for number in range(items):
                yield number
        finally:
            for _ in range(10):
                await asyncio.sleep(0.001)
            os.close(os.open(clean, os.O_CREAT))


async def answer(first: object) -> AsyncGenerator[object, object]:
    """Yield what is sent, and what ValueError is thrown."""
    got = first
    while got != "end":
        try:
            got = yield got
        except ValueError as error:
            got = ["caught", *error.args]


async def points_async(stop: int) -> AsyncGenerator[Point, None]:
    for x in range(stop):
        yield Point(x, Color.RED)


def count(stop: int) -> Generator[int, None, str]:
    yield from range(stop)
    return "all"


def chunks(size: int, times: int) -> Generator[bytes, None, None]:
    for _ in range(times):
        yield bytes(size)


def open_file(path: str) -> Any:
    return open(path)


class Awaited:
    """A context, and its entrypoints as attributes."""

    def __init__(self, context: privsep.Context) -> None:
        self.context = context
        expose = context.entrypoint
        self.echo = expose(echo)
        self.process_id = expose(process_id)
        self.hold = expose(hold)
        self.hold_async = expose(hold_async)
        self.hold_briefly = context.entrypoint(timeout=0.3)(hold_briefly)
        self.hold_async_briefly = context.entrypoint(timeout=0.3)(hold_async_briefly)
        self.echo_async = expose(echo_async)
        self.which_loop = expose(which_loop)
        self.fail = expose(fail)
        self.gather = expose(gather)
        self.run_program = expose(run_program)
        self.leave_task = expose(leave_task)
        self.was_cancelled = expose(was_cancelled)
        self.judged = expose(judged)
        self.log_here = expose(log_here)
        self.count_async = expose(count_async)
        self.hold_items = expose(hold_items)
        self.hold_after = expose(hold_after)
        self.hold_until_clean = expose(hold_until_clean)
        self.answer = context.entrypoint(window=0)(answer)
        self.points_async = expose(points_async)
        self.count = expose(count)
        self.chunks = expose(chunks)
        self.open_file = expose(open_file)
        # No Service, but `start` finds it there, and its tests say which they get.
        services[context.name] = self  # type: ignore[assignment]


awaited_context = privsep.Context("awaited", capabilities=[], timeout=120.0, workers=2)
awaited = Awaited(awaited_context)
threaded_context = privsep.Context(
    "awaited-threads", capabilities=[], timeout=120.0, workers=2, isolation="thread"
)
threaded = Awaited(threaded_context)
many_context = privsep.Context(
    "awaited-many", capabilities=[], timeout=120.0, workers=32
)
many = Awaited(many_context)
late_context = privsep.Context(
    "awaited-late",
    capabilities=[],
    modules=["awaited", "waiting"],
    environment=["PRIVSEP_TEST_BEGUN", "PRIVSEP_TEST_GO_ON"],
)
late = Awaited(late_context)
