"""What the daemon logs, handled by the client's loggers.

Runs in the client: records of a call in the calling thread, everything else in
one thread per daemon, which begins with the first call (so that a service may
drop its privileges between start and first call, while it has one thread).
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import traceback
from functools import partial
from typing import TYPE_CHECKING, cast

from privsep._client import forking
from privsep._wire.control import LOG_SIZE, Log
from privsep._wire.values import decode

if TYPE_CHECKING:
    from collections.abc import Callable

    from privsep.context import Context

_CHUNK = 64 * 1024


def handle_record(fields: dict[str, object], name: str | None) -> None:
    """Have logger `name`, or the record's own, handle what was made in the daemon."""
    record = logging.makeLogRecord(fields)
    logger = logging.getLogger(name or record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


class LogReader:
    """Reads a daemon's log line and its stderr until both close."""

    def __init__(self, context: Context, at_end: Callable[[], None]) -> None:
        self._context = context
        self._logger = logging.getLogger(context.logger or f"privsep.{context.name}")
        self._line: socket.socket | None = None
        self._stderr: socket.socket | None = None
        self._begun = b""
        self._at_end = at_end
        self._thread: threading.Thread | None = None
        self._starting = threading.RLock()  # a signal's handler may call stop()

    def use(self, stderr: socket.socket | None, said: bytes) -> None:
        """Read `stderr`, too, of which `said` has been read."""
        self._stderr = stderr
        self._begun = said

    def open_line(self) -> socket.socket:
        """Make the log line, before the reader starts; return the daemon's end.

        It is made when it is sent, because the daemon takes only what its sender
        made, and a service may drop its privileges between start and first call.
        If there was no room for it, another is made.
        """
        if self._line is not None:
            forking.close(self._line)
        self._line, daemon_end = forking.socket_pair(socket.SOCK_SEQPACKET)
        return daemon_end

    def start(self) -> None:
        """Begin to read, once; any thread may say so.

        Where there is no thread, or no descriptor, not yet: the daemon counts what it
        cannot send meanwhile.
        """
        with self._starting:
            if self._thread is not None:
                return
            try:
                selector = selectors.DefaultSelector()
            except OSError:
                return
            # Noted first: a signal's handler may raise when it has started already.
            self._thread = threading.Thread(
                target=self._run,
                args=(selector,),
                name=self._logger.name,
                daemon=True,
            )
            try:
                self._thread.start()
            except RuntimeError:
                self._thread = None
                selector.close()

    def leave(self) -> None:
        """Leave reading to the parent: this process is a forked child."""
        if self._stderr is not None:
            self._stderr.close()

    def join(self, timeout: float) -> None:
        """Have all handled that the daemon sent until now; wait `timeout` at most.

        Reading is shut down, because what the daemon's functions left behind may
        hold its end open: what is queued is still read, then comes the end.
        """
        for sock in (self._line, self._stderr):
            if sock is not None:
                try:
                    sock.shutdown(socket.SHUT_RD)
                except OSError:  # the reader has closed it
                    pass
        self.start()
        if self._thread is threading.current_thread():
            return
        if self._thread is None or self._thread.ident is None:
            # No thread, or a signal's handler has kept it from starting.
            self._run(selectors.DefaultSelector())
        else:
            self._thread.join(timeout)

    def _run(self, selector: selectors.BaseSelector) -> None:
        readers: dict[socket.socket, Callable[[], bool]] = {}
        if self._line is not None:
            readers[self._line] = partial(self._read_line, self._line)
        if self._stderr is not None:
            readers[self._stderr] = partial(self._read_stderr, self._stderr)
        with selector:
            for sock in readers:
                selector.register(sock, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    sock = cast("socket.socket", key.fileobj)
                    if not readers[sock]():
                        selector.unregister(sock)
                        forking.close(sock)
        self._at_end()

    def _read_line(self, line: socket.socket) -> bool:
        try:
            data = line.recv(LOG_SIZE * 4)
        except ConnectionError:
            return False
        if data:
            kind, *values = cast("list[object]", decode(data))
            self._handle(cast("int", kind), values)
        return bool(data)

    def _handle(self, kind: int, values: list[object]) -> None:
        if kind == Log.RECORD:
            fields = cast("dict[str, object]", values[0])
            _guarded(handle_record, fields, self._context.logger)
        elif kind == Log.LINES:
            pid, stream, lines = values
            for text in cast("list[str]", lines):
                _guarded(self._context.log_line, stream, pid, text)
        elif kind == Log.DROPPED:
            _guarded(self._logger.warning, "%s log messages were dropped", values[0])

    def _read_stderr(self, stderr: socket.socket) -> bool:
        try:
            data = stderr.recv(_CHUNK)
        except ConnectionError:
            data = b""
        *lines, self._begun = (self._begun + data).split(b"\n")
        if not data and self._begun:
            lines.append(self._begun)
        for line in lines:
            text = line.decode("utf-8", "backslashreplace")
            _guarded(self._context.log_line, "stderr", None, text)
        return bool(data)


def _guarded(handle: Callable[..., None], *values: object) -> None:
    """Handle one message; an error of a handler is shown, as logging itself does."""
    try:
        handle(*values)
    except Exception:  # noqa: BLE001 - whatever it is, the next message is read
        if logging.raiseExceptions:
            traceback.print_exc()
