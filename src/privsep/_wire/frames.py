"""Whole frames over one end of a channel, an AF_UNIX stream socket.

Runs in both processes.  A frame is a header (length of the body, kind) and a
body.  A channel carries one call at a time, so a reader that takes what is
there gets the whole of a small message with one system call.
"""

from __future__ import annotations

import io
import struct

from privsep._wire.descriptors import close_all, control_size, packed, unpacked
from privsep._wire.typed import NamedTuple

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Final
else:
    import _socket as socket  # without enum and selectors: 4 ms

HEADER = struct.Struct("!IB")
"""Size of the body, kind of the frame."""
_HEADER_SIZE = HEADER.size
CALL_HEADER = struct.Struct("!diH")
"""What begins a CALL's body, before the name and the packed [args, kwargs].

Seconds that the client still waits (inf: no deadline); the least level of logging
records that it handles; the size of the entrypoint's name.
"""
FOREVER = float("inf")
"""Seconds of what has no deadline; math is a library to load, that says the same."""
COUNT = struct.Struct("!I")
"""The body of a NEXT."""


def call_head(name: bytes) -> struct.Struct:
    """Return the layout of all of a CALL to `name` that precedes its arguments."""
    return struct.Struct(f"{HEADER.format}{CALL_HEADER.format[1:]}{len(name)}s")


_FIRST_READ = 8 * 1024
_CHUNK = 64 * 1024
_MOST_DESCRIPTORS = 253  # in one message, SCM_MAX_FD of unix(7)
_CONTROL_SIZE = control_size(_MOST_DESCRIPTORS)
_MOST_SEGMENTS = 2048
# The most of a segment that is read at once.  Of more, the reader would for too long
# have nothing to show to a supervisor that looks for workers to retire.
_PIECE = 16 << 20
_WHOLE = int(socket.MSG_WAITALL)


class Kind:
    """What a frame is.  CALL goes to the worker, its reply comes from it.

    The second group is of streams; docs/architecture.md has their order.

    Plain numbers: looking up a member of an enum costs a call several percent.
    """

    CALL: Final = 1  #: call header, name, packed [args, kwargs]
    RET: Final = 2  #: the result
    ERR: Final = 3  #: the exception
    LOG: Final = 4  #: a logging record of the running call
    ATTACH: Final = 6
    """The next frame has descriptors; answered by the same.  A worker that has answered
    once needs no asking: there it comes with that frame, and the descriptors."""
    BYE: Final = 5  #: the worker retires; the CALL was not read, or not to its end
    SEGMENTS: Final = 13
    """Lengths of segments: once it is answered by the same, they come, and the frame
    that they belong to."""

    ITEM: Final = 7  #: what a generator yielded
    END: Final = 8  #: no ITEM follows; a byte: whether what was thrown came through
    NEXT: Final = 9  #: to the worker: so many items more may be made
    SEND: Final = 10  #: to the worker: the value that a generator gets
    THROW: Final = 11  #: to the worker: an exception; answered by the same, empty
    CLOSE: Final = 12  #: to the worker: no item more is wanted

    SIGNAL: Final = 14  #: to the worker: a byte for the command that it runs


_ATTACH = HEADER.pack(0, Kind.ATTACH)


class FrameTooLarge(ValueError):
    """A frame larger than the reader takes; it was read and thrown away."""

    def __init__(self, kind: int, text: str) -> None:
        super().__init__(text)
        self.kind = kind  #: of the frame


class Interrupted(ConnectionError):
    """The stream ended in the middle of a frame."""


class DescriptorsLost(Exception):
    """Some of a frame's descriptors found no room; the others are closed."""


class NothingSent(ConnectionError):
    """The other end had closed before the first byte of a frame was taken."""


class Declined(Exception):
    """The other end takes no such segments; nothing of the message was sent."""

    def __init__(self, answer: bytes | memoryview) -> None:
        super().__init__("the segments are declined")
        self.answer = answer  #: the body of its ERR


