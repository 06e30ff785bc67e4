"""What supervisor and workers tell the audit's writer.

Runs in the supervisor and the workers of a context that has an audit; docs/audit.md
has the picture.  Each worker has a socket of its own to the writer, which the
supervisor hands over together with whom the worker serves: so a worker speaks for
itself alone, cannot take back what it has sent, and cannot say for whom it ran.

The caller waits for none of it: the beginning of a call is queued before the
function runs, its end after the reply is sent, and the writer is woken only then,
and only if it sleeps.  With on_failure="error" the beginning is waited for.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import socket
import struct
from time import monotonic_ns, time_ns
from typing import TYPE_CHECKING

from privsep._wire import descriptors
from privsep.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Final

    from privsep._daemon.workers import Worker
    from privsep._wire.descriptors import Credentials
    from privsep.audit import Audit

# From workers: kind, nanoseconds, outcome or size of the name; then name and text.
FROM_WORKER = struct.Struct("=BQB")
BEGIN, END, REFUSED = 1, 2, 3
LARGEST = 1024
NAME_SIZE = 200
TEXT_SIZE = 200

RETURNED, RAISED = 0, 1

# From the supervisor: kind, slot; then what the kind says.
FROM_SUPERVISOR = struct.Struct("=BH")
STARTED: Final = 1  #: WORKER, with the writer's end of the worker's socket
ENDED: Final = 2  #: FATE
TURNED_AWAY: Final = 3  #: PEER, and the reason
OVERRAN: Final = 4
REOPEN: Final = 5
CLOSE: Final = 6
WORKER = struct.Struct("=IIII")  # its pid; its client's pid, uid and gid
PEER = struct.Struct("=III")
FATE = struct.Struct("=BiQ")  # how it ended, its wait status, what it lost
BY_ITSELF, AT_DEADLINE, AS_ASKED = 0, 1, 2

ACK = b"\0"

_STUCK = struct.pack("@ll", 1, 0)  # a second, as a timeval
_SLOW = struct.pack("@ll", 5, 0)
_END_WITHIN = 5000  # milliseconds, in which the writer has written all
_QUEUE = 1024 * 1024
_WORD = 8


class Page:
    """Memory that writer, supervisor and workers share; nobody relies on it.

    One word tells whether the writer sleeps; one for each slot counts what a
    worker could not send.
    """

    def __init__(self, workers: int) -> None:
        memory = memoryview(mmap.mmap(-1, (workers + 1) * _WORD)).cast("Q")
        self.asleep = memory[:1]
        self.lost = memory[1:]


class Recorder:
    """A worker's line to the writer; for one call at a time."""

    def __init__(
        self, sock: socket.socket, bell: int, page: Page, slot: int, *, wait: bool
    ) -> None:
        self._sock: socket.socket | None = sock
        self._send: Callable[[bytes], int] = sock.send
        self._bell = bell
        self._asleep = page.asleep
        self._lost = page.lost
        self._slot = slot
        self._wait = wait
        self._begun: int | None = None
        self._outcome = RETURNED
        self._error = b""
        self._broken = ""

    def begin(
        self, name: bytes, args: list[object], kwargs: Mapping[str, object]
    ) -> str:
        """Record that a call begins; return why it must not, or nothing."""
        text = b""
        if (
            not kwargs
            and len(args) <= _MOST_ITEMS
            and _NUMBERS.issuperset(map(type, args))
        ):
            try:
                text = repr(args)[1:-1].encode()  # what `summary` makes of it, sooner
            except ValueError:  # a number too long for it
                pass
        if not text or len(text) > TEXT_SIZE:
            text = summary(args, kwargs)
        if len(name) > NAME_SIZE:
            name = name[:NAME_SIZE]
        try:
            self._send(FROM_WORKER.pack(BEGIN, time_ns(), len(name)) + name + text)
        except OSError:
            self._count_lost()
            self._begun = None
            return "the audit's writer is gone, or takes nothing" if self._wait else ""
        if self._wait and (refusal := self._await_record()):
            self._begun = None
            return refusal
        self._begun = monotonic_ns()
        return ""

    def raised(self, error: BaseException) -> None:
        """Note how the call ended: by this exception, of which the class is told."""
        kind = type(error)
        self._outcome = RAISED
        shown = f"{kind.__module__}.{kind.__qualname__}"
        self._error = shown.encode("utf-8", "backslashreplace")[:NAME_SIZE]

    def refused(self, name: bytes, reason: str) -> None:
        """Record that a call was refused."""
        name = name[:NAME_SIZE]
        text = reason.encode("utf-8", "backslashreplace")[:TEXT_SIZE]
        try:
            self._send(FROM_WORKER.pack(REFUSED, time_ns(), len(name)) + name + text)
        except OSError:
            self._count_lost()
        self._ring()

    def end(self) -> None:
        """Record that the call, if one has begun, has ended."""
        begun = self._begun
        if begun is None:
            return
        self._begun = None
        duration = monotonic_ns() - begun
        try:
            self._send(FROM_WORKER.pack(END, duration, self._outcome) + self._error)
        except OSError:
            self._count_lost()
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

    def _count_lost(self) -> None:
        """Count a message, and wait no longer for a writer that took it not.

        It had a second; from now on what there is no room for is lost at once,
        until there is room again.
        """
        if self._sock is not None:
            self._lost[self._slot] += 1
            self._send = self._send_without_waiting

    def _send_without_waiting(self, message: bytes) -> int:
        if self._sock is None:
            raise OSError
        size = self._sock.send(message, socket.MSG_DONTWAIT)
        self._send = self._sock.send
        return size

    def _ring(self) -> None:
        if self._asleep[0]:
            self._asleep[0] = 0
            try:
                os.write(self._bell, b".")
            except OSError:  # full: it wakes anyway; or closed: it is gone
                pass

    def _await_record(self) -> str:
        """Wait until the beginning is recorded; return why it is not, or nothing."""
        if self._broken:  # a late answer would be taken for the next one's
            return self._broken
        if self._sock is None:
            return "a forked child has no audit of its own"
        self._ring()
        try:
            answer = self._sock.recv(LARGEST)
        except OSError:
            self._broken = "the audit's writer does not answer"
            return self._broken
        if answer == ACK:
            return ""
        return answer.decode("utf-8", "replace") or "the audit's writer is gone"


