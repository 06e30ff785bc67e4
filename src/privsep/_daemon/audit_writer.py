"""The audit's writer: a process that owns sinks, numbers and chain.

Runs as a child of the daemon, forked before lockdown, with its starter's ids and no
capability.  It takes datagrams from supervisor and workers, and trusts of them
nothing but their sizes: what a worker says is recorded as that worker's words,
beside what the supervisor said of the worker.

It sleeps until it is woken, then works in turns: everything that is there, one write
to each sink, a few milliseconds of sleep in which nobody has to wake it.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import socket
import stat
import time
from typing import TYPE_CHECKING, NoReturn, cast

from privsep._daemon import audit_sender as wire
from privsep._daemon.audit_sender import complain
from privsep._lockdown.descriptors import replace_all_except
from privsep._lockdown.ids import Ids
from privsep._lockdown.order import Kept, lock_down
from privsep._wire import descriptors
from privsep.audit import (
    HEAD_SUFFIX,
    NO_HEAD,
    SYSLOG,
    Chain,
    format_head,
    parse_head,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from privsep._daemon.audit_sender import Page
    from privsep.audit import Audit

    Record = dict[str, object]

_TURN = 0.005  # seconds between two looks while there is something to do
_LOOK = 1000  # milliseconds until a look at calls whose beginning woke nobody
_MOST_MESSAGES = 512  # of one worker in one turn
_MOST_QUEUED = 8192  # more than its socket holds
_LAST_LINES = 64 * 1024
_LOCK_WITHIN = 3.0
_SEND_TIMEOUT = 1.0
_AFTER_DEATH = 1.0  # seconds that workers may outlive their supervisor

_AUTHPRIV_INFO, _AUTHPRIV_NOTICE = "<86>", "<85>"
_HOW = {wire.AT_DEADLINE: "timeout", wire.AS_ASKED: "cancelled"}
_OUTCOME = {wire.RETURNED: "returned", wire.RAISED: "raised"}


def run(
    audit: Audit, context: str, sock: socket.socket, bell: tuple[int, int], page: Page
) -> NoReturn:
    """Be the writer; never return."""
    hear, ring = bell
    try:
        replace_all_except({sock.fileno(), hear, ring})
        for number in (signal.SIGTERM, signal.SIGXFSZ):  # it ends with its senders
            signal.signal(number, signal.SIG_IGN)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        chain = Chain()  # loads what it needs while that can be read
        lock_down(Kept(Ids(None, None, None), 0))
        # Opened without capabilities, as when it is opened anew: what cannot work
        # then is an error now.
        writer = Writer(audit, context, sock, hear, page, chain)
    except Exception as error:  # noqa: BLE001 - whatever it is, the starter is told
        sock.send(f"{error}".encode("utf-8", "backslashreplace")[: wire.LARGEST])
        os._exit(1)
    signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
    signal.signal(signal.SIGHUP, lambda *_: writer.reopen())
    if audit.on_failure == "report":  # callers are not waiting: let them run first
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    sock.send(wire.ACK)
    try:
        writer.work()
    except BaseException as error:  # noqa: BLE001 - there is nobody above to see it
        complain(f"the audit's writer failed: {error!r}")
        os._exit(1)
    os._exit(0)


# -- sinks ---------------------------------------------------------------------


class Sink:
    """Takes lines, as many as it can; `trouble` says why not more."""

    trouble = ""

    def take(self, lines: list[bytes]) -> int:
        """Take lines until one cannot be taken; return how many were."""
        taken = 0
        self.trouble = ""
        try:
            for line in lines:
                self.take_one(line)
                taken += 1
        except OSError as error:
            self.trouble = f"{error}"
        return taken

    def take_one(self, line: bytes) -> None:
        """Take one line.

        Raises:
            OSError: it was not taken.

        """
        raise NotImplementedError

    def take_head(self, text: str) -> None:
        """Take the chain's head; raises as `take_one`."""
        raise NotImplementedError


