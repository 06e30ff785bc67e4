"""Daemons that die in a call, when the client says so by the name that it calls.

Runs in the daemon of a test, in no other: beside each entrypoint its table has a row
for each fault.  So a call itself says whether it is the fatal one, and nothing has to
be told to a daemon that runs.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import aclosing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal, NoReturn

from privsep._wire.frames import call_head
from privsep.context import ASYNC_GENERATOR, COROUTINE, GENERATOR, PLAIN, Context

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from contextlib import AbstractContextManager
    from types import CodeType, FrameType
    from typing import Any, TypeAlias

    from _typeshed import TraceFunction

    from privsep.context import Entry

    #: in which part of the call that it was sent
    Fault: TypeAlias = Literal["during", "after"]
    _Function: TypeAlias = Callable[..., Any]
    _Enter: TypeAlias = Callable[[], AbstractContextManager[None]]


def fatal(entry: Entry, fault: Fault) -> Entry:
    """Return the row that a client calls instead of `entry`."""
    name = entry.wire_name + b" dies " + fault.encode()
    return entry._replace(wire_name=name, head=call_head(name))


def with_fatal(
    table: dict[bytes, Entry], die: Callable[[], object]
) -> dict[bytes, Entry]:
    """Return `table` with a row more for each fault; `die` ends the daemon."""
    rows = dict(table)
    for entry in table.values():
        for row, wrap in (
            (fatal(entry, "during"), _dying_during),
            (fatal(entry, "after"), _dying_after),
        ):
            around = _AROUND[entry.shape]
            fault = partial(wrap, entry.function, die)
            function = around(entry.function, fault)
            rows[row.wire_name] = row._replace(function=function)
    return rows


@contextmanager
def _dying_after(
    function: object, die: Callable[[], object]
) -> Generator[None, None, None]:
    """Let a function run, and die, whatever it ended with."""
    del function
    try:
        yield
    finally:
        die()


@contextmanager
def _dying_during(
    function: object, die: Callable[[], object]
) -> Generator[None, None, None]:
    """Die when the first line of `function` has run."""
    sys.settrace(_tracer(_code_of(function), die))
    try:
        yield
    finally:
        sys.settrace(None)


def _around_plain(function: _Function, fault: _Enter) -> _Function:
    def run(*args: object, **kwargs: object) -> object:
        with fault():
            return function(*args, **kwargs)

    return run


def _around_generator(function: _Function, fault: _Enter) -> _Function:
    def run(*args: object, **kwargs: object) -> Generator[object, object, object]:
        with fault():
            result: object = yield from function(*args, **kwargs)
            return result

    return run


def _around_coroutine(function: _Function, fault: _Enter) -> _Function:
    async def run(*args: object, **kwargs: object) -> object:
        with fault():
            result: object = await function(*args, **kwargs)
            return result

    return run


def _around_async_generator(function: _Function, fault: _Enter) -> _Function:
    async def run(*args: object, **kwargs: object) -> AsyncGenerator[object, object]:
        with fault():
            async with aclosing(function(*args, **kwargs)) as items:
                step = items.asend(None)
                while True:  # what `yield from` does, which is for generators only
                    try:
                        item = await step
                    except StopAsyncIteration:
                        return
                    try:
                        sent = yield item
                    except GeneratorExit:
                        raise
                    except BaseException as error:  # noqa: BLE001 - the function's
                        step = items.athrow(error)
                    else:
                        step = items.asend(sent)

    return run


#: by shape: the same function, within what is fatal
_AROUND: dict[int, Callable[[_Function, _Enter], _Function]] = {
    PLAIN: _around_plain,
    GENERATOR: _around_generator,
    COROUTINE: _around_coroutine,
    ASYNC_GENERATOR: _around_async_generator,
}


def _code_of(function: object) -> CodeType | None:
    while (wrapped := getattr(function, "__wrapped__", None)) is not None:
        function = wrapped
    return getattr(function, "__code__", None)


def _tracer(code: CodeType | None, die: Callable[[], object]) -> TraceFunction:
    lines = 0

    def trace(frame: FrameType, event: str, argument: object) -> TraceFunction | None:
        nonlocal lines
        del argument
        if frame.f_code is not code:
            return None
        lines += event == "line"
        if lines > 1 or event == "return":
            die()
        return trace

    return trace


@contextmanager
def served() -> Generator[None, None, None]:
    """Have the daemons that are forked meanwhile serve faults, too."""
    begin = Context.begin_serving

    def begin_serving(self: Context) -> dict[bytes, Entry]:
        die = _kill_threads if self.isolation == "thread" else _kill_supervisor
        return with_fatal(begin(self), die)

    Context.begin_serving = begin_serving  # type: ignore[method-assign]
    try:
        yield
    finally:
        Context.begin_serving = begin  # type: ignore[method-assign]


def serve_userns() -> NoReturn:
    """Be the daemon of a test, in the namespaces that the arguments name."""
    from privsep._start import helper  # noqa: PLC0415 - it is loaded by now

    with served():
        helper.serve_userns()


def _kill_threads() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _kill_supervisor() -> NoReturn:
    """Kill the parent of this worker, which dies with it."""
    os.kill(os.getppid(), signal.SIGKILL)
    while True:
        signal.pause()
