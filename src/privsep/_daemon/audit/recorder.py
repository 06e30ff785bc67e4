"""A worker's side of the audit.

The caller waits for none of it: the beginning of a call is queued before the
function runs, its end after the reply is sent, and the writer is woken only then,
and only if it sleeps.  With on_failure="error" the beginning is waited for.
"""

from __future__ import annotations

import os
import socket
from time import monotonic_ns, time_ns
from typing import TYPE_CHECKING

from privsep._daemon.audit.messages import (
    ANSWER,
    BEGIN,
    CLOSED,
    COUNT,
    END,
    END_OF_STREAM,
    FROM_WORKER,
    LARGEST,
    NAME_SIZE,
    NOT_RUN,
    RAISED,
    REFUSED,
    RETURNED,
    TEXT_SIZE,
)
from privsep._daemon.audit.summary import summary
from privsep._daemon.exceptions import name_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from mmap import mmap

_DONTWAIT = int(socket.MSG_DONTWAIT)  # faster than the enumeration's
_ANSWERED = ANSWER.size
_AT = slice(1, 1 + _ANSWERED)  # where a message has the nanoseconds


class Recorder:
    """A worker's line to the writer; for one call at a time.

    Args:
        sock: the worker's end of its line; what is sent or awaited there has a limit.
        bell: a pipe that wakes the writer.
        asleep: whether the writer must be woken; memory that all share, and on which
            nothing depends but when the writer looks.
        lost: memory that supervisor and worker share: how many records are missing.
        secrets: of which entrypoints which arguments are secrets, by their places.
        wait: whether a call must not run before its beginning is recorded.

    """

    def __init__(
        self,
        sock: socket.socket,
        bell: int,
        asleep: memoryview,
        lost: mmap,
        secrets: Mapping[bytes, frozenset[int]],
        *,
        wait: bool,
    ) -> None:
        self._sock: socket.socket | None = sock
        self._send = sock.send
        self._bell = bell
        self._asleep = asleep
        self._lost = lost
        self._secrets = secrets
        self._wait = wait
        self._patient = True  #: a full queue is worth waiting for
        self._begun: int | None = None
        self._outcome = RETURNED
        self._error = b""
        self._items: int | None = None  #: that a generator has made

    def begin(
        self, name: bytes, args: list[object], kwargs: Mapping[str, object]
    ) -> str:
        """Record that a call begins; return why it must not, or nothing."""
        text = summary(args, kwargs, self._secrets.get(name, ()))
        if len(name) > NAME_SIZE:
            name = name[:NAME_SIZE]
        message = FROM_WORKER.pack(BEGIN, time_ns(), len(name)) + name + text
        if not self._tell(message):
            return "the audit's writer is gone, or takes nothing" if self._wait else ""
        if self._wait and (refusal := self._await_record(message[_AT])):
            self._tell(FROM_WORKER.pack(END, 0, NOT_RUN))  # as it may not know
            return refusal
        self._begun = monotonic_ns()
        return ""

    def raised(self, error: BaseException) -> None:
        """Note how the call ended: by this exception, of which the class is told."""
        if self._begun is not None:
            shown = ".".join(name_of(type(error)))
            self._outcome = RAISED
            self._error = shown.encode("utf-8", "backslashreplace")[:NAME_SIZE]

    def streamed(self, items: int, *, whole: bool) -> None:
        """Note how many items a generator has made, and whether all were wanted."""
        self._items = items
        if not whole:
            self._outcome = CLOSED

    def refused(self, name: bytes, reason: str) -> None:
        """Record that a call was refused."""
        name = name[:NAME_SIZE]
        text = reason.encode("utf-8", "backslashreplace")[:TEXT_SIZE]
        self._tell(FROM_WORKER.pack(REFUSED, time_ns(), len(name)) + name + text)
        if self._asleep[0]:
            self._ring()

    def end(self) -> None:
        """Record that the call, if one has begun, has ended."""
        begun = self._begun
        if begun is None:
            return
        self._begun = None
        duration = monotonic_ns() - begun
        kind, error = END, self._error
        if self._items is not None:
            kind, error = END_OF_STREAM, COUNT.pack(self._items) + error
            self._items = None
        self._tell(FROM_WORKER.pack(kind, duration, self._outcome) + error)
        if self._outcome != RETURNED:
            self._outcome, self._error = RETURNED, b""
        if self._asleep[0]:
            self._ring()

    def close(self) -> None:
        """Close this process's descriptor of it, and record nothing any more."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        self._begun = None

    def _tell(self, message: bytes) -> bool:
        """Queue a message; count what cannot be; return whether it was.

        A full queue is waited for once, and then again after there was room.
        """
        try:
            self._send(message, _DONTWAIT)
        except BlockingIOError:
            self._ring()
            if self._patient and self._found_room(message):
                return True
            self._patient = False
        except OSError:  # the writer is gone, or this is closed
            if self._sock is None:
                return False
        else:
            self._patient = True
            return True
        COUNT.pack_into(self._lost, 0, COUNT.unpack_from(self._lost)[0] + 1)
        return False

    def _found_room(self, message: bytes) -> bool:
        assert self._sock is not None  # noqa: S101 - _tell looked
        try:
            self._sock.send(message)
        except OSError:
            return False
        return True

    def _ring(self) -> None:
        self._asleep[0] = 0
        try:
            os.write(self._bell, b".")
        except OSError:  # full: it wakes anyway; or closed: it is gone
            pass

    def _await_record(self, begun: bytes) -> str:
        """Wait until the beginning is recorded; return why it is not, or nothing."""
        assert self._sock is not None  # noqa: S101 - it has just been sent to
        if self._asleep[0]:
            self._ring()
        answer = b""
        try:
            while answer[:_ANSWERED] != begun:  # one of an earlier call came too late
                answer = self._sock.recv(LARGEST)
                if not answer:
                    return "the audit's writer is gone"
        except OSError:
            return "the audit's writer does not answer"
        return answer[_ANSWERED:].decode("utf-8", "replace")