class File(Sink):
    """The JSON-lines file, and the head file beside it.

    One daemon at a time has it, by flock(2) on the file, which its lines belong to.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = self._open(_LOCK_WITHIN)
        self._head = _open(path + HEAD_SUFFIX)
        self._size = os.fstat(self._descriptor).st_size
        self.is_new = ""  #: why what is written next begins a part of the file
        self._reopen = False
        self._said = ""

    def restore(self) -> tuple[int, str, int]:
        """Return number and hash of the last record, and how many are missing.

        That is the file's last record, or what the head file knows beyond it: the
        file may have been rotated, or cut.
        """
        head = parse_head(os.pread(self._head, 1024, 0)) or (0, NO_HEAD)
        last = self._last_record()
        if last is None:
            return head[0], head[1], 0
        if last[0] < head[0]:
            return head[0], head[1], head[0] - last[0]
        return last[0], last[1], 0

    def _last_record(self) -> tuple[int, str] | None:
        import json  # noqa: PLC0415 - here, where the chain has loaded it

        begin = max(0, self._size - _LAST_LINES)
        data = os.pread(self._descriptor, _LAST_LINES, begin)
        if data and not data.endswith(b"\n"):  # as a crash leaves it; it stays
            os.write(self._descriptor, b"\n")
            self._size += 1
        for line in reversed(data.split(b"\n")):
            try:
                record = json.loads(line)
                return int(record["seq"]), str(record["hash"])
            except (ValueError, TypeError, KeyError):
                continue
        return None

    def reopen(self) -> None:
        """Open the path anew before the next line."""
        self._reopen = True

    def prepare(self) -> None:
        """Look whether the file is still the one that was written last."""
        try:
            self._prepare()
        except OSError as error:
            self.trouble = f"{error}"
            if self.trouble != self._said:
                complain(f"the audit's file cannot be opened anew: {error}")
        self._said = self.trouble

    def _prepare(self) -> None:
        if self._descriptor >= 0:
            status = os.fstat(self._descriptor)
            if not status.st_nlink:
                self._replace("deleted")
            elif self._reopen:
                self._replace("reopened")
            elif status.st_size != self._size:
                self._size = status.st_size
                self.is_new = "changed by another"
        else:
            self._replace("reopened")
        self._reopen = False

    def _replace(self, why: str) -> None:
        """Open the path; if that fails, what was open stays until it is deleted."""
        if why == "deleted":
            self._close()
        descriptor = _open(self._path)
        if self._descriptor >= 0 and os.path.sameopenfile(descriptor, self._descriptor):
            os.close(descriptor)
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            head = _open(self._path + HEAD_SUFFIX)
        except OSError:
            os.close(descriptor)
            raise
        self._close()
        self._descriptor, self._head = descriptor, head
        self._size = os.fstat(descriptor).st_size
        self.is_new = why

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            os.close(self._head)
            self._descriptor = -1

    def take(self, lines: list[bytes]) -> int:
        """Write the lines at once; of what the file has no room for, no part."""
        if self._descriptor < 0:
            return 0
        data = b"".join(lines)
        try:
            written = os.write(self._descriptor, data)
        except OSError as error:
            self.trouble = f"{error}"
            return 0
        if written == len(data):
            self._size += written
            self.trouble = ""
            return len(lines)
        self.trouble = "there is no room for all of it"
        whole = data.rfind(b"\n", 0, written) + 1
        self._size += whole
        os.ftruncate(self._descriptor, self._size)
        return data.count(b"\n", 0, whole)

    def keep_head(self, number: int, head: str) -> None:
        """Write the head file, after the records."""
        if self._descriptor >= 0:
            try:
                os.pwrite(self._head, format_head(number, head), 0)
            except OSError as error:
                self.trouble = f"{error}"

    def _open(self, within: float) -> int:
        """Open and lock the file; a daemon that is just ending may have it still."""
        descriptor = _open(self._path)
        until = time.monotonic() + within
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < until:
                    time.sleep(0.01)
                    continue
                msg = f"{self._path} is written by another daemon: give each its own"
                raise OSError(msg) from None
            return descriptor


def _open(path: str) -> int:
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    if path.endswith(HEAD_SUFFIX):
        flags &= ~os.O_APPEND  # it is overwritten
    descriptor = os.open(path, flags, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        msg = f"{path} is no regular file"
        raise OSError(msg)
    return descriptor


class LogSocket(Sink):
    """A datagram socket of the system's; connected anew when it fails."""

    def __init__(self, path: str, context: str) -> None:
        self._path = path
        self._context = context
        self._sock: socket.socket | None = None

    def _send(self, data: bytes) -> None:
        """Send one datagram; what listens may have been started anew."""
        if self._sock is not None:
            try:
                self._sock.send(data)
            except OSError:
                self._sock.close()
                self._sock = None
            else:
                return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            sock.settimeout(_SEND_TIMEOUT)
            sock.connect(self._path)
            sock.send(data)
        except OSError as error:
            sock.close()
            msg = f"{self._path}: {error}"
            raise OSError(msg) from error
        self._sock = sock


