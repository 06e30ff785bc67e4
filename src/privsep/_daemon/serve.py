"""Serving one channel: read a CALL, run it, write its reply, until it closes.

Runs in a worker, a process or a thread.  This is the only place that reads what
a client sends on a channel.  The order is: header, name, table, deadline, and
only then the arguments.
"""

from __future__ import annotations

import select
import struct
import sys

from privsep import errors
from privsep._daemon import exceptions
from privsep._wire.frames import (
    CALL_HEADER,
    FOREVER,
    HEADER,
    Declined,
    DescriptorsLost,
    Frames,
    FrameTooLarge,
    Interrupted,
    Kind,
)
from privsep._wire.typed import NamedTuple
from privsep._wire.values import (
    Encoder,
    LimitExceeded,
    Malformed,
    UnsupportedType,
    decode,
    decode_with,
)

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from typing import Protocol

    from privsep._daemon.output import LogLine
    from privsep._daemon.records import RecordSender
    from privsep._daemon.slots import Slot
    from privsep._wire.frames import Beside
    from privsep.context import Entry

    class Run(Protocol):
        """How an entrypoint runs that is no plain function."""

        def __call__(
            self,
            entry: Entry,
            args: list[object],
            kwargs: dict[str, object],
            channel: Channel,
        ) -> object:
            """Return its result, or raise what it raised.

            Raises:
                Interrupted: the client is gone, and no reply is sent.

            """
            ...


SEND_TIMEOUT = 60.0
_NAME = CALL_HEADER.size
_STR = frozenset({str})


class Logging:
    """The daemon's logging, from when something imports the logging module.

    A daemon whose functions never log does not load it.
    """

    def __init__(self) -> None:
        self.level = -1  #: at which the process logs; -1: it does not log yet
        self._sender: RecordSender | None = None

    def install(self) -> None:
        """Send all records to the client, if the logging module is loaded."""
        if self._sender is None and "logging" in sys.modules:
            from privsep._daemon import records  # noqa: PLC0415

            self._sender = records.install()

    def use_line(self, line: LogLine | None) -> None:
        """Send records that belong to no call to `line`."""
        if self._sender is not None:
            self._sender.use_line(line)

    def use_frames(self, frames: Frames | None) -> None:
        """Send what this thread logs to `frames`: no code runs in it between calls."""
        if self._sender is not None:
            self._sender.use_frames(frames)

    def set_level(self, frames: Frames, level: int) -> None:
        """Log from `level` on, as the client of the call that begins handles it."""
        self.install()
        if self._sender is not None:
            self.use_frames(frames)
            self._sender.set_level(level)
            self.level = level


class Channel(NamedTuple):
    """What a running call has of its channel, if it does more than to reply."""

    frames: Frames
    encoder: Encoder
    slot: Slot
    limit: float  #: seconds that the call has from now on


