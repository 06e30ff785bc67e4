"""The audit's writer: a process that owns the ledger.

Runs as a child of the daemon, forked before lockdown, with its starter's ids and no
capability.  It takes datagrams from supervisor and workers, and trusts of them
nothing but their sizes: what a worker says is recorded as that worker's words,
beside what the supervisor said of the worker.

It sleeps until it is woken, then works in turns: everything that is there, one write
to each sink, a few milliseconds of sleep in which nobody has to wake it.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import time
from typing import TYPE_CHECKING, NoReturn

from privsep._daemon.audit import messages
from privsep._daemon.audit.ledger import Ledger
from privsep._daemon.audit.messages import complain
from privsep._daemon.environment import replace_descriptors
from privsep._lockdown.ids import Ids
from privsep._lockdown.order import Kept, lock_down
from privsep._wire import descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from privsep._daemon.audit.ledger import Record
    from privsep.audit import Audit

_TURN = 0.005  # seconds between two looks while there is something to do
_LOOK = 1000  # milliseconds until a look at calls whose beginning woke nobody
_MOST_MESSAGES = 512  # of one sender in one turn
_MOST_QUEUED = 8192  # more than its socket holds
_AFTER_DEATH = 1.0  # seconds that workers may outlive their supervisor

_HOW = {messages.AT_DEADLINE: "timeout", messages.AS_ASKED: "cancelled"}
_OUTCOME = {
    messages.RETURNED: "returned",
    messages.RAISED: "raised",
    messages.NOT_RUN: "refused",
    messages.CLOSED: "closed",
}


def run(
    audit: Audit,
    context: str,
    sock: socket.socket,
    refusals: socket.socket,
    bell: int,
    asleep: memoryview,
) -> NoReturn:
    """Be the writer; never return."""
    try:
        replace_descriptors({sock.fileno(), refusals.fileno(), bell})
        for number in (signal.SIGTERM, signal.SIGXFSZ):  # it ends with its senders
            signal.signal(number, signal.SIG_IGN)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        lock_down(Kept(Ids(None, None, None), 0))
        # Opened without capabilities, as when it is opened anew: what cannot work
        # then is an error now.
        ledger = Ledger(audit, context)
    except Exception as error:  # noqa: BLE001 - whatever it is, the starter is told
        words = f"{error}".encode("utf-8", "backslashreplace")
        sock.send(words[: messages.LARGEST])
        os._exit(1)
    must = audit.on_failure == "error"
    writer = Writer(ledger, sock, refusals, bell, asleep, must=must)
    if not must:  # callers are not waiting: let them run first
        try:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        except PermissionError:
            pass  # who was started as SCHED_IDLE stays so, see sched(7)
    sock.send(messages.READY)
    try:
        writer.work()
    except BaseException as error:  # noqa: BLE001 - there is nobody above to see it
        complain(f"the audit's writer failed: {error!r}")
        os._exit(1)
    os._exit(0)


class Call:
    """A call that a worker has begun."""

    def __init__(self, begun: int, entrypoint: str, arguments: str) -> None:
        self.begun = begun
        self.entrypoint = entrypoint
        self.arguments = arguments
        #: the number of its "begin" record; 0: it was lost; None: not yet tried
        self.recorded: int | None = None
        self.overran = False


class Line:
    """A worker, as the supervisor introduced it, and the call that it runs."""

    def __init__(self, sock: socket.socket, pid: int, peer: Record) -> None:
        self.sock = sock
        self.pid = pid
        self.peer = peer
        self.call: Call | None = None
        self.at_end = False

    def messages(self, most: int) -> Iterator[bytes]:
        """Yield what the worker has sent, at most so many messages."""
        for _ in range(most):
            try:
                data = self.sock.recv(messages.LARGEST, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionResetError:  # it left an answer unread
                continue
            if not data:
                self.at_end = True
                return
            yield data

    def answer(self, call: Call, refusal: str) -> None:
        """Tell the worker, who waits for it, whether its call is recorded."""
        words = refusal.encode("utf-8", "backslashreplace")[: messages.TEXT_SIZE]
        try:
            answer = messages.ANSWER.pack(call.begun) + words
            self.sock.send(answer, socket.MSG_DONTWAIT)
        except OSError:  # it is gone, or does not read
            pass


class Writer:
    """Turns what it is told into records."""

    def __init__(
        self,
        ledger: Ledger,
        sock: socket.socket,
        refusals: socket.socket,
        bell: int,
        asleep: memoryview,
        *,
        must: bool,
    ) -> None:
        self._ledger = ledger
        self._sock = sock
        self._refusals = refusals
        self._bell = bell
        self._asleep = asleep
        self._must = must
        self._lines: dict[int, Line] = {}
        self._slots: dict[int, int] = {}  # of the sockets
        self._epoll = select.epoll()
        self._ended = ""  #: why nothing more will come
        # No pipe that workers have, too: who fills it would stop the handler.
        self._signals, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGHUP, lambda *_: ledger.reopen())

    def work(self) -> None:
        """Take and write until supervisor and workers are gone."""
        poll = select.poll()
        for watched in (self._bell, self._signals, self._sock, self._refusals):
            poll.register(watched, select.POLLIN)
        while not self._ended:
            if self._turn():
                if not self._must:
                    time.sleep(_TURN)
                continue
            # Whoever sends from now on rings; who did before is looked at.
            self._asleep[0] = 1
            if not self._turn():
                woken_by = poll.poll(_LOOK if self._lines else None)
                if woken_by == [(self._bell, select.POLLIN)] and not self._must:
                    time.sleep(_TURN)  # the worker's caller shall run first
            self._asleep[0] = 0
            for descriptor in (self._bell, self._signals):
                try:
                    os.read(descriptor, 4096)
                except BlockingIOError:
                    pass
        self._finish()

    def _turn(self) -> bool:
        """Take what is there and write it; return whether there was anything."""
        some = self._take_from_supervisor() | self._take_refusals()
        for descriptor, _ in self._epoll.poll(0):
            slot = self._slots.get(descriptor)
            if slot is not None:
                some = True
                self._take_from(self._lines[slot])
        self._write()
        return some

    def _write(self) -> None:
        """Write what is pending, and the calls that are still running."""
        begun = [
            (line, line.call)
            for line in self._lines.values()
            if line.call is not None and line.call.recorded is None
        ]
        records = [self._describe("begin", line, call) for line, call in begun]
        some, all_ = self._ledger.write(records)
        for index, (line, call) in enumerate(begun):
            number = records[index]["seq"]
            assert isinstance(number, int)  # noqa: S101 - the ledger set it
            call.recorded = number if index < some else 0
            if self._must:
                refusal = ""
                if index >= all_:
                    refusal = f"the audit cannot be written: {self._ledger.trouble}"
                    self._end_call(line, call, call.begun, "refused", {})
                line.answer(call, refusal)

    def _finish(self) -> None:
        """Write all that was sent, and the end."""
        while self._take_refusals():
            pass
        for slot, line in list(self._lines.items()):
            if line.at_end:
                self._drop(slot, "died")
        until = time.monotonic() + _AFTER_DEATH
        while self._ended == "died" and self._lines and time.monotonic() < until:
            for descriptor, _ in self._epoll.poll(0.1):
                slot = self._slots[descriptor]
                line = self._lines[slot]
                self._take_from(line)
                if line.at_end:
                    self._drop(slot, "died")
            self._write()
        # What is left are threads that overran.
        outcome = "abandoned" if self._ended == "ended" else "died"
        for slot in list(self._lines):
            self._drop(slot, outcome)
        self._ledger.close(self._ended)

    # -- what comes from the supervisor ----------------------------------------

    def _take_from_supervisor(self) -> bool:
        for taken in range(_MOST_MESSAGES):
            try:
                datagram = descriptors.receive(
                    self._sock, messages.LARGEST, 1, socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                return taken > 0
            except OSError:
                self._ended = "died"
                break
            sockets = [socket.socket(fileno=fd) for fd in datagram.descriptors]
            if not datagram.data:
                self._ended = "died"
            else:
                self._obey(datagram.data, sockets)
            if self._ended:
                break
        return True

    def _take_refusals(self) -> bool:
        for taken in range(_MOST_MESSAGES):
            try:
                data = self._refusals.recv(messages.LARGEST, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return taken > 0
            if not data:  # the supervisor has ended, which its own line tells, too
                return taken > 0
            peer = _peer(*messages.PEER.unpack_from(data))
            reason = _text(data[messages.PEER.size :], messages.TEXT_SIZE)
            self._ledger.add(self._ledger.record("refused", peer=peer, reason=reason))
        return True

    def _obey(self, data: bytes, sockets: list[socket.socket]) -> None:
        kind, slot = messages.FROM_SUPERVISOR.unpack_from(data)
        rest = data[messages.FROM_SUPERVISOR.size :]
        if kind == messages.STARTED:
            pid, *client = messages.WORKER.unpack(rest)
            self._drop(slot, "died")  # its end was not told
            if sockets:  # else no descriptor was free, and the worker counts
                self._add(slot, Line(sockets[0], pid, _peer(*client)))
        elif kind == messages.ENDED:
            how, status, lost = messages.FATE.unpack(rest)
            outcome = _HOW.get(how, "died")
            if lost and not status:  # it may be what was lost that the call ended
                outcome = "unknown"
            self._drop(slot, outcome, status)
            self._ledger.lose(lost, "a worker could not send")
        elif kind == messages.OVERRAN:
            call = self._lines[slot].call if slot in self._lines else None
            if call is not None:
                call.overran = True
        elif kind == messages.REOPEN:
            self._ledger.reopen()
        elif kind == messages.CLOSE:
            (lost,) = messages.COUNT.unpack(rest)
            self._ledger.lose(lost, "a worker could not send")
            self._ended = "ended"

    def _add(self, slot: int, line: Line) -> None:
        self._ledger.tell_missing()
        self._lines[slot] = line
        self._slots[line.sock.fileno()] = slot
        self._epoll.register(line.sock.fileno(), select.EPOLLIN)

    def _drop(self, slot: int, outcome: str, status: int | None = None) -> None:
        """Take what a worker that has ended had sent; its call ended so, too."""
        line = self._lines.pop(slot, None)
        if line is None:
            return
        self._take_messages(line, _MOST_QUEUED)
        self._forget(line)
        more = _ending(status)
        if line.call is not None:
            self._end_call(line, line.call, time.time_ns(), outcome, more)
        elif status:  # it died while it read a call
            record = self._ledger.record(
                "worker", outcome=outcome, peer=line.peer, worker=line.pid
            )
            self._ledger.add(record | more)
        line.sock.close()

    def _forget(self, line: Line) -> None:
        if self._slots.pop(line.sock.fileno(), None) is not None:
            self._epoll.unregister(line.sock.fileno())

    # -- what comes from workers -----------------------------------------------

    def _take_from(self, line: Line) -> None:
        self._take_messages(line, _MOST_MESSAGES)
        if line.at_end:  # the supervisor will say how it ended
            self._forget(line)

    def _take_messages(self, line: Line, most: int) -> None:
        for data in line.messages(most):
            if len(data) < messages.FROM_WORKER.size:
                continue
            kind, nanoseconds, number = messages.FROM_WORKER.unpack_from(data)
            rest = data[messages.FROM_WORKER.size :]
            if kind in (messages.END, messages.END_OF_STREAM):
                more: Record = {}
                if kind == messages.END_OF_STREAM and len(rest) >= messages.COUNT.size:
                    more["items"] = messages.COUNT.unpack_from(rest)[0]
                    rest = rest[messages.COUNT.size :]
                if rest:
                    more["error"] = _text(rest, messages.NAME_SIZE)
                outcome = _OUTCOME.get(number, "unknown")
                self._end(line, nanoseconds, outcome, more)
            elif kind == messages.BEGIN:
                if line.call is not None:
                    self._end_call(line, line.call, nanoseconds, "unknown", {})
                line.call = Call(
                    nanoseconds,
                    _text(rest[:number], messages.NAME_SIZE),
                    _text(rest[number:], messages.TEXT_SIZE),
                )
            elif kind == messages.REFUSED:
                record = self._ledger.record(
                    "refused",
                    nanoseconds,
                    entrypoint=_text(rest[:number], messages.NAME_SIZE),
                    peer=line.peer,
                    reason=_text(rest[number:], messages.TEXT_SIZE),
                    worker=line.pid,
                )
                self._ledger.add(record)

    def _end(self, line: Line, duration: int, outcome: str, more: Record) -> None:
        call = line.call
        if call is None:
            return
        self._end_call(line, call, call.begun + duration, outcome, more)

    def _end_call(
        self, line: Line, call: Call, ended: int, outcome: str, more: Record
    ) -> None:
        line.call = None
        record = self._describe("call", line, call)
        record["duration"] = max(0, ended - call.begun) // 1000
        record["outcome"] = outcome
        if call.recorded:
            record["begun"] = call.recorded
        if call.overran:
            record["overran"] = True
        self._ledger.add(record | more)

    def _describe(self, event: str, line: Line, call: Call) -> Record:
        return self._ledger.record(
            event,
            call.begun,
            arguments=call.arguments,
            entrypoint=call.entrypoint,
            peer=line.peer,
            worker=line.pid,
        )


def _peer(pid: int, uid: int, gid: int) -> Record:
    return {"gid": gid, "pid": pid, "uid": uid}


def _text(data: bytes, most: int) -> str:
    return data[:most].decode("utf-8", "backslashreplace")


def _ending(status: int | None) -> Record:
    """Return what a wait status says."""
    if status is None:
        return {}
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return {"status": code}
    return {"signal": -code}
