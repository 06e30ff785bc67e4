"""A service of generators; importable by any daemon."""

from __future__ import annotations

import dataclasses
import enum
import logging
import os
import time
from collections.abc import Generator  # noqa: TC003 - annotations are looked at
from typing import Annotated, Any

from service import services

import privsep

log = logging.getLogger("streaming")


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    color: Color


class Custom(KeyError):
    """What the client throws, and the daemon does not know."""


def echo(value: object) -> object:
    return value


def process_id() -> int:
    return os.getpid()


def numbers(stop: int) -> Generator[int, None, str]:
    yield from range(stop)
    return "all"


def write_numbers(path: str, stop: int) -> Generator[int, None, None]:
    """Yield numbers, and write to a file how far it is."""
    with open(path, "w", buffering=1) as file:
        for number in range(stop):
            file.write(f"{number}\n")
            yield number


def numbers_in_turn(path: str, stop: int) -> Generator[int, None, None]:
    """As `write_numbers`, but never ahead."""
    yield from write_numbers(path, stop)


def hold(fifo: str) -> Generator[int, None, None]:
    """Hold a fifo open while there are numbers, without end."""
    descriptor = os.open(fifo, os.O_WRONLY)
    try:
        number = 0
        while True:
            yield number
            number += 1
    finally:
        os.close(descriptor)


def short_hold(fifo: str) -> Generator[int, None, None]:
    """As `hold`; its own deadline is 2 seconds."""
    yield from hold(fifo)


def short_item_hold(fifo: str) -> Generator[int, None, None]:
    """As `hold`; the deadline of an item is 1.5 seconds, the window 1."""
    yield from hold(fifo)


def hold_and_stop(fifo: str, items: int) -> Generator[int, None, None]:
    """Hold a fifo open; after some numbers make nothing, for ever."""
    with open(fifo, "w"):
        yield from range(items)
        time.sleep(1000)


def two_and_stop() -> Generator[int, None, None]:
    """Make two numbers, and then nothing; the deadline of an item is 2 seconds."""
    yield from range(2)
    time.sleep(1000)


def slow_numbers(stop: int) -> Generator[int, None, None]:
    """Make a number each 0.35 seconds; the deadline of an item is 3 seconds."""
    for number in range(stop):
        time.sleep(0.35)
        yield number


def five() -> Generator[int, None, str]:
    """Make five numbers at once; the deadline of an item is 2 seconds."""
    yield from range(5)
    return "all"


def wait_between(release: str) -> Generator[str, None, None]:
    """Yield before and after somebody writes to `release`."""
    with open(release) as file:
        yield "before"
        yield "still before"
        yield file.read()


def answer(first: object) -> Generator[object, object, str]:
    """Yield what is sent, and what ValueError is thrown, until "end" comes."""
    got = first
    while got != "end":
        try:
            got = yield got
        except ValueError as error:
            got = ["caught", *error.args]
    return "ended"


def catch_ahead(path: str) -> Generator[object, None, None]:
    """Yield numbers; when a LookupError is thrown, yield its class and arguments."""
    number = 0
    while True:
        try:
            yield number
            number += 1
        except LookupError as error:
            yield [type(error).__name__, *error.args]


def fail_after(items: int, kind: str) -> Generator[int, None, None]:
    yield from range(items)
    raise {"OSError": OSError, "KeyError": KeyError}[kind](2, "it failed")


def fail_in_clean_up() -> Generator[int, None, None]:
    try:
        while True:
            yield 1
    finally:
        raise OSError(5, "cleaning failed")


def of_kind(*kinds: str) -> Generator[object, None, None]:
    """Yield strange things."""
    for kind in kinds:
        yield {
            "object": object(),
            "large": bytes(70_000),
            "deep": _deep(200),
            "plain": "plain",
        }[kind]


def _deep(depth: int) -> object:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


def return_object() -> Generator[int, None, object]:
    yield 1
    return object()


def open_files(path: str, times: int) -> Generator[Any, None, Any]:
    for _ in range(times):
        file = open(path)  # noqa: SIM115 - it is the receiver's
        yield {"file": file, "fd": privsep.Fd(os.open(path, os.O_RDONLY))}
    return open(path)


def points(
    number: Annotated[int, privsep.Range(1, 3)],
) -> Generator[Point, None, Color]:
    for x in range(number):
        yield Point(x, Color.RED)
    return Color.RED


def log_before_each(items: int) -> Generator[int, None, None]:
    for number in range(items):
        log.warning("before %s", number)
        yield number


def fork_between() -> Generator[int, None, None]:
    """Fork between two items; the child goes on, too."""
    yield 1
    child = os.fork()
    if child:
        os.waitid(os.P_PID, child, os.WEXITED)
    yield 2
    yield 3


def killed_after(items: int) -> Generator[int, None, None]:
    yield from range(items)
    os.kill(os.getpid(), 9)


def chunks(size: int, times: int) -> Generator[bytes, None, int]:
    """Yield bytes; return by how much this process grew meanwhile."""
    chunk = bytes(size)
    yield chunk
    before = resident()
    for _ in range(times):
        yield chunk
    return resident() - before


def resident() -> int:
    """Return how many bytes of memory this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Streaming:
    """A context, and its entrypoints as attributes."""

    def __init__(self, context: privsep.Context) -> None:
        self.context = context
        expose = context.entrypoint
        self.echo = expose(echo)
        self.process_id = expose(process_id)
        self.numbers = expose(numbers)
        self.write_numbers = expose(write_numbers)
        self.numbers_in_turn = context.entrypoint(window=0)(numbers_in_turn)
        self.hold = expose(hold)
        self.short_hold = context.entrypoint(timeout=2.0)(short_hold)
        self.short_item_hold = context.entrypoint(
            timeout=None, item_timeout=1.5, window=1
        )(short_item_hold)
        self.hold_and_stop = expose(hold_and_stop)
        self.two_and_stop = context.entrypoint(timeout=None, item_timeout=2.0)(
            two_and_stop
        )
        self.slow_numbers = context.entrypoint(timeout=None, item_timeout=3.0)(
            slow_numbers
        )
        self.five = context.entrypoint(timeout=None, item_timeout=2.0)(five)
        self.wait_between = expose(wait_between)
        self.answer = context.entrypoint(window=0)(answer)
        self.catch_ahead = expose(catch_ahead)
        self.fail_after = expose(fail_after)
        self.fail_in_clean_up = expose(fail_in_clean_up)
        self.of_kind = expose(of_kind)
        self.return_object = expose(return_object)
        self.open_files = expose(open_files)
        self.points = expose(points)
        self.log_before_each = expose(log_before_each)
        self.fork_between = expose(fork_between)
        self.killed_after = expose(killed_after)
        self.chunks = expose(chunks)
        # No Service, but `start` finds it there, and its tests say which they get.
        services[context.name] = self  # type: ignore[assignment]


streams_context = privsep.Context(
    "streams", capabilities=[], timeout=120.0, max_message=66_000
)
streams = Streaming(streams_context)
threaded_context = privsep.Context(
    "threaded-streams",
    capabilities=[],
    timeout=120.0,
    max_message=66_000,
    isolation="thread",
)
threaded = Streaming(threaded_context)
single_context = privsep.Context(
    "single-stream", capabilities=[], timeout=120.0, workers=1
)
single = Streaming(single_context)
