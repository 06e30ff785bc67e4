"""One channel: one call at a time, in the calling thread.

Runs in the client.  A channel is a stream to one worker, and a fate line to the
supervisor, on which its death is told and its kill is asked for.  The deadline is
the socket's own (SO_RCVTIMEO): measured, poll(2) before each recv(2) costs a
quarter of a call, this costs nothing.
"""

from __future__ import annotations

import errno
import math
import os
import signal
from time import monotonic
from typing import TYPE_CHECKING, cast

from privsep import errors
from privsep._client import forking
from privsep._client.exceptions import rebuild
from privsep._client.logs import handle_record
from privsep._client.timer import Timer
from privsep._wire.control import FATE_SIZE, KILL, LEAVE, Ending, Fate
from privsep._wire.frames import (
    CALL_HEADER,
    Declined,
    DescriptorsLost,
    Frames,
    FrameTooLarge,
    Interrupted,
    Kind,
    NothingSent,
)
from privsep._wire.values import (
    Encoder,
    LimitExceeded,
    UnsupportedType,
    decode,
    decode_with,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import TypeAlias

    from privsep._client.pool import Place
    from privsep._wire.frames import Beside
    from privsep.context import Context, Entry

    #: a frame, the end of the stream, or why neither could be had
    _Event: TypeAlias = tuple[int, bytes | memoryview] | OSError | FrameTooLarge | None
    #: a frame of a stream, and what came beside it
    Received: TypeAlias = tuple[int, bytes | memoryview, Beside | None]

_FATE_TIMEOUT = 1.0


class NotStarted(Exception):
    """Nothing of the call ran, or will: it may be sent to another worker."""


class Channel:
    """A channel to a worker, which may not have started yet.

    `usable` is False once an answer was missed; the pool then closes it.
    """

    def __init__(
        self,
        sock: socket.socket,
        fate: socket.socket,
        context: Context,
        at_first: Callable[[], None],
    ) -> None:
        self.usable = True
        self.daemon_ended = False  #: which an answer that did not come has shown
        self.place: Place | None = None  #: in the pool, which frees it afterwards
        self.unanswered = False
        self._context = context
        self.sock = sock
        self.fate = fate
        self._timer = timer = Timer(sock)
        self.frames = Frames(sock, context.max_message, timer.renew, timer.renew)
        self.encoder = Encoder(beside=True)
        self.fresh = True
        self.at_first = at_first  #: called when the first CALL is sent

    def is_open(self) -> bool:
        """Return whether it is this process's: a forked child has it closed."""
        return self.sock.fileno() >= 0

    def fileno(self) -> int:
        """Return the descriptor that can be read when a reply begins."""
        return self.sock.fileno()

    def close(self) -> None:
        """Close it here; the worker sees the end and goes."""
        self.usable = False
        forking.end(self.sock, self.fate)

    def call(
        self,
        entry: Entry,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        level: int,
        deadline: float,
        timeout: float,
    ) -> object:
        """Make one call, which must end by `deadline`, `timeout` seconds from now.

        Raises:
            NotStarted: nothing of it ran.
            BaseException: the function's own, or one of privsep's; the channel is
                still usable, or not.

        """
        event: _Event = self.begin(entry, args, kwargs, level, deadline, timeout)
        if event is None:
            try:
                event = self.frames.receive()
                if event is not None and event[0] == Kind.RET:
                    self.usable = True
                    return event[1] if entry.packed else decode(event[1])
            except (OSError, FrameTooLarge) as error:
                event = error
        return self._receive(entry, deadline, event)

    def finish(
        self,
        entry: Entry,
        deadline: float,
        why: tuple[int, bytes | memoryview] | None = None,
    ) -> object:
        """Wait for the reply to the CALL that was begun; `why`: what `begin` returned.

        Raises:
            NotStarted, BaseException: as `call`.

        """
        return self._receive(entry, deadline, why or self._next_event())

    def _next_event(self) -> _Event:
        try:
            return self.frames.receive()
        except (OSError, FrameTooLarge) as error:
            return error

    def begin(
        self,
        entry: Entry,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        level: int,
        deadline: float,
        timeout: float,
    ) -> tuple[int, bytes | memoryview] | None:
        """Send a CALL, to which the worker has to answer within `timeout` seconds.

        Returns:
            The answer, if it takes no such arguments; else None.

        Raises:
            NotStarted: nothing of it ran.
            PrivsepError: it cannot be sent.

        """
        head, body = self.pack(entry, args, kwargs, level, timeout)
        timer = self._timer
        if timeout != timer.seconds:
            timer.set(timeout)
        timer.deadline = deadline
        self.usable = False
        try:
            if self.encoder.something_beside:
                self._send_beside(head, body)
            else:
                self.frames.send_parts(head, body)
        except NothingSent:
            raise self._why_nothing_sent(entry) from None
        except Declined as declined:
            return Kind.ERR, declined.answer
        except OSError as error:
            # The deadline has passed, or the worker has gone and perhaps left a
            # BYE: receiving finds out.
            if not self._is_own(error):
                raise
            timer.renew()
        if self.fresh:
            self.begun()
        return None

    def begun(self) -> None:
        """Say that a CALL is sent: the worker may be starting still."""
        if self.fresh:
            self.fresh = False
            self.at_first()

    def pack(
        self,
        entry: Entry,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        level: int,
        timeout: float,
    ) -> tuple[bytes, bytes]:
        """Return a CALL: what precedes its arguments, and they.

        Raises:
            Unserializable, MessageTooLarge: it cannot be sent.

        """
        try:
            if entry.packed:
                body = cast("bytes", args[0])
            else:
                body = self.encoder.encode_call(args, kwargs)
        except (UnsupportedType, LimitExceeded) as error:
            raise self._cannot_send(error, entry, args, kwargs) from None
        name = entry.wire_name
        length = CALL_HEADER.size + len(name) + len(body)
        if length > self._context.max_message or self.encoder.something_beside:
            self._check_size(entry, length)
        head = entry.head.pack(length, Kind.CALL, timeout, level, len(name), name)
        return head, body

    def next_frame(self, entry: Entry, deadline: float) -> Received:
        """Return the next frame of a stream, its descriptors with it.

        Records that come before it are handled.  The descriptors are the caller's
        to close.

        Raises:
            NotStarted: nothing of the function ran.
            PrivsepError: no frame comes; the channel is not usable any more.

        """
        timer = self._timer
        timer.deadline = deadline
        left = deadline - monotonic()
        if not left <= timer.seconds <= left + 1.0:
            timer.set(left)
        while True:
            event = self._next_event()
            if event is None or isinstance(event, (OSError, FrameTooLarge)):
                self._handle_trouble(entry, deadline, event)
            elif event[0] == Kind.LOG:
                self.log(event[1])
            elif event[0] in (Kind.ATTACH, Kind.SEGMENTS):
                try:
                    return self._announced(entry, *event)
                finally:
                    self.usable = False  # there is more to come
            elif event[0] == Kind.BYE:
                raise NotStarted
            else:
                return *event, None

    def log(self, body: bytes | memoryview) -> None:
        """Handle the record in a LOG."""
        fields = cast("dict[str, object]", decode(body))
        handle_record(fields, self._context.logger)

    def send_to_stream(self, kind: int, body: bytes = b"") -> None:
        """Tell the worker how a stream goes on; if it is gone, `next_frame` says so."""
        try:
            self.frames.send(kind, body)
        except NothingSent:
            pass
        except OSError as error:
            if not self._is_own(error):
                raise

    def _cannot_send(
        self,
        error: Exception,
        entry: Entry,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> errors.PrivsepError:
        if isinstance(error, LimitExceeded):
            msg = f"the arguments of {entry.name}() have {error}"
            return errors.MessageTooLarge(msg)
        place = self._unsupported(args, kwargs)
        msg = (
            f"{entry.name}(): {place} holds a value of type {error}, which does not "
            "cross: send plain values (numbers, text, bytes, lists, tuples, sets, "
            "dicts, dates, paths, addresses; no subclass of one) or open files, "
            "sockets, privsep.Fd; for an enum or a dataclass, annotate the parameter "
            "with it"
        )
        return errors.Unserializable(msg)

    def _check_size(self, entry: Entry, length: int) -> None:
        size = length + self.encoder.size_beside()
        if size > self._context.max_message:
            self.encoder.clear()
            msg = (
                f"the arguments of {entry.name}() make a message of {size} bytes, the "
                f"limit is {self._context.max_message} (max_message=)"
            )
            raise errors.MessageTooLarge(msg)

    def _unsupported(self, args: tuple[object, ...], kwargs: dict[str, object]) -> str:
        for place, value in [*enumerate(args, start=1), *kwargs.items()]:
            try:
                self.encoder.encode(value)
            except UnsupportedType:
                return f"argument {place}"
        self.encoder.clear()
        return "an argument"

    def _is_own(self, error: OSError) -> bool:
        """Return whether the socket raised it, and not a signal's handler.

        That a descriptor is closed, of those to send, is the caller's mistake.
        """
        if error.errno == errno.EBADF:
            return False
        if error.errno is not None or isinstance(error, Interrupted):
            return True
        return isinstance(error, TimeoutError) and not self._timer.of_kernel

    def _receive(self, entry: Entry, deadline: float, event: _Event) -> object:
        """Handle `event` and what follows, until the reply."""
        while True:
            if event is None or isinstance(event, (OSError, FrameTooLarge)):
                self._handle_trouble(entry, deadline, event)
            elif event[0] == Kind.RET:
                self.usable = True
                return event[1] if entry.packed else decode(event[1])
            elif event[0] == Kind.ERR:
                self.usable = True
                raise rebuild(decode(event[1]), self._context)
            elif event[0] == Kind.LOG:
                self.log(event[1])
            elif event[0] in (Kind.ATTACH, Kind.SEGMENTS):
                return self._receive_beside(entry, *event)
            elif event[0] == Kind.BYE:
                raise NotStarted
            event = self._next_event()

    def _send_beside(self, head: bytes, body: bytes) -> None:
        encoder = self.encoder
        try:
            self.frames.send_beside(head, body, encoder.files, encoder.segments)
        finally:
            encoder.clear()

    def _receive_beside(
        self, entry: Entry, kind: int, body: bytes | memoryview
    ) -> object:
        """Receive the reply that is announced, and return what it holds."""
        _, body, beside = self._announced(entry, kind, body)
        self.usable = True
        return decode_with(body, *beside)

    def _announced(
        self, entry: Entry, kind: int, body: bytes | memoryview
    ) -> tuple[int, bytes | memoryview, Beside]:
        try:
            return self.frames.receive_beside(kind, body)
        except (DescriptorsLost, FrameTooLarge) as error:
            self.usable = isinstance(error, DescriptorsLost)
            msg = f"the result of {entry.name}() cannot be received: {error}"
            raise errors.MessageTooLarge(msg) from None
        except OSError as error:
            if not self._is_own(error):
                raise
            late = isinstance(error, (BlockingIOError, TimeoutError))
            raise self._fate_of(entry, overran=late) from None

    def _handle_trouble(
        self, entry: Entry, deadline: float, event: OSError | FrameTooLarge | None
    ) -> None:
        """Return if it is worth to go on receiving, else raise what it means."""
        if isinstance(event, FrameTooLarge):
            if event.kind == Kind.LOG:
                return
            self.usable = True
            msg = f"the result of {entry.name}() is {event} (max_message=)"
            raise errors.MessageTooLarge(msg)
        if event is not None and not self._is_own(event):
            raise event
        if not isinstance(event, (BlockingIOError, TimeoutError)):
            raise self._fate_of(entry)
        self._wait_on(entry, deadline)

    def _wait_on(self, entry: Entry, deadline: float) -> None:
        """Go on waiting for what is left of the deadline, or give up."""
        left = deadline - monotonic()
        if left <= 0:
            raise self._fate_of(entry, overran=True)
        self._timer.set(left)

    def cancel(self) -> None:
        """Have the worker killed, if it still is, and its reply never read."""
        try:
            self.fate.send(KILL)
        except OSError:
            pass
        self.close()

    def leave(self) -> None:
        """Close it in the middle of a stream; the worker cleans up, for a while."""
        try:
            self.fate.send(LEAVE)
        except OSError:
            pass
        self.close()

    def _why_nothing_sent(self, entry: Entry) -> Exception:
        """Return NotStarted for a worker that went while it was idle.

        One that died before its first call will do so again: that is an error,
        or the call would be asked for without end.
        """
        fate = self._ask_fate(kill=False) if self.fresh else None
        return self.why_nothing_sent(entry, fate)

    def why_nothing_sent(self, entry: Entry, fate: Fate | None) -> Exception:
        """As `_why_nothing_sent`, of a fresh worker of this fate."""
        if fate is None or (fate.ending == Ending.ENDED and not fate.status):
            return NotStarted()
        return self._error_of(fate, entry, overran=False)

    def _fate_of(self, entry: Entry, *, overran: bool = False) -> Exception:
        """Have the worker killed if it lives; return the error that says it all."""
        return self.explain(entry, self._ask_fate(), overran=overran)

    def explain(self, entry: Entry, fate: Fate | None, *, overran: bool) -> Exception:
        """Return the error that says what became of a worker."""
        if fate is None:
            return self._no_fate(f"{entry.name}()", overran=overran)
        return self._error_of(fate, entry, overran=overran)

    def _error_of(self, fate: Fate, entry: Entry, *, overran: bool) -> Exception:
        name = f"{entry.name}()"
        if fate.ending == Ending.ENDED and not overran:
            return _worker_died(name, fate)
        if fate.ending == Ending.TOO_MANY:
            return errors.Refused(f"{name}: too many calls of this user wait")
        if fate.ending == Ending.NO_WORKER:
            reason = os.strerror(fate.status)
            return errors.Refused(f"{name}: the daemon got no worker: {reason}")
        limit = f"{entry.limit:g} s"
        if entry.item_limit != math.inf:
            limit += f", {entry.item_limit:g} s for each item"
        return errors.CallTimeout(self._why_late(entry, limit, fate))

    def _why_late(self, entry: Entry, limit: str, fate: Fate) -> str:
        name = f"{entry.name}()"
        if fate.ending == Ending.RUNS_ON and entry.is_asynchronous:
            return f"{name} did not end in time ({limit}); it is cancelled"
        if fate.ending == Ending.RUNS_ON:
            return (
                f"{name} did not end in time ({limit}); it goes on running in its "
                "thread, which cannot be killed"
            )
        if fate.ending == Ending.NOT_STARTED:
            return (
                f"{name} did not start in time ({limit}): all "
                f"{self._context.workers} workers were busy (workers=)"
            )
        return f"{name} did not end in time ({limit}); its worker {fate.pid} was killed"

    def _ask_fate(self, *, kill: bool = True) -> Fate | None:
        """Have the worker killed if `kill`; return what became of it.

        None if the supervisor is gone, or if no answer came within a second.
        """
        self.fate.settimeout(_FATE_TIMEOUT)
        try:
            if kill:
                self.fate.send(KILL)
        except OSError:
            pass  # the answer may be there already
        try:
            return Fate.from_bytes(self.fate.recv(FATE_SIZE))
        except TimeoutError:
            self.unanswered = True
            return None
        except OSError:
            return None

    def _no_fate(self, name: str, *, overran: bool) -> Exception:
        if not self.unanswered:
            self.daemon_ended = True
            return errors.DaemonGone(f"the daemon ended while {name} was running")
        if overran:
            msg = (
                f"{name} did not end in time, and its worker is not gone a second "
                "later: the kernel holds it, or the daemon is stopped"
            )
            return errors.CallTimeout(msg)
        return errors.WorkerDied(f"the worker of {name} closed its channel")


def _worker_died(name: str, fate: Fate) -> errors.WorkerDied:
    code = os.waitstatus_to_exitcode(fate.status)
    if code < 0:
        reason = f"was killed by {_signal_name(-code)}"
    else:
        reason = f"exited with {code}"
    error = errors.WorkerDied(f"worker {fate.pid} {reason} in {name}")
    error.signal = -code if code < 0 else None
    error.status = code if code >= 0 else None
    return error


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