# -- the summary of the arguments ----------------------------------------------

_PLAIN = frozenset({bool, type(None), float})
_NUMBERS = _PLAIN | {int}
_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("{", "}"),
}
_MOST_ITEMS = 8
_LONGEST_STR = 64
_LARGEST_INT = 1 << 64


def summary(args: list[object], kwargs: Mapping[str, object]) -> bytes:
    """Return the arguments as short text: no bytes, nothing long, no secret."""
    parts = [_shown(value, 0) for value in args[:_MOST_ITEMS]]
    if len(args) > _MOST_ITEMS:
        parts.append("...")
    if kwargs:
        parts += [
            f"{name[:_LONGEST_STR]}={_shown(kwargs[name], 0)}"
            for name in list(kwargs)[:_MOST_ITEMS]
        ]
        if len(kwargs) > _MOST_ITEMS:
            parts.append("...")
    text = ", ".join(parts).encode("utf-8", "backslashreplace")
    return text if len(text) <= TEXT_SIZE else text[: TEXT_SIZE - 3] + b"..."


def _shown(value: object, depth: int) -> str:
    """Return one value as text.  What is secret is to be told apart here."""
    kind = type(value)
    if isinstance(value, int) and kind is int:
        return repr(value) if -_LARGEST_INT < value < _LARGEST_INT else "<int>"
    if isinstance(value, str):
        return _shown_str(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return _shown_items(value, kind, depth)
    if kind in _PLAIN:
        return repr(value)
    if isinstance(value, (bytes, bytearray, dict)):
        return f"<{kind.__name__} of {len(value)}>"
    return f"<{kind.__name__}>"


def _shown_str(value: str) -> str:
    if len(value) <= _LONGEST_STR:
        return repr(value)
    return f"{value[:_LONGEST_STR]!r}..."


def _shown_items(value: Collection[object], kind: type, depth: int) -> str:
    """Return the items of the outermost containers; of others the number."""
    if depth or len(value) > _MOST_ITEMS:
        return f"<{kind.__name__} of {len(value)}>"
    begin, end = _BRACKETS[kind]
    return begin + ", ".join(_shown(item, depth + 1) for item in value) + end


# -- the supervisor's side -----------------------------------------------------


class Auditor:
    """The supervisor's line to the writer, which is its child."""

    def __init__(
        self, sock: socket.socket, pid: int, bell: int, page: Page, audit: Audit
    ) -> None:
        self.sock = sock
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._bell = bell
        self._page = page
        self._must = audit.on_failure == "error"
        self._lost = 0
        self._gone = False
        self._writers: socket.socket | None = None  #: of the line that is being made

    def wait_until_ready(self) -> None:
        """Return when the writer has its sinks and has dropped its privileges.

        Raises:
            StartError: in the writer's own words.

        """
        answer = self.sock.recv(LARGEST)
        if answer != ACK:
            words = answer.decode("utf-8", "replace") or "its writer ended"
            msg = f"the audit could not be started: {words}"
            raise StartError(msg)

    def recorder(self, slot: int) -> Recorder:
        """Return a worker's end of a new line; `started` or `dismiss` is to follow."""
        writers, workers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        workers.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _QUEUE)
        workers.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _STUCK)
        workers.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _SLOW)
        self._page.lost[slot] = 0
        self._writers = writers
        return Recorder(workers, self._bell, self._page, slot, wait=self._must)

    def dismiss(self, recorder: Recorder) -> None:
        """Close a line for which no worker could be started."""
        recorder.close()
        self._close_writers_end()

    def started(self, worker: Worker, recorder: Recorder) -> None:
        """Hand the writer its end of a worker's line, and say for whom it works."""
        assert self._writers is not None  # noqa: S101 - `recorder` was called
        peer = worker.job.peer
        message = FROM_SUPERVISOR.pack(STARTED, worker.slot_number)
        message += WORKER.pack(worker.pid, peer.pid, peer.uid, peer.gid)
        self._send(message, [self._writers.fileno()])
        self._close_writers_end()
        if worker.can_be_killed:  # the worker's end is a process's own; a thread's is
            recorder.close()  # this process's

    def ended(self, worker: Worker, status: int) -> None:
        """Tell how a worker ended; a call that it had begun ended so, too."""
        how = BY_ITSELF
        if worker.overran:
            how = AT_DEADLINE
        elif worker.cancelled:
            how = AS_ASKED
        lost = self._page.lost[worker.slot_number]
        message = FROM_SUPERVISOR.pack(ENDED, worker.slot_number)
        if not self._send(message + FATE.pack(how, status, lost)):
            self._lost += lost

    def overran(self, worker: Worker) -> None:
        """Tell that a thread's deadline has passed."""
        self._send(FROM_SUPERVISOR.pack(OVERRAN, worker.slot_number))

    def turned_away(self, sender: Credentials | None, reason: str) -> None:
        """Record that the supervisor itself refused a client."""
        peer = (0, 0, 0) if sender is None else sender
        head = FROM_SUPERVISOR.pack(TURNED_AWAY, 0) + PEER.pack(*peer)
        self._send(head + reason.encode()[:TEXT_SIZE])

    def reopen(self) -> None:
        """Have the writer open its file anew."""
        self._send(FROM_SUPERVISOR.pack(REOPEN, 0))

    def is_gone(self) -> bool:
        """Look whether the writer, which has something to say, has ended; report it."""
        try:
            self._gone = not self.sock.recv(LARGEST, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            self._gone = True
        if self._gone:
            what = "are refused" if self._must else "are not recorded"
            complain(
                f"the audit's writer {self.pid} has ended: from now on calls {what}"
            )
        return self._gone

    def close(self) -> None:
        """Have the writer write all that there is, and wait until it has ended."""
        self._send(FROM_SUPERVISOR.pack(CLOSE, 0))
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        poll.poll(_END_WITHIN)
        try:
            os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:  # as init, the supervisor has reaped it
            pass
        if self._lost:
            complain(f"the audit lacks {self._lost} messages that could not be sent")

    def close_in_worker(self) -> None:
        """Close, in a worker, what is the supervisor's and the writer's.

        With the writer's end a worker could take back what it has sent.
        """
        self.sock.close()
        os.close(self._pidfd)
        self._close_writers_end()

    def _close_writers_end(self) -> None:
        if self._writers is not None:
            self._writers.close()
            self._writers = None

    def _send(self, message: bytes, rights: list[int] | None = None) -> bool:
        """Send without waiting: a deadline may be due.  Or count it."""
        try:
            descriptors.send(self.sock, message, rights or [], socket.MSG_DONTWAIT)
        except OSError:
            self._lost += 1
            return False
        return True


def start(audit: Audit, context_name: str, workers: int) -> Auditor:
    """Fork the writer, which has all privileges still; `wait_until_ready` for it."""
    ours, writers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    page = Page(workers)
    hear, bell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            # Only now, so that neither supervisor nor workers load what it needs.
            from privsep._daemon import audit_writer  # noqa: PLC0415

            audit_writer.run(audit, context_name, writers, (hear, bell), page)
        finally:
            os._exit(1)
    writers.close()
    os.close(hear)
    signal.signal(signal.SIGHUP, lambda *_: None)  # until the supervisor looks
    return Auditor(ours, pid, bell, page, audit)


def complain(message: str) -> None:
    """Write a line to stderr, unless nobody reads it there."""
    try:
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"privsep: {message}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass
