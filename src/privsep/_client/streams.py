"""A generator in the daemon, as a generator of the caller.

Runs in the client, in whichever thread asks for the next item.  As with any
generator, nothing runs until the first one is asked for.
"""

from __future__ import annotations

import builtins
import threading
from collections.abc import Generator
from time import monotonic
from typing import TYPE_CHECKING

from privsep import errors
from privsep._client.exceptions import rebuild
from privsep._wire.frames import COUNT, Kind
from privsep._wire.values import (
    Encoder,
    LimitExceeded,
    UnsupportedType,
    decode,
    decode_with,
)

if TYPE_CHECKING:
    from types import TracebackType
    from typing import TypeAlias

    from privsep._boundary.parameters import Crossing
    from privsep._client.channel import Channel, Received
    from privsep._client.client import Client
    from privsep._client.pool import Pool
    from privsep.context import Entry

    #: yields a frame to be sent, or until when to wait for one, which it is sent
    Steps: TypeAlias = Generator[tuple[int, bytes] | float, Received, object]

_CLOSE_WITHIN = 1.0  # seconds for a generator that makes an item nobody wants

# Of a THROW, the most bytes of its arguments, or characters of its text.  All of it has
# to find room in the socket: a worker that sends items ahead does not read meanwhile.
_MOST_THROWN = 8 * 1024

_BUILTINS = frozenset(
    kind
    for kind in vars(builtins).values()
    if isinstance(kind, type) and issubclass(kind, BaseException)
)


class Over(Exception):
    """The generator has returned `result`."""

    def __init__(self, result: object = None) -> None:
        self.result = result