class Syslog(LogSocket):
    """syslog(3)'s socket, facility authpriv."""

    def take_one(self, line: bytes) -> None:
        """Send the record's line."""
        self._send(self._prefix(_AUTHPRIV_INFO) + line.rstrip())

    def take_head(self, text: str) -> None:
        """Send the head."""
        self._send(self._prefix(_AUTHPRIV_NOTICE) + text.encode())

    @staticmethod
    def _prefix(priority: str) -> bytes:
        now = time.strftime("%b %e %H:%M:%S")
        return f"{priority}{now} privsep[{os.getpid()}]: ".encode()


class Journal(LogSocket):
    """journald's native protocol; the lines have no newline within."""

    def take_one(self, line: bytes) -> None:
        """Send the record as the message."""
        self._send_entry(6, line.rstrip())

    def take_head(self, text: str) -> None:
        """Send the head."""
        self._send_entry(5, text.encode())

    def _send_entry(self, priority: int, message: bytes) -> None:
        context = self._context.replace("\n", " ").encode("utf-8", "backslashreplace")
        fields = (
            b"MESSAGE=" + message,
            b"PRIORITY=%d" % priority,
            b"SYSLOG_FACILITY=10",
            b"SYSLOG_IDENTIFIER=privsep",
            b"PRIVSEP_CONTEXT=" + context,
        )
        self._send(b"\n".join(fields) + b"\n")


