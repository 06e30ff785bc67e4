"""A generator in the daemon, as a generator of the caller.

Runs in the client, in whichever thread asks for the next item.  As with any
generator, nothing runs until the first one is asked for.
"""

from __future__ import annotations

import builtins
import threading
from collections.abc import Generator
from time import monotonic
from typing import TYPE_CHECKING, cast

from privsep import errors
from privsep._client.exceptions import rebuild
from privsep._wire.descriptors import close_all
from privsep._wire.frames import COUNT, Kind
from privsep._wire.values import (
    Encoder,
    LimitExceeded,
    UnsupportedType,
    decode,
    decode_with_files,
)

if TYPE_CHECKING:
    from types import TracebackType
    from typing import NoReturn

    from privsep._boundary.parameters import Crossing
    from privsep._client.channel import Channel, Received
    from privsep._client.client import Client
    from privsep._client.pool import Pool
    from privsep.context import Entry

_CLOSE_WITHIN = 1.0  # seconds for a generator that makes an item nobody wants

_BUILTINS = frozenset(
    kind
    for kind in vars(builtins).values()
    if isinstance(kind, type)
    and issubclass(kind, BaseException)
    and not issubclass(kind, BaseExceptionGroup)
)


class Stream(Generator[object, object, object]):
    """A call whose result is a stream of items.

    Like a local generator it may go from thread to thread, but is in one at a time.
    """

    def __init__(
        self,
        client: Client,
        entry: Entry,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        crossing: Crossing | None,
    ) -> None:
        self._channel: Channel | None = None
        self._pool: Pool | None = None
        self._client = client
        self._entry = entry
        if crossing is not None:
            args, kwargs = crossing.lower(args, kwargs)
        self._arguments: tuple[tuple[object, ...], dict[str, object]] | None
        self._arguments = args, kwargs  #: until it has begun, or will not
        self._crossing = crossing
        self._deadline = 0.0
        self._coming = 0  #: items that were asked for and have not come
        self._busy = threading.Lock()

    def __next__(self) -> object:
        """Return the next item."""
        return self.send(None)

    def send(self, value: object) -> object:
        """Go on, with `value` as what ``yield`` returns; return the next item.

        Raises:
            StopIteration: there is none; its value is what the function returned.
            TypeError: a value, and the daemon may be ahead, or has not begun.
            BaseException: what the function raised, or one of privsep's errors.

        """
        self._enter()
        try:
            if self._arguments is not None:
                return self._begin(value)
            if self._own_channel() is None:
                raise StopIteration
            kind, body = self._request(value)
            return self._next_item(kind, body)
        finally:
            self._busy.release()

    def throw(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> object:
        """Raise an exception where the function stands; return the next item.

        What the daemon was ahead is dropped.  A builtin exception arrives as such,
        any other as the nearest builtin base; if the function does not catch it,
        this very exception comes back.
        """
        error = _exception(typ, val, tb)
        self._enter()
        try:
            self._arguments = None
            if self._own_channel() is None:
                raise error
            self._coming = 0
            return self._next_item(Kind.THROW, _packed(error), error)
        finally:
            self._busy.release()

    def close(self) -> None:
        """End it: the function gets GeneratorExit, and has cleaned up on return.

        If it is in the middle of an item for more than a second, its worker is
        killed.

        Raises:
            BaseException: what the function raised while it cleaned up, or ahead.

        """
        self._enter()
        try:
            self._arguments = None
            if self._channel is not None and self._channel.is_open():
                self._close(self._channel)
        finally:
            self._let_go()
            self._busy.release()

    def __del__(self) -> None:
        """End it without waiting."""
        channel, pool = self._channel, self._pool
        if channel is not None and pool is not None and channel.is_open():
            pool.abandon(channel)

    def _enter(self) -> None:
        if not self._busy.acquire(blocking=False):
            raise ValueError("generator already executing")

    def _own_channel(self) -> Channel | None:
        """Return the channel, if there is one.

        Raises:
            DaemonGone: this is a forked child of the process that has it.

        """
        channel = self._channel
        if channel is not None and not channel.is_open():
            self._channel = None
            msg = (
                f"the stream of {self._entry.name}() belongs to the process that began "
                "it, and this one was forked since"
            )
            raise errors.DaemonGone(msg)
        return channel

    def _let_go(self) -> None:
        """Give the channel back, if there is one: usable, or to be closed."""
        channel, self._channel = self._channel, None
        if channel is not None and self._pool is not None and channel.is_open():
            self._pool.give_back(channel)

    def _begin(self, value: object) -> object:
        """Call the function, and return the first item."""
        if value is not None:
            msg = "can't send non-None value to a just-started generator"
            raise TypeError(msg)
        arguments, self._arguments = self._arguments, None
        assert arguments is not None  # noqa: S101 - its caller looked
        self._pool, self._channel, self._deadline, frame = self._client.begin(
            self._entry, *arguments
        )
        try:
            self._coming = 1
            return self._take(self._channel, frame, None)
        except BaseException:
            self._let_go()
            raise

    def _request(self, value: object) -> tuple[int, bytes]:
        """Return the frame by which an item is asked for, and perhaps some more."""
        name = f"{self._entry.name}()"
        window = self._entry.window
        if value is None:
            more = window + 1 - self._coming
            return Kind.NEXT, COUNT.pack(more) if 2 * more > window else b""
        if window:
            msg = f"{name} may be ahead of its caller; for send() give it window=0"
            raise TypeError(msg)
        try:
            return Kind.SEND, Encoder().encode(value)
        except UnsupportedType as error:
            msg = f"what is sent to {name} holds a {error}, which does not cross"
            raise errors.Unserializable(msg) from None
        except LimitExceeded as error:
            msg = f"what is sent to {name} has {error}"
            raise errors.MessageTooLarge(msg) from None

    def _next_item(
        self, kind: int, body: bytes, thrown: BaseException | None = None
    ) -> object:
        """Send a frame, unless it has no body, and return the item that comes."""
        channel = cast("Channel", self._channel)
        try:
            if body:
                channel.send_to_stream(kind, body)
            if kind == Kind.NEXT and body:
                self._coming = self._entry.window + 1
            elif kind == Kind.SEND:
                self._coming = 1
            frame = channel.next_frame(self._entry, self._due())
            return self._take(channel, frame, thrown)
        except BaseException:
            self._let_go()
            raise

    def _due(self) -> float:
        """Return by when the next frame has to come."""
        return min(self._deadline, monotonic() + self._entry.item_limit)

    def _take(
        self, channel: Channel, frame: Received, thrown: BaseException | None
    ) -> object:
        """Return the item in `frame`, or the next that the caller waits for.

        Args:
            channel: of the stream.
            frame: that came first.
            thrown: what is on its way to the worker; None if it has it.

        """
        taken = thrown
        while True:
            kind, body, descriptors = frame
            if kind == Kind.ITEM and self._coming:
                self._coming -= 1
                item = (
                    decode_with_files(body, descriptors)
                    if descriptors
                    else decode(body)
                )
                return item if self._crossing is None else self._crossing.item(item)
            if kind == Kind.THROW:  # what follows comes after it
                self._coming, taken = 1, None
            elif kind == Kind.END:
                self._end(channel, thrown if body == b"\1" else None, late=taken)
            elif kind != Kind.ITEM:
                raise StopIteration(self._reply(channel, frame))
            close_all(descriptors)
            frame = channel.next_frame(self._entry, self._due())

    def _end(
        self, channel: Channel, own: BaseException | None, late: BaseException | None
    ) -> NoReturn:
        """Raise what the stream ends with.

        Args:
            channel: of the stream.
            own: what was thrown, and came through.
            late: what was thrown after the end.

        """
        channel.send_to_stream(Kind.CLOSE)
        frame = channel.next_frame(self._entry, self._deadline)
        ending: BaseException
        try:
            ending = StopIteration(self._reply(channel, frame))
            if late is not None:
                ending = late
        except BaseException as error:  # noqa: BLE001 - it is raised, or what it stands for
            ending = error if own is None else own
        raise ending

    def _reply(self, channel: Channel, frame: Received) -> object:
        """Return the function's result, or raise what it raised."""
        kind, body, descriptors = frame
        channel.usable = True
        if kind == Kind.ERR:
            raise rebuild(decode(body), self._client.context)
        result = decode_with_files(body, descriptors) if descriptors else decode(body)
        return result if self._crossing is None else self._crossing.rebuild(result)

    def _close(self, channel: Channel) -> None:
        channel.send_to_stream(Kind.CLOSE)
        until = min(self._deadline, monotonic() + _CLOSE_WITHIN)
        kind = Kind.ITEM
        try:
            while kind != Kind.END:
                kind, _, descriptors = channel.next_frame(self._entry, until)
                close_all(descriptors)
        except errors.CallTimeout:
            if monotonic() < self._deadline:
                return  # it was killed as it went on with its item
            raise
        self._reply(channel, channel.next_frame(self._entry, self._deadline))


def _exception(
    kind: type[BaseException] | BaseException,
    value: object,
    traceback: TracebackType | None,
) -> BaseException:
    """Return the exception that `throw` was given in one of its three forms."""
    if isinstance(kind, BaseException):
        error = kind
    elif isinstance(value, kind):
        error = value
    elif value is None:
        error = kind()
    else:
        error = kind(*value) if isinstance(value, tuple) else kind(value)
    return error if traceback is None else error.with_traceback(traceback)


def _packed(error: BaseException) -> bytes:
    """Return an exception as the worker takes it: a builtin name, and arguments."""
    kind = next(base for base in type(error).__mro__ if base in _BUILTINS)
    arguments: list[object] = list(error.args)
    encoder = Encoder()
    try:
        kind(*arguments)
        return encoder.encode([kind.__name__, arguments])
    except Exception:  # noqa: BLE001 - it takes others, or they do not cross
        kind = Exception if issubclass(kind, Exception) else BaseException
        return encoder.encode([kind.__name__, [str(error)]])