class Conversation:
    """What is said on a channel for one stream; without the sending and receiving.

    Args:
        client: of the context.
        entry: the generator function.
        args: its arguments by place.
        kwargs: its arguments by name.
        crossing: makes of arguments what crosses, and of what crosses items.

    """

    def __init__(
        self,
        client: Client,
        entry: Entry,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        crossing: Crossing | None,
    ) -> None:
        self.given = args, kwargs
        if crossing is not None:
            args, kwargs = crossing.lower(args, kwargs)
        self.entry = entry
        self.deadline = 0.0
        self.coming = 0  #: items that were asked for and have not come
        self._pool: Pool | None = None
        self._channel: Channel | None = None
        self._context = client.context
        self._crossing = crossing
        self._arguments: tuple[tuple[object, ...], dict[str, object]] | None
        self._arguments = args, kwargs  #: until it has begun, or will not

    def arguments(self) -> tuple[tuple[object, ...], dict[str, object]] | None:
        """Return the arguments, once; None if it has begun, or will not."""
        arguments, self._arguments = self._arguments, None
        return arguments

    def check_sent(self, value: object) -> None:
        """Raise TypeError for a value that is sent before the first item."""
        if value is not None and self._arguments is not None:
            msg = "can't send non-None value to a just-started generator"
            raise TypeError(msg)

    def begin(self, pool: Pool, channel: Channel, deadline: float) -> None:
        """Note that a CALL is sent, and so one item admitted."""
        self._pool, self._channel = pool, channel
        self.deadline = deadline
        self.coming = 1

    def channel(self) -> Channel | None:
        """Return the channel; None if it has not begun, or is over.

        Raises:
            DaemonGone: this is a forked child of the process that has it.

        """
        channel = self._channel
        if channel is not None and not channel.is_open():
            self._channel = None
            msg = (
                f"the stream of {self.entry.name}() belongs to the process that began "
                "it, and this one was forked since"
            )
            raise errors.DaemonGone(msg)
        return channel

    def own_channel(self) -> Channel | None:
        """Return the channel, if there is one and it is this process's."""
        channel = self._channel
        return channel if channel is not None and channel.is_open() else None

    def let_go(self) -> Pool | None:
        """Give the channel back, if there is one, usable or not; return its pool."""
        channel, self._channel = self.own_channel(), None
        if channel is not None and self._pool is not None:
            self._pool.give_back(channel)
        return self._pool

    def abandon(self) -> None:
        """Leave the stream, if it is under way, without waiting for its end."""
        channel, self._channel = self.own_channel(), None
        if channel is not None and self._pool is not None:
            channel.leave()
            self._pool.drop(channel)

    def due(self) -> float:
        """Return by when the next frame has to come."""
        return min(self.deadline, monotonic() + self.entry.item_limit)

    def request(self, value: object) -> tuple[int, bytes] | None:
        """Return the frame by which items are asked for; None: they are already.

        Raises:
            TypeError, Unserializable, MessageTooLarge: `value` cannot be sent.

        """
        window = self.entry.window
        if value is None:
            if 2 * self.coming > window:
                return None
            more = window + 1 - self.coming
            self.coming += more
            return Kind.NEXT, COUNT.pack(more)
        name = f"{self.entry.name}()"
        if window:
            msg = f"{name} may be ahead of its caller; for send() give it window=0"
            raise TypeError(msg)
        try:
            body = Encoder().encode(value)
        except UnsupportedType as error:
            msg = (
                f"what is sent to {name} holds a value of type {error}, which does "
                "not cross"
            )
            raise errors.Unserializable(msg) from None
        except LimitExceeded as error:
            msg = f"what is sent to {name} has {error}"
            raise errors.MessageTooLarge(msg) from None
        most = self._context.max_message
        if len(body) > most:
            msg = (
                f"what is sent to {name} has {len(body)} bytes, the limit is {most} "
                "(max_message=)"
            )
            raise errors.MessageTooLarge(msg)
        self.coming = 1
        return Kind.SEND, body

    def item(self, frame: Received) -> object:
        """Return what an ITEM holds."""
        _, body, beside = frame
        self.coming -= 1
        item = decode(body) if beside is None else decode_with(body, *beside)
        return item if self._crossing is None else self._crossing.item(item)

    def ask(self, request: tuple[int, bytes] | None) -> Steps:
        """Ask for an item, and return it."""
        if request is not None:
            yield request
        return (yield from self.take((yield self.due())))

    def throw(self, error: BaseException) -> Steps:
        """Throw an exception, and return the item that comes then."""
        self.coming = 0
        yield Kind.THROW, _packed(error)
        return (yield from self.take((yield self.due()), error))

    def take(self, frame: Received, thrown: BaseException | None = None) -> Steps:
        """Return the item in `frame`, or the next that the caller waits for.

        Raises:
            Over: there is none.
            BaseException: what the function raised, or what was thrown.

        """
        late = thrown  # None when the worker has it
        while True:
            kind, body, beside = frame
            if kind == Kind.ITEM and self.coming:
                return self.item(frame)
            if kind == Kind.THROW:  # what follows comes after it
                self.coming, late = 1, None
            elif kind == Kind.END:
                yield Kind.CLOSE, b""
                own = thrown if body == b"\1" else None
                raise self._ending((yield self.deadline), own, late)
            elif kind != Kind.ITEM:
                raise Over(self._reply(frame))
            if beside is not None:
                beside.drop()
            frame = yield self.due()

    def close(self) -> Steps:
        """Have the generator closed, and wait until it has cleaned up.

        Raises:
            BaseException: what it raised then, or ahead.

        """
        yield Kind.CLOSE, b""
        until = min(self.deadline, monotonic() + _CLOSE_WITHIN)
        kind = Kind.ITEM
        try:
            while kind != Kind.END:
                kind, _, beside = yield until
                if beside is not None:
                    beside.drop()
        except errors.CallTimeout:
            if monotonic() < self.deadline:
                return None  # it was killed, as it went on with its item
            raise
        return self._reply((yield self.deadline))

    def _ending(
        self, frame: Received, own: BaseException | None, late: BaseException | None
    ) -> BaseException:
        """Return what the stream ends with.

        Args:
            frame: the reply.
            own: what was thrown, and came through.
            late: what was thrown after the end.

        """
        try:
            over = Over(self._reply(frame))
        except BaseException as error:  # noqa: BLE001 - its caller raises it
            return error if own is None else own
        return over if late is None else late

    def _reply(self, frame: Received) -> object:
        """Return the function's result, or raise what it raised."""
        kind, body, beside = frame
        if self._channel is not None:
            self._channel.usable = True
        if kind == Kind.ERR:
            raise rebuild(decode(body), self._context)
        result = decode(body) if beside is None else decode_with(body, *beside)
        return result if self._crossing is None else self._crossing.rebuild(result)


