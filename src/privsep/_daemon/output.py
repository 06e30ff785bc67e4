"""What workers and their children write to stdout and stderr, as log lines.

Runs in the supervisor.  A pipe a stream is read without blocking; lines are
bounded, forwarded, and dropped with a count when the client does not read.
"""

from __future__ import annotations

import os

from privsep._wire.control import Log
from privsep._wire.values import Encoder

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    import socket
else:
    import _socket as socket  # without enum and selectors: 4 ms

LONGEST_LINE = 8192
_CHUNK = 32 * 1024  # escaped, it fits into one datagram of a log line
_PIPE = 1024 * 1024


class LogLine:
    """The daemon's end of a log line; sending never blocks.

    Used by the supervisor for lines, and by workers for stray records.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._dropped = 0

    def send(self, kind: int, *values: object, count: int = 1) -> None:
        """Send one message, or count what it holds as dropped."""
        try:
            if self.tell_dropped():
                self._send([kind, *values])
                return
        except OSError:
            pass
        self._dropped += count

    def has_dropped(self) -> bool:
        """Return whether something was dropped that was not told."""
        return self._dropped > 0

    def is_closed(self) -> bool:
        """Return whether the reader has closed its end; throw away what it sent.

        What stayed there would hide the end, which epoll tells again and again.
        """
        try:
            return not self.sock.recv(1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def tell_dropped(self, wait: float = 0.0) -> bool:
        """Say how many were dropped, if any; return whether there is none left."""
        if not self._dropped:
            return True
        try:
            if wait:
                self.sock.settimeout(wait)
                self.sock.send(Encoder().encode([Log.DROPPED, self._dropped]))
            else:
                self._send([Log.DROPPED, self._dropped])
        except OSError:
            return False
        self._dropped = 0
        return True

    def _send(self, values: list[object]) -> None:
        self.sock.send(Encoder().encode(values), socket.MSG_DONTWAIT)


class OutputPipe:
    """The pipe for one stream of one process (`pid`)."""

    def __init__(self, stream: str, log: LogLine | None) -> None:
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.reader, False)
        self._stream = stream
        self.pid = os.getpid()
        self.log = log
        self._begun = b""

    def forward(self) -> bool:
        """Forward what is there, line by line; return False at the end."""
        try:
            data = os.read(self.reader, _CHUNK)
        except BlockingIOError:
            return True
        self._take(data)
        return bool(data)

    def drain(self) -> None:
        """Forward all that is there, and the line that was begun."""
        try:
            for _ in range(_PIPE // _CHUNK):
                data = os.read(self.reader, _CHUNK)
                if not data:
                    break
                self._take(data)
        except BlockingIOError:
            pass
        self._take(b"")

    def _take(self, data: bytes) -> None:
        *lines, self._begun = (self._begun + data).split(b"\n")
        if len(self._begun) > LONGEST_LINE or (not data and self._begun):
            lines.append(self._begun)
            self._begun = b""
        if lines and self.log is not None:
            texts = [
                line[:LONGEST_LINE].decode("utf-8", "backslashreplace")
                for line in lines
            ]
            self.log.send(Log.LINES, self.pid, self._stream, texts, count=len(texts))

    def close_writer(self) -> None:
        """Close the end that the process writes to, here."""
        os.close(self.writer)

    def close(self) -> None:
        """Close both ends."""
        os.close(self.reader)
        os.close(self.writer)
