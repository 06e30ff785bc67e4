"""Whole frames over one end of a channel, an AF_UNIX stream socket.

Runs in both processes.  A frame is a header (length of the body, kind) and a
body.  A channel carries one call at a time, so a reader that takes what is
there gets the whole of a small message with one system call.
"""

from __future__ import annotations

import array
import socket
import struct
from typing import TYPE_CHECKING, Final

from privsep._wire.descriptors import close_all

if TYPE_CHECKING:
    from collections.abc import Callable

HEADER = struct.Struct("!IB")
"""Size of the body, kind of the frame."""
_HEADER_SIZE = HEADER.size
CALL_HEADER = struct.Struct("!diH")
"""What begins a CALL's body, before the name and the packed [args, kwargs].

Seconds that the client still waits (inf: no deadline); the least level of logging
records that it handles; the size of the entrypoint's name.
"""
COUNT = struct.Struct("!I")
"""The body of a NEXT."""


def call_head(name: bytes) -> struct.Struct:
    """Return the layout of all of a CALL to `name` that precedes its arguments."""
    return struct.Struct(f"{HEADER.format}{CALL_HEADER.format[1:]}{len(name)}s")


_FIRST_READ = 8 * 1024
_CHUNK = 64 * 1024
_MOST_DESCRIPTORS = 253  # in one message, SCM_MAX_FD of unix(7)
_CONTROL_SIZE = socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)


class Kind:
    """What a frame is.  CALL goes to the worker, its reply comes from it.

    The second group is of streams; docs/architecture.md has their order.

    Plain numbers: looking up a member of an enum costs a call several percent.
    """

    CALL: Final = 1  #: call header, name, packed [args, kwargs]
    RET: Final = 2  #: the result
    ERR: Final = 3  #: the exception
    LOG: Final = 4  #: a logging record of the running call
    ATTACH: Final = 6  #: the next frame has descriptors; answered by the same
    BYE: Final = 5  #: the worker retires; the CALL was not read, or not to its end

    ITEM: Final = 7  #: what a generator yielded
    END: Final = 8  #: no ITEM follows; a byte: whether what was thrown came through
    NEXT: Final = 9  #: to the worker: so many items more may be made
    SEND: Final = 10  #: to the worker: the value that a generator gets
    THROW: Final = 11  #: to the worker: an exception; answered by the same, empty
    CLOSE: Final = 12  #: to the worker: no item more is wanted


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


class Frames:
    """Sends and receives frames on `sock`; for one thread at a time."""

    __slots__ = ("_recv", "_rest", "_send", "begun", "max_body", "sock")

    def __init__(
        self,
        sock: socket.socket,
        max_body: int,
        begun: Callable[[], object] | None = None,
    ) -> None:
        """Make them; `begun` is called when a part of a large frame has come."""
        self.sock = sock
        self.max_body = max_body
        self.begun = begun
        self._send = sock.send
        self._recv = sock.recv
        self._rest = b""

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

    def send_attached(self, head: bytes, body: bytes, files: list[object]) -> None:
        """Send one frame with the descriptors of `files`.

        The reader is asked to be ready first: it would lose what comes along with
        bytes that it reads as usual.

        Raises:
            NothingSent: the other end is gone or retires, and took nothing.
            OSError: as socket.sendmsg; a part of the frame may have been sent.

        """
        self.send(Kind.ATTACH)
        if self.receive() != (Kind.ATTACH, b""):
            raise NothingSent
        self.send_descriptors(head, body, files)

    def send_descriptors(self, head: bytes, body: bytes, files: list[object]) -> None:
        """Send one frame with the descriptors of `files` to a reader who is ready.

        Raises:
            OSError: as socket.sendmsg; a part of the frame may have been sent.

        """
        numbers = array.array("i", [file.fileno() for file in files])  # type: ignore[attr-defined]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)]
        sent = self.sock.sendmsg((head, body), rights)  # there is room: all was read
        self._send_rest([memoryview(head), memoryview(body)], sent)

    def receive_attached(self) -> tuple[int, bytes | memoryview, list[int]]:
        """Answer ATTACH; return kind, body and descriptors of the frame that follows.

        The descriptors are the caller's to close.

        Raises:
            DescriptorsLost: there was no room for all; the stream goes on after it.
            FrameTooLarge, Interrupted, OSError: as `receive`.

        """
        self.send(Kind.ATTACH)
        if self.begun is not None:
            self.begun()
        if not self._recv(1, socket.MSG_PEEK):  # eventlet's recvmsg() does not wait
            raise Interrupted
        self._rest, ancillary, flags, _ = self.sock.recvmsg(
            _FIRST_READ, _CONTROL_SIZE, socket.MSG_CMSG_CLOEXEC
        )
        descriptors: list[int] = []
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors += array.array("i", payload)
        try:
            frame = self.receive()
        except BaseException:
            close_all(descriptors)
            raise
        if frame is None or flags & socket.MSG_CTRUNC:
            close_all(descriptors)
            if frame is None:
                raise Interrupted
            raise DescriptorsLost("no room for its descriptors (RLIMIT_NOFILE)")
        return *frame, descriptors

    def _send_rest(self, views: list[memoryview], sent: int) -> None:
        while True:
            while views and sent >= len(views[0]):
                sent -= len(views.pop(0))
            if not views:
                return
            views[0] = views[0][sent:]
            sent = self.sock.send(views[0])  # eventlet's sendmsg() does not wait

    def has_more(self) -> bool:
        """Return whether some of the next frame was read already."""
        return bool(self._rest)

    def receive(self) -> tuple[int, bytes | memoryview] | None:
        """Return the kind and the body of the next frame; None if there is none.

        Raises:
            FrameTooLarge: the body exceeds the bound; the stream goes on after it.
            Interrupted: the stream ended within a frame.
            OSError: as socket.recv.

        """
        data = self._rest or self._recv(_FIRST_READ)
        if len(data) >= _HEADER_SIZE:
            length, kind = HEADER.unpack_from(data)
            if length == len(data) - _HEADER_SIZE and length <= self.max_body:
                self._rest = b""
                return kind, data[_HEADER_SIZE:]
        return self._receive_more(data)

    def _receive_more(self, data: bytes) -> tuple[int, bytes | memoryview] | None:
        """Receive the rest of a frame of which `data` is the begin, or is not all."""
        if not data:
            return None
        if self.begun is not None:
            self.begun()
        while len(data) < _HEADER_SIZE:
            data += self._more()
        length, kind = HEADER.unpack_from(data)
        end = _HEADER_SIZE + length
        self._rest = data[end:]
        if length > self.max_body:
            self._discard(max(0, end - len(data)))
            msg = f"a message of {length} bytes, the limit is {self.max_body}"
            raise FrameTooLarge(kind, msg)
        if end <= len(data):
            return kind, data[_HEADER_SIZE:end]
        return kind, self._complete(data[_HEADER_SIZE:], length)

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