class Beside(NamedTuple):
    """What came beside a message."""

    descriptors: list[int]  #: the receiver's to close; -1: there is a file for it
    segments: list[bytes | None]  #: None: it is in the value

    def drop(self) -> None:
        """Close the descriptors, and let go of the segments."""
        close_all(self.descriptors)
        self.segments.clear()


class Frames:
    """Sends and receives frames on `sock`; for one thread at a time."""

    __slots__ = (
        "_announced",
        "_came",
        "_expects",
        "_recv",
        "_resumed",
        "_send",
        "_taken",
        "begun",
        "max_body",
        "rest",
        "sock",
    )

    def __init__(
        self,
        sock: socket.socket,
        max_body: int,
        begun: Callable[[], object] | None = None,
        resumed: Callable[[], object] | None = None,
        *,
        expects: bool = False,
    ) -> None:
        """Make them.

        Args:
            sock: the stream.
            max_body: the most bytes of a message, with all that comes beside it.
            begun: called when a part of a large message has come; what it raises
                ends the reading.
            resumed: called before more of a large message is sent.
            expects: once descriptors were announced, take them with each frame,
                which costs it a microsecond.  So a worker does, whose client
                need not ask again.

        """
        self.sock = sock
        self.max_body = max_body
        self.begun = begun
        self._resumed = resumed
        self._taken = 0  #: bytes of a message that came before its frame
        self._send = sock.send
        self._recv: Callable[..., bytes] = sock.recv
        self.rest = b""  #: what was read of the next frame
        self._expects = expects
        self._announced = False  #: the other end has answered ATTACH, and expects
        self._came: tuple[list[int], bool] | None = None  #: with an ATTACH

    def send(self, kind: int, body: bytes = b"") -> None:
        """Send one frame.

        Raises:
            NothingSent: the other end is gone and took no byte of the frame.
            OSError: as socket.send; a part of the frame may have been sent.

        """
        self.send_parts(HEADER.pack(len(body), kind), body)

    def send_parts(self, head: bytes, body: bytes) -> None:
        """Send one frame as `send` does; `head` is all that precedes `body`."""
        try:
            if len(body) <= _CHUNK:
                message = head + body
                sent = self._send(message)
                if sent == len(message):
                    return
            else:
                sent = self.sock.sendmsg((head, body))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise NothingSent from error
        self._send_rest([memoryview(head), memoryview(body)], sent)

    def send_beside(
        self,
        head: bytes,
        body: bytes,
        files: list[object],
        segments: list[memoryview],
        answer: Callable[[], tuple[int, bytes | memoryview] | None] | None = None,
    ) -> None:
        """Send one frame with the descriptors of `files`, and `segments` before it.

        The reader is asked to be ready first.  It would lose descriptors that come
        along with bytes that it reads as usual; and a segment of which it had read
        the begin with something else, it would have to copy.

        Args:
            head: all that precedes `body`.
            body: of the frame.
            files: what goes along, may be none.
            segments: what goes before it, may be none.
            answer: returns the other end's answer, as `receive`, where other frames
                may come before it.

        Raises:
            Declined: the other end takes no such segments.
            NothingSent: the other end is gone or retires, and took nothing.
            OSError: as socket.sendmsg; a part of the message may have been sent.

        """
        answer = answer or self.receive
        if segments:
            self._send_segments(segments, answer)
        if files:
            # The reader of segments takes no descriptors that it is not asked to.
            self._send_attached(head, body, files, answer, ask=bool(segments))
        else:
            self.send_parts(head, body)

    def _send_segments(
        self,
        segments: list[memoryview],
        answer: Callable[[], tuple[int, bytes | memoryview] | None],
    ) -> None:
        lengths = struct.pack(f"!{len(segments)}I", *map(len, segments))
        self.send(Kind.SEGMENTS, lengths)
        kind, body = answer() or (Kind.BYE, b"")
        if kind == Kind.ERR:
            raise Declined(body)
        if (kind, body) != (Kind.SEGMENTS, b""):
            raise NothingSent
        self._send_rest(list(segments), 0)

    def _send_attached(
        self,
        head: bytes,
        body: bytes,
        files: list[object],
        answer: Callable[[], tuple[int, bytes | memoryview] | None],
        *,
        ask: bool,
    ) -> None:
        if self._announced and not ask:
            head = _ATTACH + head
        else:
            self._announce(answer)
        numbers = packed([file.fileno() for file in files])  # type: ignore[attr-defined]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)]
        try:
            sent = self.sock.sendmsg((head, body), rights)  # there is room for them
        except (BrokenPipeError, ConnectionResetError) as error:
            raise NothingSent from error
        self._send_rest([memoryview(head), memoryview(body)], sent)

    def _announce(
        self, answer: Callable[[], tuple[int, bytes | memoryview] | None]
    ) -> None:
        self.send(Kind.ATTACH)
        try:
            ready = answer() == (Kind.ATTACH, b"")
        except ConnectionError as error:
            raise NothingSent from error
        if not ready:
            raise NothingSent
        self._announced = not self._expects

    def receive_beside(
        self, kind: int, body: bytes | memoryview
    ) -> tuple[int, bytes | memoryview, Beside]:
        """Answer the frame that announces; return the one that follows.

        Args:
            kind: of the frame that announces.
            body: of the same.

        Returns:
            Kind and body of the frame that follows, and what came beside.

        Raises:
            DescriptorsLost: there was no room for all; the stream goes on after it.
            FrameTooLarge: as `receive`; or the segments are too large, and not
                answered: the stream goes on with another answer.
            Interrupted: as `receive`; or it announces nothing that there is.
            OSError: as `receive`.

        """
        beside = Beside([], [])
        if self.begun is not None:
            self.begun()
        try:
            if kind == Kind.SEGMENTS and not self.rest:
                lengths = self.lengths(body)
                self._taken = sum(lengths)
                self._agree(Kind.SEGMENTS)
                beside.segments.extend(map(self._receive_segment, lengths))
                kind, body = self._receive_more(self._more(_FIRST_READ))
            elif kind != Kind.ATTACH:
                raise Interrupted
            if kind == Kind.ATTACH and not body:
                kind, body = self._receive_attached(beside.descriptors)
        finally:
            self._taken = 0
        return kind, body, beside

    def _agree(self, kind: int) -> None:
        """Answer an announcement; a worker waits for nobody to read the answer.

        Whoever announces has read what was said before, so there is room; else the
        worker, which reads a CALL and has no deadline, would stand still in sending.
        """
        flags = socket.MSG_DONTWAIT if self._expects else 0
        self._send(HEADER.pack(0, kind), flags)

    def lengths(self, announced: bytes | memoryview) -> tuple[int, ...]:
        """Return the lengths of the segments that are announced.

        Raises:
            FrameTooLarge: together they are too long.
            Interrupted: it announces nothing that there is.

        """
        count, odd = divmod(len(announced), 4)
        if odd or not 0 < count <= _MOST_SEGMENTS:
            raise Interrupted
        lengths = struct.unpack(f"!{count}I", announced)
        if sum(lengths) > self.max_body:
            raise self.too_large(Kind.SEGMENTS, sum(lengths))
        return lengths

    def _receive_segment(self, length: int) -> bytes:
        """Receive a segment; it takes memory as its bytes come.

        One that comes at once, as it does over a socket that blocks, is not copied.
        """
        data = self._recv(min(length, _PIECE), _WHOLE)
        if len(data) == length:
            return data
        pieces = io.BytesIO()
        while pieces.write(data) and pieces.tell() < length:
            if self.begun is not None:
                self.begun()
            data = self._recv(min(length - pieces.tell(), _PIECE), _WHOLE)
        if not data:
            raise Interrupted
        return pieces.getvalue()

    def _receive_attached(
        self, descriptors: list[int]
    ) -> tuple[int, bytes | memoryview]:
        """Answer ATTACH; return the frame that follows, having added `descriptors`."""
        came, self._came = self._came, None
        if came is None:
            self._agree(Kind.ATTACH)
            if self.begun is not None:
                self.begun()
            if not self._recv(1, socket.MSG_PEEK):  # eventlet's recvmsg() does not wait
                raise Interrupted
            self.rest, found, lost = self._receive_with_descriptors(_FIRST_READ)
            came = found, lost
            if self._expects:
                self._recv = self._receive_expecting
        descriptors += came[0]
        try:
            frame = self._receive_more(self.rest)
        except BaseException:
            close_all(descriptors)
            raise
        if came[1]:
            close_all(descriptors)
            raise DescriptorsLost("no room for its descriptors (RLIMIT_NOFILE)")
        return frame

    def drop_descriptors(self) -> None:
        """Close what came with an ATTACH that is no announcement."""
        came, self._came = self._came, None
        if came is not None:
            close_all(came[0])

    def _receive_expecting(self, size: int, flags: int = 0) -> bytes:
        """Receive as the socket does, and keep what comes with an ATTACH."""
        if flags:
            return self.sock.recv(size, flags)
        data, descriptors, lost = self._receive_with_descriptors(size)
        if descriptors or lost:
            if data.startswith(_ATTACH):
                self._came = descriptors, lost
            else:
                close_all(descriptors)
        return data

    def _receive_with_descriptors(self, size: int) -> tuple[bytes, list[int], bool]:
        """Return bytes, what came along, and whether some of that found no room."""
        data, ancillary, flags, _ = self.sock.recvmsg(
            size, _CONTROL_SIZE, socket.MSG_CMSG_CLOEXEC
        )
        descriptors: list[int] = []
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors += unpacked(payload)
        return data, descriptors, bool(flags & socket.MSG_CTRUNC)

    def _send_rest(self, views: list[memoryview], sent: int) -> None:
        while True:
            while views and sent >= len(views[0]):
                sent -= len(views.pop(0))
            if not views:
                return
            views[0] = views[0][sent:]
            if self._resumed is not None:
                self._resumed()
            sent = self.sock.send(views[0])  # eventlet's sendmsg() does not wait

    def receive(self) -> tuple[int, bytes | memoryview] | None:
        """Return the kind and the body of the next frame; None if there is none.

        Raises:
            FrameTooLarge: the body exceeds the bound; the stream goes on after it.
            Interrupted: the stream ended within a frame.
            OSError: as socket.recv.

        """
        data = self.rest or self._recv(_FIRST_READ)
        if len(data) >= _HEADER_SIZE:
            length, kind = HEADER.unpack_from(data)
            if length == len(data) - _HEADER_SIZE and length <= self.max_body:
                self.rest = b""
                return kind, data[_HEADER_SIZE:]
        return self._receive_more(data) if data else None

    def _receive_more(self, data: bytes) -> tuple[int, bytes | memoryview]:
        """Receive the rest of a frame of which `data` is the begin, or is not all."""
        if self.begun is not None:
            self.begun()
        while len(data) < _HEADER_SIZE:
            data += self._more()
        length, kind = HEADER.unpack_from(data)
        end = _HEADER_SIZE + length
        self.rest = data[end:]
        if self._taken + length > self.max_body:
            self._discard(max(0, end - len(data)))
            raise self.too_large(kind, self._taken + length)
        if end <= len(data):
            return kind, data[_HEADER_SIZE:end]
        return kind, self._complete(data[_HEADER_SIZE:], length)

    def too_large(self, kind: int, size: int) -> FrameTooLarge:
        """Return the error of a message of so many bytes."""
        msg = f"a message of {size} bytes, the limit is {self.max_body}"
        return FrameTooLarge(kind, msg)

    def _complete(self, begin: bytes, length: int) -> memoryview:
        whole = memoryview(bytearray(length))
        whole[: len(begin)] = begin
        missing = whole[len(begin) :]
        while missing:
            count = self.sock.recv_into(missing)
            if not count:
                raise Interrupted
            if count >= _FIRST_READ and self.begun is not None:
                self.begun()
            missing = missing[count:]
        return whole

    def _discard(self, length: int) -> None:
        while length:
            length -= len(self._more(min(length, _CHUNK)))

    def _more(self, size: int = _CHUNK) -> bytes:
        data = self.sock.recv(size)
        if not data:
            raise Interrupted
        return data
