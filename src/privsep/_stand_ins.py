"""What is called instead of an entrypoint that is no plain function.

Runs on both sides, as `context`, which has the plain one's: a service calls it, and in
the daemon of the context it runs the function in place.  Only contexts with such
entrypoints load it.
"""

from __future__ import annotations

from privsep.context import ASYNC_GENERATOR, COROUTINE, GENERATOR, resemble

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from typing import Any, Final

    from privsep._boundary import parameters
    from privsep.context import Context, Entry


def stream(context: Context, entry: Entry) -> Callable[..., object]:
    """Return what is called instead of a generator function."""
    function = entry.function
    crossing = _crossing_once(context, entry)

    def call(*args: object, **kwargs: object) -> object:
        if context.runs_here(entry):
            return function(*args, **kwargs)
        from privsep._client import streams  # noqa: PLC0415 - see _daemon

        client = context.client or context.new_client()
        talk = streams.Conversation(client, entry, args, kwargs, crossing())
        return streams.Stream(client, talk)

    resemble(call, function)
    return call


def awaitable(context: Context, entry: Entry) -> Callable[..., object]:
    """Return what is called in an event loop instead of a function."""
    crossing = _crossing_once(context, entry)

    async def call(*args: object, **kwargs: object) -> object:
        if context.runs_here(entry):
            result: Any = entry.function(*args, **kwargs)
            return await result if entry.shape == COROUTINE else result
        from privsep._client import asynchronous  # noqa: PLC0415 - see _daemon

        client = context.client or context.new_client()
        row = client.row_for(entry, args, kwargs)
        crosses = crossing()
        if crosses is None:
            return await asynchronous.call(client, row, args, kwargs)
        lowered = crosses.lower(args, kwargs)
        return crosses.rebuild(await asynchronous.call(client, row, *lowered))

    resemble(call, entry.function)
    return call


def asynchronous_stream(context: Context, entry: Entry) -> Callable[..., object]:
    """Return what is called in an event loop instead of a generator function."""
    crossing = _crossing_once(context, entry)

    def call(*args: object, **kwargs: object) -> object:
        if context.runs_here(entry):
            items: Any = entry.function(*args, **kwargs)
            return _asynchronous(items) if entry.shape == GENERATOR else items
        from privsep._client import asynchronous, streams  # noqa: PLC0415 - see _daemon

        client = context.client or context.new_client()
        talk = streams.Conversation(client, entry, args, kwargs, crossing())
        return asynchronous.AsyncStream(client, talk)

    resemble(call, entry.function)
    return call


#: by the shape of the function
MAKERS: Final[dict[int, Callable[[Context, Entry], Callable[..., Any]]]] = {
    GENERATOR: stream,
    COROUTINE: awaitable,
    ASYNC_GENERATOR: asynchronous_stream,
}


def _crossing_once(
    context: Context, entry: Entry
) -> Callable[[], parameters.Crossing | None]:
    """Return what returns `Context.crossing_of`, which it asks at the first call."""
    found: list[parameters.Crossing | None] = []

    def crossing() -> parameters.Crossing | None:
        if not found:
            found.append(context.crossing_of(entry))
        return found[0]

    return crossing


async def _asynchronous(items: Iterable[object]) -> AsyncIterator[object]:
    for item in items:
        yield item