# -- the writer ----------------------------------------------------------------


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
                data = self.sock.recv(wire.LARGEST, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.at_end = True
                return
            yield data


class Writer:
    """Owns sinks, numbers and chain."""

    def __init__(
        self,
        audit: Audit,
        context: str,
        sock: socket.socket,
        hear: int,
        page: Page,
        chain: Chain,
    ) -> None:
        self._context = context
        self._supervisor = os.getppid()
        self._sock = sock
        self._hear = hear
        self._page = page
        self._must = audit.on_failure == "error"
        self._head_every = audit.head_every
        self._pending: list[Record] = []
        self._lines: dict[int, Line] = {}
        self._slots: dict[int, int] = {}  # of the sockets
        self._epoll = select.epoll()
        self._ended = ""  #: why nothing more will come
        self._lost = 0
        self._trouble = ""
        self._file = File(audit.file) if audit.file is not None else None
        logs: list[Sink] = []
        if audit.syslog is not None:
            logs.append(Syslog(audit.syslog, context))
        if audit.journald is not None:
            logs.append(Journal(audit.journald, context))
        # The head goes elsewhere than the file, whoever else is there.
        self._witnesses = logs or [Syslog(SYSLOG, context)]
        self._sinks = [*([self._file] if self._file else []), *logs]
        self._chain = chain
        self._missing = 0  #: that the file lacks since it was written last
        if self._file is not None:
            chain.number, chain.head, self._missing = self._file.restore()
            self._file.is_new = "start"
        else:
            self._pending.append(self._opening("start"))
        self._head_told = chain.number
        self._flush()
        self._trouble = ""  # what is said before the daemon is ready, nobody hears

    def reopen(self) -> None:
        """Open the file anew before the next record."""
        if self._file is not None:
            self._file.reopen()

    def work(self) -> None:
        """Take and write until supervisor and workers are gone."""
        poll = select.poll()
        poll.register(self._hear, select.POLLIN)
        poll.register(self._sock, select.POLLIN)
        while not self._ended:
            if self._turn():
                if not self._must:
                    time.sleep(_TURN)
                continue
            # Whoever sends from now on rings; who did before is looked at.
            self._page.asleep[0] = 1
            if not self._turn():
                woken_by = poll.poll(_LOOK if self._lines else None)
                if woken_by == [(self._hear, select.POLLIN)] and not self._must:
                    time.sleep(_TURN)  # the worker's caller shall run first
            self._page.asleep[0] = 0
            try:
                os.read(self._hear, 4096)
            except BlockingIOError:
                pass
        self._finish()

    def _turn(self) -> bool:
        """Take what is there and write it; return whether there was anything."""
        some = self._take_from_supervisor()
        for descriptor, _ in self._epoll.poll(0):
            slot = self._slots.get(descriptor)
            if slot is not None:
                some = True
                self._take_from(self._lines[slot])
        self._flush()
        return some

    def _finish(self) -> None:
        """Write all that was sent, and the end."""
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
            self._flush()
        # What is left are threads that overran.
        outcome = "abandoned" if self._ended == "ended" else "died"
        for slot in list(self._lines):
            self._drop(slot, outcome)
        self._flush()
        self._tell_lost()
        self._pending.append(self._record("close", outcome=self._ended))
        self._flush()
        if self._lost:
            complain(f"the audit lacks {self._lost} records: {self._trouble}")
        if self._head_every:
            self._tell_head()

    # -- what comes from the supervisor ----------------------------------------

    def _take_from_supervisor(self) -> bool:
        some = False
        while not self._ended:
            try:
                datagram = descriptors.receive(
                    self._sock, wire.LARGEST, 1, socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                return some
            except OSError:
                self._ended = "died"
                return True
            some = True
            sockets = [socket.socket(fileno=fd) for fd in datagram.descriptors]
            if not datagram.data:
                self._ended = "died"
            else:
                self._obey(datagram.data, sockets)
        return some

    def _obey(self, data: bytes, sockets: list[socket.socket]) -> None:
        kind, slot = wire.FROM_SUPERVISOR.unpack_from(data)
        rest = data[wire.FROM_SUPERVISOR.size :]
        if kind == wire.STARTED:
            pid, *client = wire.WORKER.unpack(rest)
            self._drop(slot, "died")  # its end was not told
            self._add(slot, Line(sockets[0], pid, _peer(*client)))
        elif kind == wire.ENDED:
            how, status, lost = wire.FATE.unpack(rest)
            outcome = _HOW.get(how, "died")
            self._drop(slot, outcome, status)
            self._lost += lost
            if lost:
                self._trouble = "a worker could not send"
        elif kind == wire.OVERRAN:
            call = self._lines[slot].call if slot in self._lines else None
            if call is not None:
                call.overran = True
        elif kind == wire.TURNED_AWAY:
            client = list(wire.PEER.unpack_from(rest))
            reason = _text(rest[wire.PEER.size :], wire.TEXT_SIZE)
            record = self._record("refused", peer=_peer(*client), reason=reason)
            self._pending.append(record)
        elif kind == wire.REOPEN:
            self.reopen()
        elif kind == wire.CLOSE:
            self._ended = "ended"

    def _add(self, slot: int, line: Line) -> None:
        if self._missing:
            complain(f"the audit's file lacks its last {self._missing} records")
            self._missing = 0
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
            record = self._record(
                "worker", outcome=outcome, peer=line.peer, worker=line.pid
            )
            self._pending.append(record | more)
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
            if len(data) < wire.FROM_WORKER.size:
                continue
            kind, nanoseconds, number = wire.FROM_WORKER.unpack_from(data)
            rest = data[wire.FROM_WORKER.size :]
            if kind == wire.END:
                self._end(line, nanoseconds, _OUTCOME.get(number, "unknown"), rest)
            elif kind == wire.BEGIN:
                if line.call is not None:
                    self._end_call(line, line.call, nanoseconds, "unknown", {})
                line.call = Call(
                    nanoseconds,
                    _text(rest[:number], wire.NAME_SIZE),
                    _text(rest[number:], wire.TEXT_SIZE),
                )
            elif kind == wire.REFUSED:
                self._pending.append(
                    self._record(
                        "refused",
                        nanoseconds,
                        entrypoint=_text(rest[:number], wire.NAME_SIZE),
                        peer=line.peer,
                        reason=_text(rest[number:], wire.TEXT_SIZE),
                        worker=line.pid,
                    )
                )

    def _end(self, line: Line, duration: int, outcome: str, error: bytes) -> None:
        call = line.call
        if call is None:
            return
        more: Record = {"error": _text(error, wire.NAME_SIZE)} if error else {}
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
        self._pending.append(record | more)

    # -- records ---------------------------------------------------------------

    def _record(self, event: str, at: int | None = None, **more: object) -> Record:
        when = time.time_ns() if at is None else at
        more.update(context=self._context, event=event, time=_time(when))
        return more

    def _describe(self, event: str, line: Line, call: Call) -> Record:
        return self._record(
            event,
            call.begun,
            arguments=call.arguments,
            entrypoint=call.entrypoint,
            peer=line.peer,
            worker=line.pid,
        )

    def _opening(self, why: str) -> Record:
        ids = {"daemon": self._supervisor, "writer": os.getpid()}
        return self._record("open", prev=self._chain.head, reason=why, **ids)

    # -- writing ---------------------------------------------------------------

    def _flush(self) -> None:
        """Give all sinks what is pending, and the calls that are still running."""
        records, self._pending = self._pending, []
        begun = [
            line
            for line in self._lines.values()
            if line.call is not None and line.call.recorded is None
        ]
        for line in begun:
            assert line.call is not None  # noqa: S101 - chosen so above
            records.append(self._describe("begin", line, line.call))
        if self._file is not None:
            self._file.prepare()
            if self._file.is_new:
                records.insert(0, self._opening(self._file.is_new))
        if records:
            self._write(records, begun)

    def _write(self, records: list[Record], begun: list[Line]) -> None:
        chain = self._chain
        heads = [(chain.number, chain.head)]
        lines: list[bytes] = []
        for record in records:
            lines.append(chain.seal(record))
            heads.append((chain.number, chain.head))
        taken = [sink.take(lines) for sink in self._sinks]
        most, least = max(taken), min(taken)
        # What no sink has is no record: its number is the next one's.
        chain.number, chain.head = heads[most]
        if self._file is not None and taken[0]:
            self._file.is_new = ""
            self._file.keep_head(*heads[taken[0]])
        self._count(records[least:])
        self._answer(begun, records, most, least)
        every = self._head_every
        if every and chain.number // every > self._head_told // every:
            self._tell_head()

    def _count(self, missed: list[Record]) -> None:
        """Count records that not all sinks have; say so once, and when it is over."""
        if missed:
            trouble = "; ".join(sink.trouble for sink in self._sinks if sink.trouble)
            if trouble != self._trouble:
                self._trouble = trouble
                complain(f"the audit cannot be written: {trouble}")
            for record in missed:
                if record["event"] == "lost":  # it stands for those that it counts
                    self._lost += cast("int", record["count"])
                elif record["event"] not in ("open", "begin"):
                    # "open" is made again; what begins has one at its end
                    self._lost += 1
        elif self._lost:
            complain(f"the audit is written again, without {self._lost} records")
            self._tell_lost()
            self._trouble = ""

    def _tell_lost(self) -> None:
        """Have a record say how many are missing, if any are."""
        if self._lost:
            lost = self._record("lost", count=self._lost, reason=self._trouble)
            self._pending.append(lost)
            self._lost = 0

    def _answer(
        self, begun: list[Line], records: list[Record], most: int, least: int
    ) -> None:
        """Tell workers whether the beginnings, the last records, are recorded."""
        first = len(records) - len(begun)
        for index, line in enumerate(begun, start=first):
            assert line.call is not None  # noqa: S101 - chosen so in _flush
            number = cast("int", records[index]["seq"])
            line.call.recorded = number if index < most else 0
            if not self._must:
                continue
            answer = wire.ACK
            if index >= least:
                why = f"the audit cannot be written: {self._trouble}"
                answer = why.encode("utf-8", "backslashreplace")[: wire.TEXT_SIZE]
                self._end_call(line, line.call, line.call.begun, "refused", {})
            try:
                line.sock.send(answer, socket.MSG_DONTWAIT)
            except OSError:  # it is gone, or does not read
                pass

    def _tell_head(self) -> None:
        chain = self._chain
        self._head_told = chain.number
        text = f"audit head: context={self._context} seq={chain.number} {chain.head}"
        for witness in self._witnesses:
            try:
                witness.take_head(text)
            except OSError:  # who has no syslog has no witness there
                pass


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


def _time(nanoseconds: int) -> str:
    """Return a point in time as RFC 3339 has it, in UTC, with microseconds."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{when}.{rest // 1000:06d}Z"
