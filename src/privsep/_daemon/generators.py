"""Running a generator in steps, as its consumer asks for items.

Runs in a worker, and is loaded by daemons that have such an entrypoint.  All that a
client sends in the course of a stream is read here; docs/architecture.md has the
frames and their order.
"""

from __future__ import annotations

import builtins
import math
import select
from time import monotonic

from privsep import errors
from privsep._wire.frames import COUNT, HEADER, FrameTooLarge, Interrupted, Kind
from privsep._wire.values import LimitExceeded, Malformed, UnsupportedType, decode

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol, TypeAlias

    from privsep._daemon.serve import Channel
    from privsep.context import Entry

    class Steps(Protocol):
        """What a generator is, as far as it is needed."""

        def send(self, value: object, /) -> object: ...

        def throw(self, error: BaseException, /) -> object: ...

        def close(self) -> object: ...

    #: a method of the generator, and what it is called with
    _Step: TypeAlias = tuple[Callable[..., object], object]

#: answers of a client that is ready for what goes beside an item
_READY = (Kind.ATTACH, Kind.SEGMENTS)
#: what may be thrown: the wire names no other class
_THROWN: dict[str, type[BaseException]] = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
}


def run(
    entry: Entry, args: list[object], kwargs: dict[str, object], channel: Channel
) -> object:
    """Run a generator function; see `privsep._daemon.serve.Run`."""
    steps: Steps = entry.function(*args, **kwargs)  # type: ignore[assignment]
    return run_generator(entry, steps, channel)


def run_generator(entry: Entry, generator: Steps, channel: Channel) -> object:
    """Send the items of `generator`; return what it returned, or raise what it raised.

    Raises:
        Interrupted: the client is gone.

    """
    stream = _Stream(entry, generator, channel)
    frames = channel.frames
    # The slot has the deadline of the stream, which goes on while a frame is read.
    begun, frames.begun = frames.begun, None
    try:
        return stream.run()
    except _Violation as error:
        raise errors.Refused(str(error)) from None
    except OSError as error:
        if error is stream.raised:
            raise
        raise Interrupted from error
    finally:
        frames.begun = begun
        if channel.slot.audit is not None:
            channel.slot.audit.streamed(stream.items, whole=stream.whole)
            if stream.raised is not None:
                channel.slot.audit.raised(stream.raised)


class _Violation(Exception):
    """The client sent what it may not."""


