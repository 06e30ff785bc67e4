"""One channel: one call at a time, in the calling thread.

Runs in the client.  A channel is a stream to one worker, and a fate line to the
supervisor, on which its death is told and its kill is asked for.  The deadline is
the socket's own (SO_RCVTIMEO): measured, poll(2) before each recv(2) costs a
quarter of a call, this costs nothing.
"""

from __future__ import annotations

import _socket
import math
import os
import signal
import socket
import struct
from time import monotonic
from typing import TYPE_CHECKING, cast

from privsep import errors
from privsep._client.exceptions import rebuild
from privsep._client.logs import handle_record
from privsep._wire.control import FATE_SIZE, KILL, LEAVE, Ending, Fate
from privsep._wire.frames import (
    CALL_HEADER,
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
    decode_with_files,
)

if TYPE_CHECKING:
    from typing import TypeAlias

    from privsep._client.pool import Place
    from privsep.context import Context, Entry

    #: a frame, the end of the stream, or why neither could be had
    _Event: TypeAlias = tuple[int, bytes | memoryview] | OSError | FrameTooLarge | None
    #: a frame, and descriptors that came along
    Received: TypeAlias = tuple[int, bytes | memoryview, list[int]]

_TIMEVAL = struct.Struct("@ll")
_FATE_TIMEOUT = 1.0
_LONGEST_TIMEOUT = 1e9  # seconds: what a timer takes; no call will see its end


class NotStarted(Exception):
    """Nothing of the call ran, or will: it may be sent to another worker."""


