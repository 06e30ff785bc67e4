"""The system's logs as sinks of the audit: syslog, and the journal.

Runs in the audit's writer.  A record has some hundred bytes, ten thousand at most,
and so fits into a datagram: the journal's way for what is larger is not needed.
"""

from __future__ import annotations

import os
import socket
import struct
import time

_PATIENCE = 0.5  # seconds; less than what a worker waits for room
_SIZE = struct.Struct("<Q")
_AUTHPRIV = 10
_NOTICE, _INFO = 5, 6


class LogSocket:
    """A datagram socket of the system's.

    It is named anew for each datagram, so whoever listens there may be started anew.
    """

    def __init__(self, path: str) -> None:
        self.trouble = ""  #: why it took less than it was given
        self._path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def take(self, lines: list[bytes]) -> int:
        """Send records until one is not taken; return how many were.

        A log that is full is waited for, but not again before it took all.
        """
        until = 0.0 if self.trouble else time.monotonic() + _PATIENCE
        self.trouble = ""
        for taken, line in enumerate(lines):
            try:
                self._send(self._message(_INFO, line.rstrip()), until)
            except BlockingIOError:
                self.trouble = f"{self._path} is full: nobody reads it"
                return taken
            except OSError as error:
                self.trouble = f"{self._path}: {error}"
                return taken
        return len(lines)

    def take_head(self, line: bytes) -> None:
        """Send the chain's head, if that can be done at once."""
        try:
            self._send(self._message(_NOTICE, line), 0.0)
        except OSError:  # who has no syslog has no witness there
            pass

    def _send(self, message: bytes, until: float) -> None:
        try:
            self._sock.sendto(message, socket.MSG_DONTWAIT, self._path)
        except BlockingIOError:
            microseconds = int((until - time.monotonic()) * 1e6)
            if microseconds <= 0:  # 0 would be without end
                raise
            timeout = struct.pack("@ll", 0, microseconds)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
            self._sock.sendto(message, self._path)

    def _message(self, priority: int, text: bytes) -> bytes:
        """Return the datagram that says `text`."""
        raise NotImplementedError


class Syslog(LogSocket):
    """syslog(3)'s socket, facility authpriv."""

    def _message(self, priority: int, text: bytes) -> bytes:
        now = time.strftime("%b %e %H:%M:%S")
        head = f"<{_AUTHPRIV << 3 | priority}>{now} privsep[{os.getpid()}]: "
        return head.encode() + text


class Journal(LogSocket):
    """journald's native protocol, each field with its size before it."""

    def __init__(self, path: str, context: str) -> None:
        super().__init__(path)
        self._context = context.encode("utf-8", "backslashreplace")

    def _message(self, priority: int, text: bytes) -> bytes:
        fields = (
            (b"MESSAGE", text),
            (b"PRIORITY", b"%d" % priority),
            (b"SYSLOG_FACILITY", b"%d" % _AUTHPRIV),
            (b"SYSLOG_IDENTIFIER", b"privsep"),
            (b"PRIVSEP_CONTEXT", self._context),
        )
        return b"".join(
            name + b"\n" + _SIZE.pack(len(value)) + value + b"\n"
            for name, value in fields
        )