class _Stream:
    """One run of a generator."""

    def __init__(self, entry: Entry, generator: Steps, channel: Channel) -> None:
        self.items = 0  #: that were sent
        self.whole = True  #: its consumer let it come to its end
        self.raised: BaseException | None = None  #: by the generator itself
        self._entry = entry
        self._generator = generator
        self._frames, self._encoder, self._slot, limit = channel
        self._until = monotonic() + limit
        self._lower_item, self._lower_result = entry.lower
        self._admitted = 0  #: items that may be made, beyond the next
        self._asked: tuple[int, bytes | memoryview] | None = None  #: THROW, SEND, CLOSE
        self._thrown: BaseException | None = None
        self._poll = select.poll()
        self._poll.register(self._frames.sock, select.POLLIN)

    def run(self) -> object:
        """Make and send items until there is none, or none is wanted."""
        step: _Step | None = (self._generator.send, None)
        while step is not None:
            method, value = step
            self._allow(1)
            try:
                item = method(value)
            except StopIteration as stop:
                self._end()
                result = stop.value
                return self._lower_result(result) if self._lower_result else result
            except BaseException as error:
                self.raised = error
                self._end(came_through=error is self._thrown)
                raise
            self._allow(self._entry.window + 1)
            step = self._hand_over(item)
        self.whole = False
        self._frames.send(Kind.END, b"\0")
        try:
            self._generator.close()
        except BaseException as error:
            self.raised = error
            raise
        return None

    def _allow(self, items: int) -> None:
        """Give generator, or consumer, the time for so many items."""
        if self._entry.item_limit != math.inf:
            left = self._until - monotonic()
            self._slot.begin(min(left, items * self._entry.item_limit))

    def _hand_over(self, item: object) -> _Step | None:
        """Send an item; return how to go on, None if no more is wanted."""
        try:
            try:
                body = self._pack(item)
            except BaseException:
                self._clean_up()
                self._end()
                raise
            self._send(body)
            return self._next_step()
        except (OSError, _Violation):  # the client is gone, or might as well be
            self.whole = False
            self._clean_up()
            raise

    def _clean_up(self) -> None:
        """Close the generator; nobody is there for what it raises."""
        try:
            self._generator.close()
        except BaseException:  # noqa: BLE001 - as the interpreter does
            import traceback  # noqa: PLC0415 - hardly ever

            traceback.print_exc()

    def _pack(self, item: object) -> bytes:
        name = f"item {self.items + 1} of {self._entry.name}()"
        try:
            if self._lower_item is not None:
                item = self._lower_item(item)
            body = self._encoder.encode(item)
        except UnsupportedType as error:
            msg = (
                f"{name} holds a value of type {error}, which does not cross: yield "
                "plain values; for an enum or a dataclass, annotate the items with it"
            )
            raise errors.Unserializable(msg) from None
        except LimitExceeded as error:
            msg = f"{name} has {error}"
            raise errors.MessageTooLarge(msg) from None
        most = self._frames.max_body
        size = len(body) + self._encoder.size_beside()
        if size > most:
            self._encoder.clear()
            msg = f"{name} has {size} bytes, the limit is {most} (max_message=)"
            raise errors.MessageTooLarge(msg)
        return body

    def _send(self, body: bytes) -> None:
        head = HEADER.pack(len(body), Kind.ITEM)
        encoder = self._encoder
        if not encoder.something_beside:
            self._frames.send_parts(head, body)
        else:
            try:
                self._frames.send_beside(
                    head, body, encoder.files, encoder.segments, self._read_answer
                )
            finally:
                encoder.clear()
        self.items += 1

    def _read_answer(self) -> tuple[int, bytes]:
        """Read until the client is ready for what goes beside an item."""
        kind = 0
        while kind not in _READY:
            kind = self._read()
        return kind, b""

    def _end(self, *, came_through: bool = False) -> None:
        """Say that there is no more, and wait until the consumer has heard of it."""
        self._allow(self._entry.window + 1)  # it may have all items to take yet
        self._frames.send(Kind.END, bytes([came_through]))
        while self._asked is None or self._asked[0] != Kind.CLOSE:
            self._asked = None  # it has come too late
            self._read()

    # -- what the client sends -------------------------------------------------

    def _next_step(self) -> _Step | None:
        """Return what the consumer asks for, waiting until it does; None: no more."""
        while self._asked is None and (not self._admitted or self._has_come()):
            kind = self._read()
            if kind in _READY:
                raise _violation(kind)
        if self._asked is None:
            self._admitted -= 1
            return self._generator.send, None
        (kind, body), self._asked = self._asked, None
        if kind == Kind.CLOSE:
            return None
        if kind == Kind.SEND:
            if self._admitted or self._entry.window:
                raise _violation(kind)
            return self._generator.send, _value(kind, body)
        self._admitted = 0
        self._thrown = _exception(body)
        self._frames.send(Kind.THROW)
        return self._generator.throw, self._thrown

    def _has_come(self) -> bool:
        return bool(self._frames.rest) or bool(self._poll.poll(0))

    def _read(self) -> int:
        """Read a frame, having seen that it may come now; return its kind."""
        try:
            frame = self._frames.receive()
        except FrameTooLarge as error:
            raise _violation(error.kind) from None
        if frame is None:
            raise Interrupted
        self._frames.drop_descriptors()
        kind, body = frame
        if kind == Kind.NEXT and len(body) == COUNT.size:
            (more,) = COUNT.unpack(body)
            if not 1 <= more <= self._entry.window + 1 - self._admitted:
                raise _violation(kind)
            self._admitted += more
        elif kind in (Kind.SEND, Kind.THROW) or (kind == Kind.CLOSE and not body):
            if self._asked is not None:
                raise _violation(kind)
            self._asked = frame
        elif kind not in _READY or body:
            raise _violation(kind)
        return kind


def _violation(kind: int) -> _Violation:
    return _Violation(f"a frame {kind} that may not come now in a stream, or not so")


def _value(kind: int, body: bytes | memoryview) -> object:
    try:
        return decode(body)
    except (LimitExceeded, Malformed, MemoryError):
        raise _violation(kind) from None


def _exception(body: bytes | memoryview) -> BaseException:
    """Return what is to be thrown: a builtin exception, of plain values."""
    value = _value(Kind.THROW, body)
    if type(value) is list and len(value) == 2 and type(value[1]) is list:  # noqa: PLR2004
        name, arguments = value
        kind = _THROWN.get(name) if type(name) is str else None
        try:
            if kind is not None:
                return kind(*arguments)
        except Exception:  # noqa: BLE001, S110 - it takes other arguments
            pass
    raise _violation(Kind.THROW)