class Stream(Generator[object, object, object]):
    """A call whose result is a stream of items.

    Like a local generator it may go from thread to thread, but is in one at a time.
    """

    def __init__(self, client: Client, conversation: Conversation) -> None:
        self._client = client
        self._conversation = conversation
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
            conversation = self._conversation
            channel = conversation.channel()
            if channel is not None:
                request = conversation.request(value)
                return self._run(channel, conversation.ask(request))
            conversation.check_sent(value)
            arguments = conversation.arguments()
            if arguments is None:
                raise StopIteration
            row = self._client.row_for(conversation.entry, *conversation.given)
            pool, channel, deadline, frame = self._client.begin_stream(row, *arguments)
            conversation.begin(pool, channel, deadline)
            return self._run(channel, conversation.take(frame))
        except Over as over:
            ending = StopIteration(over.result)
        finally:
            self._busy.release()
        raise ending

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
        error = thrown(typ, val, tb)
        self._enter()
        try:
            channel = self._conversation.channel()
            if channel is None:
                self._conversation.arguments()
                raise error
            return self._run(channel, self._conversation.throw(error))
        except Over as over:
            ending = StopIteration(over.result)
        finally:
            self._busy.release()
        raise ending

    def close(self) -> None:
        """End it: the function gets GeneratorExit, and has cleaned up on return.

        If it is in the middle of an item for more than a second, its worker is
        killed.

        Raises:
            BaseException: what the function raised while it cleaned up, or ahead.

        """
        self._enter()
        try:
            self._conversation.arguments()
            channel = self._conversation.own_channel()
            if channel is not None:
                self._run(channel, self._conversation.close())
                self._conversation.let_go()
        finally:
            self._busy.release()

    def __del__(self) -> None:
        """End it without waiting."""
        self._conversation.abandon()

    def _enter(self) -> None:
        if not self._busy.acquire(blocking=False):
            raise ValueError("generator already executing")

    def _run(self, channel: Channel, steps: Steps) -> object:
        """Send and receive what the steps want; return what they do."""
        entry = self._conversation.entry
        try:
            want = next(steps)
            while True:
                if isinstance(want, tuple):
                    channel.send_to_stream(*want)
                    want = next(steps)
                    continue
                try:
                    frame = channel.next_frame(entry, want)
                except errors.CallTimeout as late:
                    want = steps.throw(late)
                else:
                    want = steps.send(frame)
        except StopIteration as done:
            return done.value
        except BaseException:
            pool = self._conversation.let_go()
            if channel.daemon_ended and pool is not None:
                self._client.lost_with(pool)
            raise


def thrown(
    kind: type[BaseException] | BaseException,
    value: object,
    traceback: TracebackType | None,
) -> BaseException:
    """Return the exception that `throw` was given, in one of its three forms."""
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
        packed = encoder.encode([kind.__name__, arguments])
    except Exception:  # noqa: BLE001 - it takes others, or they do not cross
        packed = None
    if packed is None or len(packed) > _MOST_THROWN:
        kind = Exception if issubclass(kind, Exception) else BaseException
        packed = encoder.encode([kind.__name__, [str(error)[:_MOST_THROWN]]])
    return packed
