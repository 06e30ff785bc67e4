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


def call_head(name: bytes) -> struct.Struct:
    """Return the layout of all of a CALL to `name` that precedes its arguments."""
    return struct.Struct(f"{HEADER.format}{CALL_HEADER.format[1:]}{len(name)}s")


_FIRST_READ = 8 * 1024
_CHUNK = 64 * 1024
_MOST_DESCRIPTORS = 253  # in one message, SCM_MAX_FD of unix(7)
_CONTROL_SIZE = socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)


class Kind:
    """What a frame is.  CALL goes to the worker, all others come from it.

    Plain numbers: looking up a member of an enum costs a call several percent.
    """

    CALL: Final = 1  #: call header, name, packed [args, kwargs]
    RET: Final = 2  #: the result
    ERR: Final = 3  #: the exception
    LOG: Final = 4  #: a logging record of the running call
    ATTACH: Final = 6  #: frames will have descriptors; answered by the same
    BYE: Final = 5  #: the worker retires; the CALL was not read, or not to its end


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

    __slots__ = ("_begun", "_recv", "_rest", "_send", "descriptors", "max_body", "sock")

    def __init__(
        self,
        sock: socket.socket,
        max_body: int,
        begun: Callable[[], object] | None = None,
    ) -> None:
        """Make them; `begun` is called when a part of a large frame has come."""
        self.sock = sock
        self.max_body = max_body
        self._begun = begun
        self._send = sock.send
        self._recv: Callable[[int], bytes] = sock.recv
        self._rest = b""
        #: that came with the last frame, if any were expected; the caller's to close
        self.descriptors: list[int] = []

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

    def announce_descriptors(self) -> None:
        """Have the reader ready for a frame with descriptors.

        It would lose what comes along with bytes that it reads as usual.

        Raises:
            NothingSent: the other end is gone or retires, and took nothing.
            OSError: as socket.recv.

        """
        self.send(Kind.ATTACH)
        try:
            ready = self.receive() == (Kind.ATTACH, b"")
        except ConnectionError as error:
            raise NothingSent from error
        if not ready:
            raise NothingSent

    def send_attached(self, head: bytes, body: bytes, files: list[object]) -> None:
        """Send one frame with the descriptors of `files` to a reader that is ready.

        Raises:
            NothingSent: the other end is gone and took no byte of the frame.
            OSError: as socket.sendmsg; a part of the frame may have been sent.

        """
        numbers = array.array("i", [file.fileno() for file in files])  # type: ignore[attr-defined]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)]
        try:
            sent = self.sock.sendmsg(
                (head, body), rights
            )  # there is room: all was read
        except (BrokenPipeError, ConnectionResetError) as error:
            raise NothingSent from error
        self._send_rest([memoryview(head), memoryview(body)], sent)

    def receive_attached(self) -> tuple[int, bytes | memoryview]:
        """Answer ATTACH; return the frame that follows, its `descriptors` beside it.

        Raises:
            DescriptorsLost: there was no room for all; the stream goes on after it.
            FrameTooLarge, Interrupted, OSError: as `receive`.

        """
        self.send(Kind.ATTACH)
        if self._begun is not None:
            self._begun()
        if not self.sock.recv(1, socket.MSG_PEEK):  # eventlet's recvmsg() does not wait
            raise Interrupted
        self._rest, lost = self._receive_with_descriptors()
        try:
            frame = self.receive()
        except BaseException:
            close_all(self.descriptors)
            raise
        if frame is None or lost:
            close_all(self.descriptors)
            if frame is None:
                raise Interrupted
            raise DescriptorsLost("no room for its descriptors (RLIMIT_NOFILE)")
        return frame

    def expect_descriptors(self) -> None:
        """Take descriptors with each frame from now on, though none is announced.

        It costs each frame a microsecond.
        """
        self._recv = self._receive_expecting

    def _receive_expecting(self, size: int) -> bytes:
        del size
        data, _ = self._receive_with_descriptors()
        return data

    def _receive_with_descriptors(self) -> tuple[bytes, bool]:
        """Return bytes, and whether some of what came along found no room."""
        data, ancillary, flags, _ = self.sock.recvmsg(
            _FIRST_READ, _CONTROL_SIZE, socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self.descriptors += array.array("i", payload)
        return data, bool(flags & socket.MSG_CTRUNC)

    def _send_rest(self, views: list[memoryview], sent: int) -> None:
        while True:
            while views and sent >= len(views[0]):
                sent -= len(views.pop(0))
            if not views:
                return
            views[0] = views[0][sent:]
            sent = self.sock.send(views[0])  # eventlet's sendmsg() does not wait

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
        if self._begun is not None:
            self._begun()
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
            if count >= _FIRST_READ and self._begun is not None:
                self._begun()
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
