"""Logging in the daemon: every record goes to the client.

Runs in the worker.  A record made by the thread that runs a call travels on that
call's channel, before its reply; others go to the log line.  The message is
formatted here, and a traceback becomes text.  What `extra=` adds goes along if it
crosses and is short.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import TYPE_CHECKING

from privsep._wire.control import Log
from privsep._wire.frames import Kind
from privsep._wire.values import Encoder, LimitExceeded, UnsupportedType

if TYPE_CHECKING:
    from privsep._daemon.output import LogLine
    from privsep._wire.frames import Frames

_FIELDS = (
    "name",
    "levelno",
    "levelname",
    "pathname",
    "filename",
    "module",
    "lineno",
    "funcName",
    "created",
    "msecs",
    "process",
    "processName",
    "thread",
    "threadName",
)
_OF_EVERY_RECORD = vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}
_LONGEST_MESSAGE = 32 * 1024
_LONGEST_EXTRA = 1024
_MOST_EXTRAS = 16


class RecordSender(logging.Handler):
    """The only handler in a daemon."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[int, Frames] = {}
        self._line: LogLine | None = None

    def use_line(self, line: LogLine | None) -> None:
        """Send records that belong to no call to `line`."""
        self._line = line

    def use_frames(self, frames: Frames | None) -> None:
        """Send what this thread logs to `frames`; None: to the log line again."""
        if frames is None:
            self._calls.pop(threading.get_ident(), None)
        else:
            self._calls[threading.get_ident()] = frames

    @staticmethod
    def set_level(level: int) -> None:
        """Have records made of at least `level` only."""
        if logging.root.level != level:  # as a fork has it from its service
            logging.root.setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            fields = self._fields(record)
            frames = self._calls.get(threading.get_ident())
            if frames is not None:
                body = Encoder().encode(fields)
                if len(body) > frames.max_body:
                    body = self._shortened(fields, frames.max_body)
                frames.send(Kind.LOG, body)
            elif self._line is not None:
                self._line.send(Log.RECORD, fields)
            else:  # no client shall have what may be of another: to the journal
                sys.stderr.write(f"{logging.Formatter().format(record)}\n")
        except Exception:  # noqa: BLE001 - as logging.Handler.emit: never raises
            self.handleError(record)

    def _shortened(self, fields: dict[str, object], size: int) -> bytes:
        """Return a record as bytes that is not taken for a reply too large."""
        most = max(0, size - 2048) // 4  # bytes that one character may take
        text = f"{str(fields['msg'])[:most]}… (max_message=)"
        least = {name: fields[name] for name in _FIELDS}
        return Encoder().encode({**least, "msg": text})

    def _fields(self, record: logging.LogRecord) -> dict[str, object]:
        fields = {name: getattr(record, name) for name in _FIELDS}
        fields["msg"] = _message(record)[:_LONGEST_MESSAGE]
        text = record.exc_text
        if not text and record.exc_info:
            text = logging.Formatter().formatException(record.exc_info)
        if text:
            fields["exc_text"] = text[-_LONGEST_MESSAGE:]
        added = [name for name in vars(record) if name not in _OF_EVERY_RECORD]
        for name in added[:_MOST_EXTRAS]:
            if _is_short(vars(record)[name]):
                fields[name] = vars(record)[name]
        return fields


def _is_short(value: object) -> bool:
    try:
        return len(Encoder().encode(value)) <= _LONGEST_EXTRA
    except (UnsupportedType, LimitExceeded):
        return False


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 - its arguments' own code may raise
        return f"{record.msg!r} could not be formatted: {error!r}"


def install() -> RecordSender:
    """Make a `RecordSender` the only handler of all loggers."""
    sender = RecordSender()
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            # Only what differs: a fork copies each page that it writes to.
            if logger.handlers:
                logger.handlers.clear()
            if not logger.propagate:
                logger.propagate = True
            if logger.disabled:
                logger.disabled = False
            if logger.level:  # a change empties the caches of all loggers
                logger.setLevel(logging.NOTSET)
    logging.root.handlers[:] = [sender]
    logging.raiseExceptions = False
    return sender