class Service:
    """All that serving a channel needs: the table, the limits, the logging."""

    def __init__(
        self, context_name: str, table: Mapping[bytes, Entry], max_message: int
    ) -> None:
        self._context_name = context_name
        self._table = table
        self._max_message = max_message
        self.logging = Logging()

    def serve(self, sock: socket.socket, slot: Slot) -> None:
        """Answer calls on `sock` until it closes or the slot says to retire."""
        frames = Frames(sock, self._max_message, slot.begin_reading, expects=True)
        self.logging.use_frames(frames)
        try:
            self._serve_calls(frames, Encoder(beside=True), slot)
            slot.begin(SEND_TIMEOUT)
            frames.send(Kind.BYE)
        except (OSError, Declined):
            # The client is gone, or it plays with the socket (O_NONBLOCK set
            # from outside), or it takes no such reply: there is nobody to answer.
            pass
        finally:
            self.logging.use_frames(None)
            if slot.loop is not None:
                slot.loop.close()
            if slot.audit is not None:
                slot.audit.end()

    def _serve_calls(self, frames: Frames, encoder: Encoder, slot: Slot) -> None:
        """Serve one call after the other; return when there shall be no other.

        A call runs through this loop, `_answer` and little else: each function on
        the way costs it a percent.
        """
        beside: Beside | None = None
        while True:
            try:
                frame = frames.receive()
                if frame is None:
                    return
                kind, message = frame
                if kind != Kind.CALL:
                    kind, message, beside = frames.receive_beside(kind, message)
                    if kind != Kind.CALL:
                        return
                kind, body = self._answer(message, beside, frames, encoder, slot)
            except Interrupted:
                return
            except (FrameTooLarge, DescriptorsLost) as error:
                reply = errors.MessageTooLarge(str(error))
                kind, body = self._refuse(reply, b"", slot)
            finally:
                if beside is not None:
                    beside.drop()
                    beside = None
            head = HEADER.pack(len(body), kind)
            if encoder.something_beside:
                frames.send_beside(head, body, encoder.files, encoder.segments)
                encoder.clear()
            else:
                frames.send_parts(head, body)
            if slot.end():
                return

    def _answer(  # noqa: C901, PLR0911, PLR0912, PLR0915 - all of a call, as said above
        self,
        message: bytes | memoryview,
        beside: Beside | None,
        frames: Frames,
        encoder: Encoder,
        slot: Slot,
    ) -> tuple[int, bytes]:
        """Run the CALL in `message`; return the kind and the body of the reply.

        What it leaves of `beside` is the caller's to drop.
        """
        body: bytes
        try:
            timeout, level, name_size = CALL_HEADER.unpack_from(message)
            end = _NAME + name_size
            name = message[_NAME:end]
            if type(name) is not bytes:  # of a large message, a view
                name = bytes(name)
            entry = self._table.get(name)
            if entry is None:  # there is none, or a module is imported to find it
                slot.begin(timeout if timeout > 0 else FOREVER)
                entry = self._table[name]
            limit = entry.limit
            if slot.begin(timeout if 0 <= timeout < limit else limit):
                _see_that_it_can_be_read(frames.sock)
            packed = message[end:]
            is_packed = entry.packed
            if is_packed:
                shown = args, kwargs = _one_argument(packed)
            else:
                shown = args, kwargs = _arguments(
                    decode(packed) if beside is None else decode_with(packed, *beside)
                )
        except struct.error:
            reply = errors.Refused("a CALL without header")
            return self._refuse(reply, b"", slot)
        except KeyError as error:
            name = error.args[0]
            return self._refuse(self._unknown(name), name, slot)
        except (LimitExceeded, Malformed, MemoryError) as error:
            name = _name(message)
            return self._refuse(_why_malformed(error), name, slot)
        if entry.detach:
            slot.detach()  # its worker is its own: it retires afterwards
        if level != self.logging.level:
            self.logging.set_level(frames, level)
        held: list[int] = []
        if entry.check is not None:
            try:
                if slot.audit is not None:
                    shown = entry.check.redacted(args, kwargs)
                args, kwargs, held = entry.check(args, kwargs)
            except errors.Refused as refusal:
                return self._refuse(refusal, name, slot)
        try:
            if slot.audit is not None and (why := slot.audit.begin(name, *shown)):
                slot.begin(SEND_TIMEOUT)  # the audit knows of it, or cannot be told
                return Kind.ERR, exceptions.describe(errors.Refused(why), Encoder())
            if is_packed:
                kind, body = Kind.RET, entry.function(packed)  # type: ignore[assignment]
            elif entry.run is None:
                kind, body = Kind.RET, encoder.encode(entry.function(*args, **kwargs))
            else:
                left = timeout if 0 <= timeout < limit else limit
                channel = Channel(frames, encoder, slot, left)
                result = entry.run(entry, args, kwargs, channel)
                kind, body = Kind.RET, encoder.encode(result)
        except Interrupted:
            raise
        except BaseException as error:  # noqa: BLE001 - all of them cross
            kind, body = Kind.ERR, self._describe(error, entry, slot)
        finally:
            if held and entry.check is not None:
                entry.check.release(held)
        if limit == FOREVER:
            slot.begin(SEND_TIMEOUT)
        size = len(body)
        if encoder.something_beside:
            size += encoder.size_beside()
        if size > self._max_message:
            encoder.clear()
            return Kind.ERR, self._too_large(entry, size)
        return kind, body

    @staticmethod
    def _refuse(
        error: errors.PrivsepError, name: bytes, slot: Slot
    ) -> tuple[int, bytes]:
        """Return a reply that says why nothing ran."""
        slot.begin(SEND_TIMEOUT)
        if slot.audit is not None:
            slot.audit.refused(name, str(error))
        return Kind.ERR, exceptions.describe(error, Encoder())

    def _describe(self, error: BaseException, entry: Entry, slot: Slot) -> bytes:
        """Describe what the function raised, or why its result does not cross."""
        if type(error) is UnsupportedType:  # isinstance asks its __class__
            error = errors.Unserializable(
                f"{entry.name}() returned a value of type {error}, which does not "
                "cross: return plain values; for an enum or a dataclass, annotate the "
                "result with it"
            )
        elif type(error) is LimitExceeded:
            error = errors.MessageTooLarge(f"the result of {entry.name}() has {error}")
        if slot.audit is not None:
            slot.audit.raised(error)
        return exceptions.describe(error, Encoder(), self._max_message)

    def _unknown(self, name: bytes) -> errors.Refused:
        shown = name.decode("utf-8", "backslashreplace")
        msg = (
            f"{shown[:200]!r} is not an entrypoint of context "
            f"{self._context_name!r}: the daemon serves what was registered before "
            "it started, by modules that it imports (see modules=)"
        )
        return errors.Refused(msg)

    def _too_large(self, entry: Entry, size: int) -> bytes:
        msg = (
            f"the result of {entry.name}() makes a message of {size} bytes, the limit "
            f"is {self._max_message} (max_message=)"
        )
        return exceptions.describe(errors.MessageTooLarge(msg), Encoder())


def _arguments(value: object) -> tuple[list[object], dict[str, object]]:
    """Return the arguments and keywords of a CALL, having seen that they are.

    Raises:
        Malformed: they are not.

    """
    if type(value) is list and len(value) == 2:  # noqa: PLR2004
        args, kwargs = value
        plain = type(args) is list and type(kwargs) is dict
        if plain and (not kwargs or _STR.issuperset(map(type, kwargs))):
            return args, kwargs
    raise Malformed("not [arguments, keywords]")


def _see_that_it_can_be_read(sock: socket.socket) -> None:
    """Look whether the supervisor took this worker for an idle one.

    Raises:
        Interrupted: it did, and has shut down what the worker reads.

    """
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    if poll.poll(0):
        raise Interrupted


def _one_argument(value: object) -> tuple[list[object], dict[str, object]]:
    return [value], {}


def _name(message: bytes | memoryview) -> bytes:
    """Return the name in a CALL whose arguments are malformed."""
    size = CALL_HEADER.unpack_from(message)[2]
    return bytes(message[_NAME : _NAME + size])


def _why_malformed(error: Exception) -> errors.PrivsepError:
    if isinstance(error, LimitExceeded):
        return errors.MessageTooLarge(str(error))
    if isinstance(error, MemoryError):
        msg = "the worker has no memory for the arguments (memory=)"
        return errors.MessageTooLarge(msg)
    return errors.Refused(f"a CALL that is none: {error}")
