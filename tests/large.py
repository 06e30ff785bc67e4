"""Contexts whose entrypoints take and return large values."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import privsep

if TYPE_CHECKING:
    from collections.abc import Callable

MEBIBYTE = 1 << 20
MOST = 8 * MEBIBYTE  #: of the bounded contexts' messages


def echo(value: object) -> object:
    return value


def make(count: int, size: int) -> list[bytes]:
    return [bytes(size) for _ in range(count)]


def take(*values: bytes, **more: bytes) -> dict[str, int]:
    """Return the size of each argument."""
    sizes = {str(place): len(value) for place, value in enumerate(values)}
    return sizes | {name: len(value) for name, value in more.items()}


def fail(value: object) -> None:
    raise ValueError(value)


def worker() -> int:
    return threading.get_native_id()


class Large:
    """A context, and its entrypoints as attributes."""

    def __init__(self, context: privsep.Context) -> None:
        self.context = context
        self.echo: Callable[..., Any] = context.entrypoint(echo)
        self.make = context.entrypoint(make)
        self.fail = context.entrypoint(fail)
        self.worker = context.entrypoint(worker)
        self.take = context.entrypoint(take)


processes = privsep.Context("large", capabilities=[], timeout=120.0)
threads = privsep.Context(
    "large-threads", capabilities=[], timeout=120.0, isolation="thread"
)
bounded = privsep.Context(
    "large-bounded", capabilities=[], timeout=120.0, max_message=MOST
)
bounded_threads = privsep.Context(
    "large-bounded-threads",
    capabilities=[],
    timeout=120.0,
    max_message=MOST,
    isolation="thread",
)
services = {
    context.name: Large(context)
    for context in (processes, threads, bounded, bounded_threads)
}
