"""The contexts that are measured.

Not in the script itself: exec and sudo start a daemon that imports them.
"""

import itertools
from collections.abc import Iterator

import privsep
from benchmarks.contestants.placement import pin

WORKERS = 4

processes = privsep.Context(
    "bench", capabilities=[], workers=WORKERS, isolation="process"
)
threads = privsep.Context(
    "bench-threads", capabilities=[], workers=WORKERS, isolation="thread"
)


@processes.entrypoint
def echo(value: int) -> int:
    """Return the value, from a worker process."""
    return value


@processes.entrypoint
def echo_large(value):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Return the value, which nobody looks at."""
    return value


@processes.entrypoint
def chunks(size: int, times: int) -> Iterator[bytes]:
    """Yield the same bytes so many times."""
    item = bytes(size)
    for _ in range(times):
        yield item


@processes.entrypoint(timeout=None)
def count() -> Iterator[int]:
    """Yield numbers without end."""
    yield from itertools.count()


@processes.entrypoint
def echo_annotated(name: str, number: int, items: list[str]) -> list[str]:
    """Return the items, all arguments having been judged."""
    del name, number
    return items


@processes.entrypoint
def echo_unannotated(name, number, items):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Return the items; nobody looks at any argument."""
    del name, number
    return items


@processes.entrypoint
def pin_worker(processor: int) -> None:
    """Keep the worker on one processor; the calls of one thread go to one worker."""
    pin(processor)


@threads.entrypoint
def echo_thread(value: int) -> int:
    """Return the value, from a worker thread."""
    return value


@threads.entrypoint
def pin_daemon(processor: int) -> None:
    """Keep all workers on one processor."""
    pin(processor)
