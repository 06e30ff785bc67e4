"""A service that hostile clients attack: contexts, importable by any daemon."""

from __future__ import annotations

import collections
import enum
import io
import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from procfs import open_files

import privsep

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator


class Level(enum.IntEnum):
    HIGH = 1


class Text(str):
    pass


log = logging.getLogger("target")


def echo(value: object) -> object:
    return value


def echo_again(value: object) -> object:
    return value


def make_bytes(size: int) -> bytes:
    return bytes(size)


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def wait_for_end(fifo: str) -> None:
    """Run until nobody holds `fifo` for writing, which may be so already."""
    descriptor = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    with open(descriptor) as file:
        file.read()


def print_at_end(fifo: str) -> None:
    """Print a line when nobody holds `fifo` for writing any more."""
    wait_for_end(fifo)
    print("the end", flush=True)


def log_much(count: int, size: int) -> int:
    for _ in range(count):
        log.warning("%s", "x" * size)
    return count


def print_much(count: int, size: int) -> int:
    for _ in range(count):
        sys.stdout.write("x" * size + "\n")
    sys.stdout.flush()
    return count


def keywords(**values: object) -> dict[str, object]:
    return values


def keywords_again(**values: object) -> dict[str, object]:
    return values


def _helper() -> str:  # pyright: ignore[reportUnusedFunction] - by its name only
    return "this is no entrypoint"


def open_descriptors() -> list[str]:
    """What this process has open, as the kernel names it."""
    return [*open_files().values()]


def process_id() -> int:
    return os.getpid()


def count_arguments(*values: object) -> int:
    return len(values)


def count_up() -> Iterator[int]:
    """Yield numbers without end; say on stdout why that ends."""
    number = 0
    try:
        while True:
            yield number
            number += 1
    except BaseException as error:
        print(f"ended by {type(error).__name__}{error.args}", flush=True)
        raise


def yield_much() -> Iterator[bytes]:
    """Yield more than a socket holds."""
    while True:
        yield bytes(1 << 20)


def count_to_three() -> Iterator[int]:
    yield from range(3)


def answer() -> Generator[object, object, None]:
    """Yield what is sent; its window is 0."""
    got: object = None
    while True:
        got = yield got


def yield_files() -> Iterator[object]:
    while True:
        with open("/dev/null", "rb") as file:
            yield file


def return_file() -> object:
    return open("/dev/null", "rb")


def strange_result(kind: str) -> object:
    """Return something of a type that does not cross."""
    return {"deep": [(_STRANGE[kind],)]}


_STRANGE: dict[str, object] = {
    "object": object(),
    "collections.OrderedDict": collections.OrderedDict(),
    "target.Level": Level.HIGH,
    "target.Text": Text("x"),
    "memoryview": memoryview(b"x"),
    "range": range(3),
    "function": echo,
    "type": int,
    "_io.StringIO": io.StringIO(),
}
REFUSED_RESULTS = list(_STRANGE)


def _expose(context: privsep.Context) -> privsep.Context:
    functions: tuple[Callable[..., object], ...] = (
        echo,
        make_bytes,
        sleep,
        wait_for_end,
        print_at_end,
        log_much,
        print_much,
        keywords,
        open_descriptors,
        process_id,
        count_arguments,
        return_file,
        count_up,
        count_to_three,
        yield_files,
        yield_much,
    )
    for function in functions:
        context.entrypoint(function)  # pyright: ignore[reportArgumentType] - several
    context.entrypoint(window=0)(answer)
    return context


processes = _expose(privsep.Context("processes", capabilities=[], timeout=120.0))
threads = _expose(
    privsep.Context("threads", capabilities=[], timeout=120.0, isolation="thread")
)
patient = _expose(privsep.Context("patient", capabilities=[], timeout=None))
month = _expose(privsep.Context("month", capabilities=[], timeout=31 * 86400.0))
frugal = _expose(
    privsep.Context("frugal", capabilities=[], timeout=120.0, max_message=256 * 1024)
)

processes_echo = processes.entrypoint(echo_again)
processes_keywords = processes.entrypoint(keywords_again)
processes_strange_result = processes.entrypoint(strange_result)


class _Table(dict[bytes, Any]):
    """Imports what it is asked for, as oslo's; one import hangs."""

    def __missing__(self, name: bytes) -> object:
        if name == b"target.hangs":
            threading.Event().wait()
        raise KeyError(name)


class _Filled(privsep.Context):
    def begin_serving(self) -> dict[bytes, Any]:
        return _Table(super().begin_serving())


filled = _expose(_Filled("filled", capabilities=[], timeout=None))
