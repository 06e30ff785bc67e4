"""Calls and streams of a caller that runs in an event loop, of asyncio or of trio.

Runs in the client.  No thread, but to start the daemon or to see it gone: the loop
waits for the channel's socket, which is asked not to block for each sending and
receiving (MSG_DONTWAIT), so that a channel serves either kind of caller.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator
from time import monotonic
from typing import TYPE_CHECKING, cast

from privsep import errors
from privsep._client import loops
from privsep._client.channel import NotStarted
from privsep._client.exceptions import rebuild
from privsep._client.streams import Over, thrown
from privsep._wire.control import FATE_SIZE, KILL, Fate
from privsep._wire.descriptors import close_all, control_size, packed, unpacked
from privsep._wire.frames import (
    HEADER,
    Beside,
    Declined,
    DescriptorsLost,
    Frames,
    FrameTooLarge,
    Interrupted,
    Kind,
    NothingSent,
)
from privsep._wire.values import decode, decode_with

if TYPE_CHECKING:
    from types import TracebackType

    from privsep._client.channel import Channel, Received
    from privsep._client.client import Client
    from privsep._client.connection import Connection
    from privsep._client.pool import Pool
    from privsep._client.streams import Conversation, Steps
    from privsep.context import Entry

_DONTWAIT = int(socket.MSG_DONTWAIT)
_CHUNK = 64 * 1024
_FATE_TIMEOUT = 1.0


async def call(
    client: Client, entry: Entry, args: tuple[object, ...], kwargs: dict[str, object]
) -> object:
    """Call `entry` in the daemon; return its result or raise its exception.

    If the task is cancelled, the worker is killed.
    """
    pool, exchange, (kind, body, beside) = await _begin(client, entry, args, kwargs)
    try:
        exchange.channel.usable = True
        if kind == Kind.ERR:
            raise rebuild(decode(body), client.context)
        return decode(body) if beside is None else decode_with(body, *beside)
    finally:
        pool.give_back(exchange.channel)


async def _begin(
    client: Client, entry: Entry, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[Pool, _Exchange, Received]:
    """Send a CALL; return the pool, the exchange under way, and the first frame."""
    deadline = monotonic() + entry.limit
    while True:
        connection = client.connection()
        if connection is None:
            connection = await loops.in_thread(client.ensure_started)
            deadline = monotonic() + entry.limit
        pool = connection.pool
        try:
            channel = await _take(connection, deadline)
        except ConnectionError:
            await loops.in_thread(client.lost, connection)
            continue
        if channel is None:
            raise client.not_in_time(entry)
        exchange = _Exchange(channel, entry, deadline)
        try:
            frame = await exchange.begin(args, kwargs, client.level())
        except NotStarted:
            pool.give_back(channel)
            if deadline <= monotonic():
                raise client.not_in_time(entry) from None
        except BaseException as error:
            pool.give_back(channel)
            if isinstance(error, errors.DaemonGone) and channel.daemon_ended:
                await loops.in_thread(client.lost, connection)
            raise
        else:
            return pool, exchange, frame


async def _take(connection: Connection, deadline: float) -> Channel | None:
    """Return a channel, None if none came before `deadline`."""
    pool = connection.pool
    while True:
        try:
            return pool.idle.pop()
        except IndexError:
            pass
        try:
            return await pool.take_in_turn(loops.turn(), deadline)
        except errors.CallTimeout:  # the daemon takes no request at the moment
            if deadline <= monotonic():
                raise
            await _wait_for_room(connection, deadline)


async def _wait_for_room(connection: Connection, deadline: float) -> None:
    """Return when the daemon may take a request again, or at `deadline`."""
    with connection.duplicate_control() as control:
        try:
            async with loops.timeout(deadline - monotonic()):
                await loops.writable(control)
        except TimeoutError:
            pass


class _LoopFrames:
    """Sends and receives `frames` while the loop goes on.

    What was read of the next frame stays with `frames`: it is a BYE, perhaps, that
    the next caller, of whichever kind, has to see.
    """

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._sock = frames.sock
        self._taken = 0  #: bytes of a message that came before its frame

    async def send_views(self, *views: bytes | memoryview) -> None:
        """Send all of `views`.

        Raises:
            NothingSent: the other end is gone and took no byte.
            OSError: as socket.send; a part may have been sent.

        """
        sent = 0
        for view in views:
            rest = memoryview(view)
            while rest:
                try:
                    count = self._sock.send(rest, _DONTWAIT)
                except BlockingIOError:
                    await loops.writable(self._sock)
                    continue
                except (BrokenPipeError, ConnectionResetError) as error:
                    if sent:
                        raise
                    raise NothingSent from error
                sent += count
                rest = rest[count:]

    async def send_frame(self, kind: int, body: bytes = b"") -> None:
        """Send one frame; raises as `send_views`."""
        await self.send_views(HEADER.pack(len(body), kind) + body)

    async def send_all(
        self,
        head: bytes,
        body: bytes,
        files: list[object],
        segments: list[memoryview],
    ) -> None:
        """Send one frame with what goes beside it; as `send_beside`."""
        if segments:
            lengths = struct.pack(f"!{len(segments)}I", *map(len, segments))
            await self.send_frame(Kind.SEGMENTS, lengths)
            kind, answer = await self.receive_frame() or (Kind.BYE, b"")
            if kind == Kind.ERR:
                raise Declined(answer)
            if (kind, answer) != (Kind.SEGMENTS, b""):
                raise NothingSent
            await self.send_views(*segments)
        if files:
            await self.send_frame(Kind.ATTACH)
            if await self.receive_frame() != (Kind.ATTACH, b""):
                raise NothingSent
            numbers = packed([file.fileno() for file in files])  # type: ignore[attr-defined]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)]
            # There is room: all was read.
            sent = self._sock.sendmsg((head,), rights, _DONTWAIT)
            head = head[sent:]
        if len(body) <= _CHUNK:
            await self.send_views(head + body)
        else:
            await self.send_views(head, body)

    def ready(self) -> tuple[int, bytes | memoryview] | None:
        """Return kind and body of the next frame, if all of it is there."""
        data = self._frames.rest
        if not data:
            try:
                data = self._sock.recv(_CHUNK, _DONTWAIT)
            except BlockingIOError:
                return None
        if len(data) >= HEADER.size:
            length, kind = HEADER.unpack_from(data)
            end = HEADER.size + length
            if end <= len(data) and length <= self._frames.max_body:
                self._frames.rest = data[end:]
                return kind, data[HEADER.size : end]
        self._frames.rest = data
        return None

    async def receive_frame(self) -> tuple[int, bytes | memoryview] | None:
        """Return kind and body of the next frame; raises as `receive`."""
        data = self._frames.rest or await self._some(_CHUNK)
        if not data:
            return None
        while len(data) < HEADER.size:
            data += await self._more_of(_CHUNK)
        length, kind = HEADER.unpack_from(data)
        end = HEADER.size + length
        self._frames.rest = data[end:]
        if self._taken + length > self._frames.max_body:
            missing = end - len(data)
            while missing > 0:
                missing -= len(await self._more_of(min(missing, _CHUNK)))
            raise self._frames.too_large(kind, self._taken + length)
        if end <= len(data):
            return kind, data[HEADER.size : end]
        return kind, await self._whole(data[HEADER.size :], length)

    async def receive_announced(self, kind: int, body: bytes | memoryview) -> Received:
        """Answer the frame that announces; return the one that follows.

        Raises:
            DescriptorsLost, FrameTooLarge, Interrupted, OSError: as `receive_beside`.

        """
        beside = Beside([], [])
        try:
            if kind == Kind.SEGMENTS:
                lengths = self._frames.lengths(body)
                self._taken = sum(lengths)
                await self.send_frame(Kind.SEGMENTS)
                for length in lengths:
                    beside.segments.append(bytes(await self._whole(b"", length)))
                kind, body = await self.receive_frame() or (Kind.BYE, b"")
            if kind == Kind.ATTACH:
                kind, body = await self._receive_descriptors(beside.descriptors)
        except BaseException:
            beside.drop()
            raise
        finally:
            self._taken = 0
        return kind, body, beside

    async def _receive_descriptors(
        self, descriptors: list[int]
    ) -> tuple[int, bytes | memoryview]:
        await self.send_frame(Kind.ATTACH)
        await loops.readable(self._sock)
        self._frames.rest, ancillary, flags, _ = self._sock.recvmsg(
            _CHUNK, _CONTROL_SIZE, _DONTWAIT | int(socket.MSG_CMSG_CLOEXEC)
        )
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors += unpacked(payload)
        frame = await self.receive_frame() if self._frames.rest else None
        if frame is None:
            raise Interrupted
        if flags & socket.MSG_CTRUNC:
            close_all(descriptors)
            raise DescriptorsLost("no room for its descriptors (RLIMIT_NOFILE)")
        return frame

    async def _some(self, size: int) -> bytes:
        while True:
            try:
                return self._sock.recv(size, _DONTWAIT)
            except BlockingIOError:
                await loops.readable(self._sock)

    async def _more_of(self, size: int) -> bytes:
        data = await self._some(size)
        if not data:
            raise Interrupted
        return data

    async def _whole(self, begin: bytes, length: int) -> memoryview:
        whole = memoryview(bytearray(length))
        whole[: len(begin)] = begin
        missing = whole[len(begin) :]
        while missing:
            try:
                count = self._sock.recv_into(missing, 0, _DONTWAIT)
            except BlockingIOError:
                await loops.readable(self._sock)
                continue
            if not count:
                raise Interrupted
            missing = missing[count:]
        return whole


_ANNOUNCING = (Kind.ATTACH, Kind.SEGMENTS)
_CONTROL_SIZE = control_size(253)


class _Exchange:
    """A call, or a stream, on `channel`; what `Channel` does for a thread."""

    def __init__(self, channel: Channel, entry: Entry, deadline: float) -> None:
        self.channel = channel
        self.deadline = deadline
        self._entry = entry
        self._frames = _LoopFrames(channel.frames)

    async def begin(
        self, args: tuple[object, ...], kwargs: dict[str, object], level: int
    ) -> Received:
        """Send a CALL, and return the first frame that comes.

        Raises:
            NotStarted: nothing of it ran.
            PrivsepError: it cannot be sent, or nothing comes.

        """
        channel = self.channel
        encoder = channel.encoder
        left = self.deadline - monotonic()
        head, body = channel.pack(self._entry, args, kwargs, level, left)
        channel.usable = False
        try:
            async with loops.timeout(left):
                await self._frames.send_all(head, body, encoder.files, encoder.segments)
        except TimeoutError:
            raise await self._fate_of(overran=True) from None
        except NothingSent:
            fate = await self._ask_fate(kill=False) if channel.fresh else None
            raise channel.why_nothing_sent(self._entry, fate) from None
        except Declined as declined:
            return Kind.ERR, declined.answer, None
        except OSError:  # receiving finds out
            pass
        finally:
            encoder.clear()
        channel.begun()
        return await self.next_frame(self.deadline)

    async def send(self, kind: int, body: bytes) -> None:
        """Send a frame of a stream; if the worker is gone, `next_frame` says so."""
        try:
            async with loops.timeout(self.deadline - monotonic()):
                await self._frames.send_frame(kind, body)
        except OSError:  # TimeoutError, too
            pass
        # Items may come so fast that nothing else waits.
        await loops.sleep(0)

    async def next_frame(self, deadline: float) -> Received:
        """Return the next frame, with what came beside it; handle records before it.

        Raises:
            NotStarted: nothing of the function ran.
            PrivsepError: no frame comes; the channel is not usable any more.

        """
        while True:
            frame = None
            try:
                frame = await self._receive(deadline)
            except TimeoutError:
                raise await self._fate_of(overran=True) from None
            except FrameTooLarge as error:
                if error.kind != Kind.LOG:
                    raise self._too_large(error) from None
                continue
            except DescriptorsLost as error:
                raise self._too_large(error) from None
            except OSError:
                pass
            if frame is None:
                raise await self._fate_of(overran=False)
            if frame[0] == Kind.BYE:
                raise NotStarted
            if frame[0] != Kind.LOG:
                return frame
            self.channel.log(frame[1])

    async def _receive(self, deadline: float) -> Received | None:
        frame = self._frames.ready()
        if frame is not None and frame[0] not in _ANNOUNCING:
            return *frame, None
        async with loops.timeout(deadline - monotonic()):
            return await self._receive_all(frame or await self._frames.receive_frame())

    async def _receive_all(
        self, frame: tuple[int, bytes | memoryview] | None
    ) -> Received | None:
        if frame is None:
            return None
        if frame[0] in _ANNOUNCING:
            return await self._frames.receive_announced(*frame)
        return *frame, None

    def _too_large(self, error: Exception) -> errors.MessageTooLarge:
        msg = f"the result of {self._entry.name}() cannot be received: {error}"
        return errors.MessageTooLarge(msg)

    async def _fate_of(self, *, overran: bool) -> Exception:
        """Have the worker killed if it lives; return the error that says it all."""
        fate = await self._ask_fate(kill=True)
        return self.channel.explain(self._entry, fate, overran=overran)

    async def _ask_fate(self, *, kill: bool) -> Fate | None:
        line = self.channel.fate
        try:
            if kill:
                line.send(KILL, _DONTWAIT)
        except OSError:
            pass  # the answer may be there already
        try:
            async with loops.timeout(_FATE_TIMEOUT):
                await loops.readable(line)
            return Fate.from_bytes(line.recv(FATE_SIZE, _DONTWAIT))
        except TimeoutError:
            self.channel.unanswered = True
            return None
        except OSError:
            return None


class AsyncStream(AsyncGenerator[object, object]):
    """A call whose result is a stream of items, for one task at a time."""

    def __init__(self, client: Client, conversation: Conversation) -> None:
        self._client = client
        self._conversation = conversation
        self._exchange: _Exchange | None = None
        self._busy = False

    async def __anext__(self) -> object:
        """Return the next item."""
        return await self.asend(None)

    async def asend(self, value: object) -> object:
        """Go on, with `value` as what ``yield`` returns; return the next item.

        Raises:
            StopAsyncIteration: there is none.
            TypeError: a value, and the daemon may be ahead, or has not begun.
            BaseException: what the function raised, or one of privsep's errors.

        """
        self._enter()
        try:
            conversation = self._conversation
            if conversation.channel() is not None:
                request = conversation.request(value)
                return await self._run(conversation.ask(request))
            conversation.check_sent(value)
            arguments = conversation.arguments()
            if arguments is None:
                raise StopAsyncIteration
            row = self._client.row_for(conversation.entry, *conversation.given)
            pool, exchange, frame = await _begin(self._client, row, *arguments)
            self._exchange = exchange
            conversation.begin(pool, exchange.channel, exchange.deadline)
            return await self._run(conversation.take(frame))
        except Over:
            pass
        finally:
            self._busy = False
        raise StopAsyncIteration

    async def athrow(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> object:
        """Raise an exception where the function stands; return the next item.

        As `privsep._client.streams.Stream.throw`.
        """
        error = thrown(typ, val, tb)
        self._enter()
        try:
            if self._conversation.channel() is None:
                self._conversation.arguments()
                raise error
            return await self._run(self._conversation.throw(error))
        except Over:
            pass
        finally:
            self._busy = False
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End it: the function gets GeneratorExit, and has cleaned up on return.

        Raises:
            BaseException: what the function raised while it cleaned up, or ahead.

        """
        self._enter()
        try:
            self._conversation.arguments()
            if self._conversation.own_channel() is not None:
                await self._run(self._conversation.close())
                self._conversation.let_go()
        finally:
            self._busy = False

    def __del__(self) -> None:
        """End it without waiting."""
        self._conversation.abandon()

    def _enter(self) -> None:
        if self._busy:
            raise RuntimeError("asynchronous generator is already running")
        self._busy = True

    async def _run(self, steps: Steps) -> object:
        """Send and receive what the steps want; return what they do."""
        exchange = cast("_Exchange", self._exchange)
        try:
            want = next(steps)
            while True:
                if isinstance(want, tuple):
                    await exchange.send(*want)
                    want = next(steps)
                    continue
                try:
                    frame = await exchange.next_frame(want)
                except errors.CallTimeout as late:
                    want = steps.throw(late)
                else:
                    want = steps.send(frame)
        except StopIteration as done:
            return done.value
        except BaseException:
            pool = self._conversation.let_go()
            if exchange.channel.daemon_ended and pool is not None:
                await loops.in_thread(self._client.lost_with, pool)
            raise
