"""What workers and their children write to stdout and stderr, as log lines.

Runs in the supervisor.  A pipe a stream is read without blocking; lines are
bounded, forwarded, and dropped with a count when the client does not read.
"""

from __future__ import annotations

import os
import select
from time import monotonic

from privsep._wire.control import Log
from privsep._wire.values import Encoder

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from privsep._daemon.loop import Loop
    from privsep._daemon.serve import Logging
else:
    import _socket as socket  # without enum and selectors: 4 ms

LONGEST_LINE = 8192
_CHUNK = 32 * 1024  # escaped, it fits into one datagram of a log line
_PIPE = 1024 * 1024
_LAST_WORDS = 3.0  # seconds, together, for clients that are there and read slowly


class LogLine:
    """The daemon's end of a log line; sending never blocks.

    Used by the supervisor for lines, and by workers for stray records.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._dropped = 0
        self._broken = False

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
        """Return whether nothing will be read any more; throw away what was sent here.

        What stayed there would hide the end, which epoll tells again and again.
        """
        if self._broken:
            return True
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
        except BlockingIOError:
            return False
        except OSError:  # epoll would call it writable for ever
            self._broken = True
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


class Logs:
    """The pipes and the log lines that there are, and what goes from which to which.

    Args:
        loop: watches them.
        logging: the daemon's own; None: what belongs to no client is for none.

    """

    def __init__(self, loop: Loop, logging: Logging | None) -> None:
        self._loop = loop
        self._logging = logging
        self._pipes: list[OutputPipe] = []
        self._lines: dict[LogLine, Callable[[], None]] = {}

    def capture_own(self) -> None:
        """Read what this process writes to its stdout and stderr."""
        for descriptor, stream in ((1, "stdout"), (2, "stderr")):
            pipe = OutputPipe(stream, None)
            os.dup2(pipe.writer, descriptor)
            pipe.close_writer()
            self.add_pipe(pipe)

    def add_pipe(self, pipe: OutputPipe) -> None:
        """Forward what is written to `pipe`, until its end."""
        self._pipes.append(pipe)
        self._loop.watch(pipe.reader, lambda: self._forward(pipe))

    def _forward(self, pipe: OutputPipe) -> None:
        if not pipe.forward():
            self._loop.unwatch(pipe.reader)
            self._pipes.remove(pipe)
            os.close(pipe.reader)
        # Is there something to tell, to a reader that has not gone?
        if pipe.log in self._lines and pipe.log.has_dropped():
            self._loop.change(pipe.log.sock.fileno(), select.EPOLLOUT)

    def add_line(self, line: LogLine, forget: Callable[[], None]) -> None:
        """Have `line` until its reader closes it; `forget` is called when it goes."""
        self._lines[line] = forget
        self._loop.watch(line.sock.fileno(), lambda: self._look_at(line), events=0)
        self._use(line)

    def _look_at(self, line: LogLine) -> None:
        """Close a line that nobody reads any more, or say what was dropped."""
        told = line.tell_dropped()
        if line.is_closed():
            self.close_line(line)
            self._use(next(reversed(self._lines), None))
        elif told:
            self._loop.change(line.sock.fileno(), 0)

    def close_line(self, line: LogLine) -> None:
        """Log no more to `line`."""
        self._loop.unwatch(line.sock.fileno())
        forget = self._lines.pop(line)
        forget()
        line.sock.close()

    def _use(self, line: LogLine | None) -> None:
        """Send what belongs to no client to `line`, if it is for anybody."""
        if self._logging is not None:
            for pipe in self._pipes:
                pipe.log = line
            self._logging.use_line(line)

    def end(self) -> None:
        """Forward what is left in the pipes, and say how much was dropped."""
        for pipe in self._pipes:
            pipe.drain()
        until = monotonic() + _LAST_WORDS
        for line in self._lines:
            line.tell_dropped(wait=max(0.001, until - monotonic()))

    def close_in_worker(self, kept: LogLine | None) -> None:
        """Close, in a worker, all that is not its own."""
        for pipe in self._pipes:
            os.close(pipe.reader)
        for line in self._lines:
            if line is not kept:
                line.sock.close()
