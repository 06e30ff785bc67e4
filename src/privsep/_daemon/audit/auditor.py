"""The supervisor's side of the audit: starts its writer, and tells it who works.

Each worker has a socket of its own to the writer, which the supervisor hands over
together with whom the worker serves: so a worker speaks for itself alone, cannot
take back what it has sent, and cannot say for whom it ran.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import socket
import struct
from time import monotonic
from typing import TYPE_CHECKING

from privsep._daemon.audit.messages import (
    AS_ASKED,
    AT_DEADLINE,
    BY_ITSELF,
    CLOSE,
    COUNT,
    ENDED,
    FATE,
    FROM_SUPERVISOR,
    LARGEST,
    OVERRAN,
    PEER,
    READY,
    REOPEN,
    STARTED,
    TEXT_SIZE,
    WORKER,
    complain,
)
from privsep._daemon.audit.recorder import Recorder
from privsep._daemon.audit.summary import secret_places
from privsep._wire import descriptors
from privsep.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from privsep._daemon.workers import Worker
    from privsep._wire.descriptors import Credentials
    from privsep.audit import Audit
    from privsep.context import Entry

_TAKE_WITHIN = struct.pack("@ll", 1, 0)  # a second, as a timeval
_ANSWER_WITHIN = struct.pack("@ll", 5, 0)
_END_WITHIN = 5.0  # seconds, in which the writer has written all
_QUEUE = 1024 * 1024


class Auditor:
    """The supervisor's lines to the writer, which is its child.

    Args:
        sock: for what is said of workers.
        refusals: for what clients can cause at will, so that it crowds out nothing.
        pid: the writer's.
        bell: a pipe that wakes it.
        asleep: whether it must be woken.
        audit: what the context declares.
        secrets: of which entrypoints which arguments are secrets, by their places.

    """

    def __init__(
        self,
        sock: socket.socket,
        refusals: socket.socket,
        pid: int,
        bell: int,
        asleep: memoryview,
        audit: Audit,
        *,
        secrets: Mapping[bytes, frozenset[int]],
    ) -> None:
        self.sock = sock
        self._refusals = refusals
        self._pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._bell = bell
        self._asleep = asleep
        self._secrets = secrets
        self._must = audit.on_failure == "error"
        self._lost = 0  #: records, that the writer was not told of yet
        self._lost_by: dict[int, mmap.mmap] = {}  #: by the worker of a slot
        # Of the line that is being made:
        self._writers: socket.socket | None = None
        self._slot = -1

    def wait_until_ready(self) -> None:
        """Return when the writer has its sinks and has dropped its privileges.

        Raises:
            StartError: in the writer's own words.

        """
        answer = self.sock.recv(LARGEST)
        if answer != READY:
            words = answer.decode("utf-8", "replace") or "its writer ended"
            msg = f"the audit could not be started: {words}"
            raise StartError(msg)

    def recorder(self, slot: int) -> Recorder:
        """Return a worker's end of a new line; `started` or `dismiss` is to follow."""
        writers, workers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        workers.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _QUEUE)
        workers.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TAKE_WITHIN)
        workers.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _ANSWER_WITHIN)
        lost = self._lost_by[slot] = mmap.mmap(-1, COUNT.size)
        self._writers = writers
        self._slot = slot
        return Recorder(
            workers, self._bell, self._asleep, lost, self._secrets, wait=self._must
        )

    def dismiss(self, recorder: Recorder) -> None:
        """Close a line for which no worker could be started."""
        recorder.close()
        self._close_writers_end()
        self._lost_by.pop(self._slot).close()

    def started(self, worker: Worker, recorder: Recorder) -> None:
        """Hand the writer its end of a worker's line, and say for whom it works.

        A worker of whom the writer could not be told counts all that it cannot send.
        """
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
        with self._lost_by.pop(worker.slot_number) as lost:
            self._lost += COUNT.unpack_from(lost)[0]
        message = FROM_SUPERVISOR.pack(ENDED, worker.slot_number)
        if self._send(message + FATE.pack(how, status, self._lost)):
            self._lost = 0

    def overran(self, worker: Worker) -> None:
        """Tell that a thread's deadline has passed."""
        self._send(FROM_SUPERVISOR.pack(OVERRAN, worker.slot_number))

    def turned_away(self, sender: Credentials | None, reason: str) -> None:
        """Record that the supervisor itself refused a client."""
        peer = (0, 0, 0) if sender is None else sender
        message = PEER.pack(*peer)
        message += reason.encode("utf-8", "backslashreplace")[:TEXT_SIZE]
        try:
            self._refusals.send(message, socket.MSG_DONTWAIT)
        except OSError:
            self._lost += 1

    def reopen(self) -> None:
        """Have the writer open its file anew."""
        self._send(FROM_SUPERVISOR.pack(REOPEN, 0))

    def is_gone(self) -> bool:
        """Look whether the writer, which has something to say, has ended; report it."""
        try:
            gone = not self.sock.recv(LARGEST, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            gone = True
        if gone:
            what = "are refused" if self._must else "are not recorded"
            complain(
                f"the audit's writer {self._pid} has ended: from now on calls {what}"
            )
        return gone

    def close(self) -> None:
        """Have the writer write all that there is, and wait until it has ended."""
        for lost in self._lost_by.values():  # of threads that run on
            self._lost += COUNT.unpack_from(lost)[0]
        until = monotonic() + _END_WITHIN
        self.sock.settimeout(_END_WITHIN)
        message = FROM_SUPERVISOR.pack(CLOSE, 0) + COUNT.pack(self._lost)
        if self._send(message, flags=0):
            self._lost = 0
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        poll.poll(max(0.0, until - monotonic()) * 1000)
        try:
            os.waitpid(self._pid, os.WNOHANG)
        except ChildProcessError:  # as init, the supervisor has reaped it
            pass
        if self._lost:
            complain(f"the audit lacks {self._lost} records that could not be sent")

    def close_in_worker(self) -> None:
        """Close, in a worker, what is the supervisor's, the writer's and others'.

        With the writer's end a worker could take back what it has sent.
        """
        self.sock.close()
        self._refusals.close()
        os.close(self._pidfd)
        self._close_writers_end()
        for slot, lost in self._lost_by.items():
            if slot != self._slot:
                lost.close()

    def _close_writers_end(self) -> None:
        if self._writers is not None:
            self._writers.close()
            self._writers = None

    def _send(
        self,
        message: bytes,
        rights: Sequence[int] = (),
        flags: int = socket.MSG_DONTWAIT,
    ) -> bool:
        """Send, without waiting, as a deadline may be due; return whether it went."""
        try:
            descriptors.send(self.sock, message, list(rights), flags)
        except OSError:
            return False
        return True


def start(audit: Audit, context_name: str, table: Mapping[bytes, Entry]) -> Auditor:
    """Fork the writer, which has all privileges still; `wait_until_ready` for it."""
    places = ((name, secret_places(entry.function)) for name, entry in table.items())
    secrets = {name: secret for name, secret in places if secret}
    ours, writers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    refusals, refused = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asleep = memoryview(mmap.mmap(-1, 1))
    hear, bell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            refusals.close()
            os.close(bell)
            # Only now, so that neither supervisor nor workers load what it needs.
            from privsep._daemon.audit import writer  # noqa: PLC0415

            writer.run(audit, context_name, writers, refused, hear, asleep)
        finally:
            os._exit(1)
    writers.close()
    refused.close()
    os.close(hear)
    signal.signal(signal.SIGHUP, lambda *_: None)  # until the supervisor looks
    return Auditor(ours, refusals, pid, bell, asleep, audit, secrets=secrets)
