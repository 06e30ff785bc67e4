"""`aio`: any entrypoint, for callers in an event loop.

Runs on both sides: a module may use it beside its entrypoints, which a daemon
imports, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, TypeVar, overload

from privsep import _stand_ins
from privsep.context import entry_of

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Callable,
        Coroutine,
        Generator,
        Iterator,
    )
    from typing import Any

P = ParamSpec("P")
R = TypeVar("R")
Y = TypeVar("Y")
S = TypeVar("S")


@overload
def aio(
    entrypoint: Callable[P, Coroutine[Any, Any, R]],
) -> Callable[P, Coroutine[Any, Any, R]]: ...


@overload
def aio(  # type: ignore[overload-overlap]  # R is no iterator then
    entrypoint: Callable[P, AsyncGenerator[Y, S]],
) -> Callable[P, AsyncGenerator[Y, S]]: ...


@overload
def aio(  # type: ignore[overload-overlap]  # R is no iterator then
    entrypoint: Callable[P, AsyncIterator[Y]],
) -> Callable[P, AsyncIterator[Y]]: ...


@overload
def aio(  # type: ignore[overload-overlap]  # R is no iterator then
    entrypoint: Callable[P, Generator[Y, S, Any]],
) -> Callable[P, AsyncGenerator[Y, S]]: ...


@overload
def aio(  # type: ignore[overload-overlap]  # R is no iterator then
    entrypoint: Callable[P, Iterator[Y]],
) -> Callable[P, AsyncIterator[Y]]: ...


@overload
def aio(entrypoint: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]: ...


def aio(entrypoint: Callable[..., Any]) -> Callable[..., Any]:
    """Return an entrypoint for callers in a loop of asyncio or trio.

    ``await aio(function)(...)`` calls a function, ``async for item in
    aio(generator)(...)`` goes through a generator; the loop goes on meanwhile, and
    no thread is used.  If the task is cancelled, the worker is killed.

    Args:
        entrypoint: of any kind; one that is asynchronous is returned as it is.

    Returns:
        A function with its parameters, which returns a coroutine, or an
        asynchronous generator.

    Raises:
        TypeError: it is no entrypoint.

    """
    found = entry_of(entrypoint)
    if found is None:
        msg = f"{entrypoint!r} is no entrypoint: use aio() on what @entrypoint returned"
        raise TypeError(msg)
    context, entry = found
    if entry.is_asynchronous:
        return entrypoint
    if entry.is_stream:
        return _stand_ins.asynchronous_stream(context, entry)
    return _stand_ins.awaitable(context, entry)