class Channel:
    """A channel to a worker, which may not have started yet.

    `usable` is False once an answer was missed; the pool then closes it.
    """

    def __init__(
        self, sock: socket.socket, fate: socket.socket, context: Context
    ) -> None:
        self.usable = True
        self.place: Place | None = None  #: in the pool, which frees it afterwards
        self._unanswered = False
        self._context = context
        self._sock = sock
        self._fate = fate
        self._frames = Frames(sock, context.max_message)
        self._encoder = Encoder(files=True)
        self._timeout = math.inf
        sock.settimeout(None)  # not socket.setdefaulttimeout()'s
        self._fresh = True
        # gevent and eventlet put sockets of their own in place; these never
        # block in the kernel, so its timer does not run.
        self._kernel_timer = type(sock).recv is _socket.socket.recv

    def is_open(self) -> bool:
        """Return whether it is this process's: a forked child has it closed."""
        return self._sock.fileno() >= 0

    def close(self) -> None:
        """Close it here; the worker sees the end and goes."""
        self.usable = False
        self._sock.close()
        self._fate.close()

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
        self.begin(entry, args, kwargs, level, timeout)
        event: _Event
        try:
            event = self._frames.receive()
            if event is not None and event[0] == Kind.RET:
                self.usable = True
                return decode(event[1])
        except (OSError, FrameTooLarge) as error:
            event = error
        return self._receive(entry, deadline, event)

    def begin(
        self,
        entry: Entry,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        level: int,
        timeout: float,
    ) -> None:
        """Send a CALL, to which the worker has to answer within `timeout` seconds.

        Raises:
            NotStarted: nothing of it ran.
            PrivsepError: it cannot be sent.

        """
        try:
            body = self._encoder.encode_call(args, kwargs)
        except (UnsupportedType, LimitExceeded) as error:
            raise self._cannot_send(error, entry, args, kwargs) from None
        name = entry.wire_name
        length = CALL_HEADER.size + len(name) + len(body)
        if length > self._context.max_message:
            raise self._too_large(entry, length)
        head = entry.head.pack(length, Kind.CALL, timeout, level, len(name), name)
        if timeout != self._timeout:
            self._set_timeout(timeout)
        self.usable = False
        try:
            if self._encoder.files:
                self._send_with_files(head, body)
            else:
                self._frames.send_parts(head, body)
        except NothingSent:
            raise self._why_nothing_sent(entry) from None
        except OSError as error:
            # The deadline has passed, or the worker has gone and perhaps left a
            # BYE: receiving finds out.
            if not self._is_own(error):
                raise
        self._fresh = False

    def next_frame(self, entry: Entry, deadline: float) -> Received:
        """Return the next frame of a stream, its descriptors with it.

        Records that come before it are handled.  The descriptors are the caller's
        to close.

        Raises:
            NotStarted: nothing of the function ran.
            PrivsepError: no frame comes; the channel is not usable any more.

        """
        while True:
            left = deadline - monotonic()
            if not left <= self._timeout <= left + 1.0:
                self._set_timeout(left)
            event: _Event
            try:
                event = self._frames.receive()
                if event is not None and event[0] == Kind.ATTACH:
                    return self._receive_attached(entry)
            except (OSError, FrameTooLarge) as error:
                event = error
            if event is None or isinstance(event, (OSError, FrameTooLarge)):
                self._handle_trouble(entry, deadline, event)
            elif event[0] == Kind.LOG:
                handle_record(cast("dict[str, object]", decode(event[1])))
            elif event[0] == Kind.BYE:
                raise NotStarted
            else:
                return *event, []

    def send_to_stream(self, kind: int, body: bytes = b"") -> None:
        """Tell the worker how a stream goes on; if it is gone, `next_frame` says so."""
        try:
            self._frames.send(kind, body)
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
            f"{entry.name}(): {place} holds a {error}, which does not cross: "
            "send plain values (numbers, text, bytes, lists, tuples, sets, dicts, "
            "dates, paths, addresses; no subclass of one) or open files, sockets, "
            "privsep.Fd; for an enum or a dataclass, annotate the parameter with it"
        )
        return errors.Unserializable(msg)

    def _too_large(self, entry: Entry, length: int) -> errors.MessageTooLarge:
        msg = (
            f"the arguments of {entry.name}() make a message of {length} bytes, the "
            f"limit is {self._context.max_message} (max_message=)"
        )
        return errors.MessageTooLarge(msg)

    def _unsupported(self, args: tuple[object, ...], kwargs: dict[str, object]) -> str:
        for place, value in [*enumerate(args, start=1), *kwargs.items()]:
            try:
                self._encoder.encode(value)
            except UnsupportedType:
                return f"argument {place}"
        return "an argument"

    def _set_timeout(self, seconds: float) -> None:
        self._timeout = seconds
        # At least a microsecond: zero would mean for ever.
        most = min(max(seconds, 1e-6), _LONGEST_TIMEOUT)
        if seconds == math.inf:
            most = 0.0
        if not self._kernel_timer:
            self._sock.settimeout(most or None)
            return
        whole = int(most)
        value = _TIMEVAL.pack(whole, int((most - whole) * 1e6))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def _is_own(self, error: OSError) -> bool:
        """Return whether the socket raised it, and not a signal's handler."""
        if error.errno is not None or isinstance(error, Interrupted):
            return True
        return isinstance(error, TimeoutError) and not self._kernel_timer

    def _receive(self, entry: Entry, deadline: float, event: _Event) -> object:
        """Handle `event` and what follows, until the reply."""
        while True:
            if event is None or isinstance(event, (OSError, FrameTooLarge)):
                self._handle_trouble(entry, deadline, event)
            elif event[0] == Kind.RET:
                self.usable = True
                return decode(event[1])
            elif event[0] == Kind.ERR:
                self.usable = True
                raise rebuild(decode(event[1]), self._context)
            elif event[0] == Kind.LOG:
                handle_record(cast("dict[str, object]", decode(event[1])))
            elif event[0] == Kind.ATTACH:
                return self._receive_with_files(entry)
            elif event[0] == Kind.BYE:
                raise NotStarted
            try:
                event = self._frames.receive()
            except (OSError, FrameTooLarge) as error:
                event = error

    def _send_with_files(self, head: bytes, body: bytes) -> None:
        files = self._encoder.files
        try:
            self._frames.send_attached(head, body, files)
        finally:
            files.clear()

    def _receive_with_files(self, entry: Entry) -> object:
        """Receive the reply that brings descriptors, and return what it holds."""
        _, body, descriptors = self._receive_attached(entry)
        self.usable = True
        return decode_with_files(body, descriptors)

    def _receive_attached(self, entry: Entry) -> Received:
        try:
            return self._frames.receive_attached()
        except DescriptorsLost as error:
            self.usable = True
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
        self._set_timeout(left)

    def cancel(self) -> None:
        """Have the worker killed, if it still is, and its reply never read."""
        try:
            self._fate.send(KILL)
        except OSError:
            pass
        self.close()

    def leave(self) -> None:
        """Close it in the middle of a stream; the worker cleans up, for a while."""
        try:
            self._fate.send(LEAVE)
        except OSError:
            pass
        self.close()

    def _why_nothing_sent(self, entry: Entry) -> Exception:
        """Return NotStarted for a worker that went while it was idle.

        One that died before its first call will do so again: that is an error,
        or the call would be asked for without end.
        """
        fate = self._ask_fate(kill=False) if self._fresh else None
        if fate is None or (fate.ending == Ending.ENDED and not fate.status):
            return NotStarted()
        return self._error_of(fate, entry, overran=False)

    def _fate_of(self, entry: Entry, *, overran: bool = False) -> Exception:
        """Have the worker killed if it lives; return the error that says it all."""
        fate = self._ask_fate()
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
            return errors.DaemonGone(f"{name}: the daemon got no worker: {reason}")
        limit = f"{entry.limit:g} s"
        if entry.item_limit != math.inf:
            limit += f", {entry.item_limit:g} s for each item"
        return errors.CallTimeout(self._why_late(name, limit, fate))

    def _why_late(self, name: str, limit: str, fate: Fate) -> str:
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
        self._fate.settimeout(_FATE_TIMEOUT)
        try:
            if kill:
                self._fate.send(KILL)
        except OSError:
            pass  # the answer may be there already
        try:
            return Fate.from_bytes(self._fate.recv(FATE_SIZE))
        except TimeoutError:
            self._unanswered = True
            return None
        except OSError:
            return None

    def _no_fate(self, name: str, *, overran: bool) -> Exception:
        if not self._unanswered:
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
