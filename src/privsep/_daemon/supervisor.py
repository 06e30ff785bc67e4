"""The supervisor: starts, reaps and kills workers; nothing else.

Runs in the daemon's main thread (in its only one, with process workers).  One
epoll loop over: the listening socket if there is one, control sockets, fate lines,
the pidfds and output of workers, and the pipe of notices.  From a client it reads
datagrams of fixed size with descriptors, and single bytes on fate lines; it never
blocks on a client, and it parses nothing else that a client sends.
"""

from __future__ import annotations

import errno
import math
import os
import resource
import select
from time import monotonic

from privsep._daemon import requests, slots
from privsep._daemon.output import LogLine, OutputPipe
from privsep._daemon.workers import (
    Job,
    ProcessWorker,
    ThreadWorker,
    Worker,
)
from privsep._wire import descriptors
from privsep._wire.control import (
    CHANNEL_DESCRIPTORS,
    DATAGRAM_SIZE,
    HELLO,
    KILL,
    LEAVE,
    Ending,
    Fate,
)
from privsep._wire.descriptors import peer_credentials

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    import signal
    import socket
    from collections.abc import Callable

    from privsep._daemon.audit.auditor import Auditor
    from privsep._daemon.idle import Idleness
    from privsep._daemon.listener import Listener
    from privsep._daemon.serve import Service
    from privsep._daemon.slots import Slot
    from privsep._wire.descriptors import Credentials, Datagram
else:
    import _signal as signal
    import _socket as socket  # without enum and selectors: 4 ms

_MOST_WAITING = 256
_MOST_LOG_LINES = 256
_MOST_CONNECTIONS = 1024
_LISTEN_AGAIN = 1.0  # seconds
_CLOSE_WITHIN = 0.05  # seconds
_READ_WITHIN = 0.2  # seconds without progress after which a reader may retire
_LAST_WORDS = 3.0  # seconds, together, for clients that are there and read slowly
_PEEK = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)
_CLEAN_UP = 5.0  # seconds, for a worker whose client has left it
_LONGEST_POLL = 3600.0  # seconds: epoll takes neither infinity nor a month


class Client:
    """One control socket, which forked children of a client may share."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.uid = peer_credentials(sock).uid  #: of who made or connected it
        self.log_lines: dict[int, LogLine] = {}


class Supervisor:
    """Serves the clients that it was given until the last has gone.

    With a `listener` it serves whoever may connect, until SIGTERM.
    """

    def __init__(
        self,
        service: Service,
        *,
        isolation: str,
        workers: int,
        limit: Callable[[], None],
        audit: Auditor | None = None,
        listener: Listener | None = None,
        idle_timeout: float = math.inf,
    ) -> None:
        self.pid = os.getpid()
        self._service = service
        self._isolation = isolation
        self._limit = limit  #: sets the resource limits of a worker
        self.slots = slots.Slots(workers)
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._clients: list[Client] = []
        self._waiting: list[Job] = []
        self._workers: dict[int, Worker] = {}
        self._outputs: list[OutputPipe] = []
        self._log_lines: list[LogLine] = []
        self._look_again: float | None = None
        self._idleness: Idleness | None = None
        if idle_timeout != math.inf:
            from privsep._daemon.idle import Idleness  # noqa: PLC0415 - only rootwrap's

            self._idleness = Idleness(self.slots, idle_timeout)
        self._spare: ProcessWorker | None = None  #: that waits for a job
        self._left = False  #: in a child that a thread forked, and in its children
        self._watch(self.slots.reader, self._read_notices)
        self._catch_signals()
        self._audit = audit
        if audit is not None:
            self._watch(audit.sock.fileno(), lambda: self._look_at_audit(audit))
        self._descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
        _allow_descriptors(self._descriptors)
        self._listener = listener
        self._shared = listener is not None
        self._listens = False  #: it is watched
        self._listen_at: float | None = None  #: again, although nothing is let go
        if listener is not None:
            for number in (signal.SIGHUP, signal.SIGALRM):
                signal.signal(number, lambda *_: None)
            self._listen()
        if isolation == "thread":
            if listener is None:  # else there is no client whose output it would be
                self._capture_own_output()
            # A child that an entrypoint forks must not hide the daemon's death.
            os.register_at_fork(after_in_child=self._leave_in_forked_child)

    def add_client(self, sock: socket.socket) -> None:
        """Serve the client at the other end of the control socket `sock`."""
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        sock.settimeout(None)  # not socket.setdefaulttimeout()'s
        client = Client(sock)
        self._clients.append(client)
        self._watch(sock.fileno(), lambda: self._read_control(client))

    def prepare_worker(self) -> None:
        """Fork a worker ahead: the first call need not wait for that.

        Not for threads, which need no fork, and not with an audit, whose line to a
        worker is made for its client.
        """
        if self._isolation == "thread" or self._audit is not None:
            return
        number = self.slots.take()
        try:
            self._spare = self._make_process(None, number, self.slots.slot(number))
        except OSError:  # the first call will hear of it
            self.slots.free.append(number)

    def run(self) -> None:
        """Serve until no client is left and the last worker has ended.

        A thread that overran is not waited for: it ends with the process.
        """
        while self._is_wanted() or not all(
            worker.overran and not worker.can_be_killed
            for worker in self._workers.values()
        ):
            ready = self._epoll.poll(self._time_to_next_look())
            self._interrupt_what_waits(_CLOSE_WITHIN)
            for descriptor, _ in ready:
                handler = self._handlers.get(descriptor)
                if handler is not None:  # an earlier one may have removed it
                    handler()
            self._look_at_deadlines()
            if self._idleness is not None and self._idleness.is_over():
                self._drop_clients()
            self._start_waiting()
            self._retire_for_waiting()
            if self._listener is not None:
                self._listener.manager.give_sign_of_life()
                if self._listen_at is not None and self._listen_at <= monotonic():
                    self._listen()
            self._interrupt_what_waits(0)
        if self._spare is not None:
            self._spare.kill(group=True)
            self._spare.reap()
        if self._audit is not None:
            self._audit.close()
        self._end_output()

    def _interrupt_what_waits(self, seconds: float) -> None:
        """Have a signal come every so many seconds; 0: none.

        Closing a socket waits for what is not sent yet, if its client wants it
        (SO_LINGER of socket(7)).  It may be a descriptor that came, or be on the way in
        another socket, where nobody sees it before that one is closed.  A signal ends
        the wait.  Where there is one client only, it would keep nobody but itself.
        """
        if self._shared:
            signal.setitimer(signal.ITIMER_REAL, seconds, seconds)

    def _is_wanted(self) -> bool:
        return bool(self._clients) or self._listener is not None

    # -- the loop's bookkeeping ------------------------------------------------

    def _watch(
        self,
        descriptor: int,
        handler: Callable[[], None],
        events: int = select.EPOLLIN,
    ) -> None:
        """Call `handler` at `events`, and when the other end is closed."""
        self._epoll.register(descriptor, events)
        self._handlers[descriptor] = handler

    def _unwatch(self, descriptor: int) -> None:
        if self._handlers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def _time_to_next_look(self) -> float | None:
        looks = [w.look_at for w in self._workers.values() if w.look_at is not None]
        if self._look_again is not None:
            looks.append(self._look_again)
        if self._idleness is not None and self._clients:
            looks.append(self._idleness.look_at)
        if self._listener is not None:
            sign = self._listener.manager.next_sign
            looks += [at for at in (sign, self._listen_at) if at is not None]
        if not looks:
            return None
        return min(max(0.0, min(looks) - monotonic()), _LONGEST_POLL)

    def _catch_signals(self) -> None:
        """Turn SIGTERM, and SIGCHLD for an init of a namespace, into events."""
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        # With threads an orphan cannot be told from a child that a thread waits
        # for, whose status would be lost; so orphans stay there, as zombies.
        if os.getpid() == 1 and self._isolation == "process":
            signal.signal(signal.SIGCHLD, lambda *_: None)
        self._signal_pipe = reader, writer
        self._watch(reader, self._read_signals)

    def _read_signals(self) -> None:
        received = os.read(self._signal_pipe[0], 512)
        if signal.SIGTERM in received:
            self._drop_clients()
            self._stop_listening()
        if signal.SIGCHLD in received:
            self._reap_orphans()
        if signal.SIGHUP in received:
            if self._audit is not None:
                self._audit.reopen()
            if self._listener is not None:
                self._listener.reload()

    def _look_at_audit(self, audit: Auditor) -> None:
        if audit.is_gone():
            self._unwatch(audit.sock.fileno())

    def _reap_orphans(self) -> None:
        """Reap what init inherits; a worker's status stays for its own handler."""
        pids = {worker.pid for worker in self._workers.values()}
        if self._spare is not None:
            pids.add(self._spare.pid)
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            while (child := os.waitid(os.P_ALL, 0, options)) is not None:
                if child.si_pid in pids:
                    return
                os.waitpid(child.si_pid, 0)
        except ChildProcessError:
            return

    def _capture_own_output(self) -> None:
        """Read what the threads write to the daemon's stdout and stderr."""
        for descriptor, stream in ((1, "stdout"), (2, "stderr")):
            output = OutputPipe(stream, None)
            os.dup2(output.writer, descriptor)
            output.close_writer()
            self._add_output(output)

    def _add_output(self, output: OutputPipe) -> None:
        self._outputs.append(output)

        def forward() -> None:
            if not output.forward():
                self._unwatch(output.reader)
                self._outputs.remove(output)
                os.close(output.reader)
            if output.log is not None and output.log.has_dropped():
                self._tell_when_there_is_room(output.log)

        self._watch(output.reader, forward)

    # -- the listening socket --------------------------------------------------

    def _listen(self) -> None:
        """Take connections, if they are taken at all and there is room."""
        if (
            self._listener is not None
            and not self._listens
            and len(self._clients) < _MOST_CONNECTIONS
        ):
            self._listens = True
            self._listen_at = None
            self._watch(self._listener.sock.fileno(), self._accept)

    def _pause_listening(self) -> None:
        """Leave connections in the socket's queue until something is let go."""
        if self._listener is not None and self._listens:
            self._listens = False
            self._unwatch(self._listener.sock.fileno())

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._pause_listening()
            self._listener.close()
            self._listener = None

    def _accept(self) -> None:
        listener = self._listener
        if listener is None:
            return
        try:
            sock = listener.accept()
        except OSError:  # no descriptors, here or in the system
            self._pause_listening()
            self._listen_at = monotonic() + _LISTEN_AGAIN
            return
        if sock is None:
            return
        peer = peer_credentials(sock)
        of_its_user = sum(client.uid == peer.uid for client in self._clients)
        reason = listener.refusal(sock, of_its_user)
        if reason:
            listener.turn_away(sock, reason)
            self._record_refusal(peer, reason)
            return
        self.add_client(sock)
        listener.welcome(sock)
        if len(self._clients) >= _MOST_CONNECTIONS:
            self._pause_listening()

    # -- control sockets -------------------------------------------------------

    def _read_control(self, client: Client) -> None:
        try:
            datagram = descriptors.receive(
                client.sock, DATAGRAM_SIZE + 1, CHANNEL_DESCRIPTORS, socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return
        except OSError:
            self._drop_client(client)
            return
        if datagram.is_end:
            self._drop_client(client)
        else:
            self._take_datagram(client, datagram)

    def _take_datagram(self, client: Client, datagram: Datagram) -> None:
        """Take over the descriptors of a well-formed datagram, else close them."""
        sockets = requests.sockets_of(datagram)
        if not sockets or datagram.sender is None:
            descriptors.close_all(datagram.descriptors)
            self._record_refusal(datagram.sender, "not a request for a worker")
        elif datagram.data == HELLO:
            self._add_log_line(client, datagram.sender, sockets[0])
        else:
            self._add_job(client, datagram.sender, *sockets)

    def _record_refusal(self, client: Credentials | None, reason: str) -> None:
        if self._audit is not None:
            self._audit.turned_away(client, reason)

    def _add_log_line(
        self, client: Client, sender: Credentials, sock: socket.socket
    ) -> None:
        """Log to `sock` what belongs to the sender, until it closes its end."""
        if len(client.log_lines) >= _MOST_LOG_LINES:
            sock.close()
            return
        previous = client.log_lines.get(sender.pid)
        if previous is not None:
            self._close_log_line(client, previous)
        line = LogLine(sock)
        self._log_lines.append(line)
        client.log_lines[sender.pid] = line
        self._watch(
            sock.fileno(), lambda: self._look_at_log_line(client, line), events=0
        )
        if self._isolation == "thread" and self._listener is None:
            self._use_log_line(line)

    def _use_log_line(self, line: LogLine | None) -> None:
        """Send what belongs to no client, the threads' output, to `line`."""
        for output in self._outputs:
            output.log = line
        self._service.logging.use_line(line)

    def _look_at_log_line(self, client: Client, line: LogLine) -> None:
        """Close a log line that nobody reads any more, or say what was dropped."""
        if line.is_closed():
            self._close_log_line(client, line)
            if self._isolation == "thread" and self._listener is None:
                self._use_log_line(self._log_lines[-1] if self._log_lines else None)
        elif line.tell_dropped():
            self._epoll.modify(line.sock.fileno(), 0)

    def _close_log_line(self, client: Client, line: LogLine) -> None:
        self._unwatch(line.sock.fileno())
        self._log_lines.remove(line)
        for pid in [pid for pid, its in client.log_lines.items() if its is line]:
            del client.log_lines[pid]
        line.sock.close()
        self._listen()

    def _end_output(self) -> None:
        """Forward what is left in the pipes, and say how much was dropped."""
        for output in self._outputs:
            output.drain()
        until = monotonic() + _LAST_WORDS
        for line in self._log_lines:
            line.tell_dropped(wait=max(0.001, until - monotonic()))

    def _tell_when_there_is_room(self, line: LogLine) -> None:
        if line in self._log_lines:  # and its reader has not gone
            self._epoll.modify(line.sock.fileno(), select.EPOLLOUT)

    def _add_job(
        self,
        client: Client,
        sender: Credentials,
        channel: socket.socket,
        fate: socket.socket,
    ) -> None:
        job = Job(channel, fate, sender, client.sock, client.log_lines.get(sender.pid))
        waiting = [
            other
            for other in self._waiting
            if other.uid == job.uid and other.control is job.control
        ]
        if len(waiting) >= _MOST_WAITING:
            self._end_job(job, Fate(Ending.TOO_MANY, 0, 0))
            self._record_refusal(sender, "too many calls of this user wait")
            return
        self._waiting.append(job)
        self._watch(fate.fileno(), lambda: self._read_fate_line(job))

    def _drop_clients(self) -> None:
        """Take no new calls; running ones finish."""
        for client in list(self._clients):
            self._drop_client(client)

    def _drop_client(self, client: Client) -> None:
        """Let go of a control socket; with a listener, of what it still waits for."""
        self._unwatch(client.sock.fileno())
        self._clients.remove(client)
        if self._listener is not None:
            for job in [job for job in self._waiting if job.control is client.sock]:
                self._waiting.remove(job)
                self._end_job(job, Fate(Ending.NOT_STARTED, 0, 0))
            for line in list(client.log_lines.values()):
                self._close_log_line(client, line)
        client.sock.close()
        self._listen()

    # -- workers ---------------------------------------------------------------

    def _start_waiting(self) -> None:
        """Give free slots to the waiting.

        First comes the user with the fewest workers, of its connections likewise.
        """
        while self._waiting and (self.slots.free or self._spare is not None):
            running = [worker.job for worker in self._workers.values()]
            job = min(self._waiting, key=lambda job: _share(job, running))
            if self._spare is not None:
                spare, self._spare = self._spare, None
                if spare.assign(job):
                    self._workers[spare.slot_number] = spare
                    self._waiting.remove(job)
                continue
            number = self.slots.take()
            # It stays among the waiting meanwhile: a child that the new thread
            # forks at once must find it, to close it.
            try:
                self._workers[number] = self._start_worker(job, number)
                self._waiting.remove(job)
            except (OSError, RuntimeError) as error:  # no process, no thread
                self._waiting.remove(job)
                self.slots.free.append(number)
                number = getattr(error, "errno", None) or errno.EAGAIN
                self._end_job(job, Fate(Ending.NO_WORKER, number, 0))
                self._record_refusal(job.peer, f"no worker: {error}")

    def _start_worker(self, job: Job, number: int) -> Worker:
        if self._audit is None:
            return self._make_worker(job, number, self.slots.slot(number))
        recorder = self._audit.recorder(number)
        try:
            worker = self._make_worker(job, number, self.slots.slot(number, recorder))
        except BaseException:
            self._audit.dismiss(recorder)
            raise
        self._audit.started(worker, recorder)
        return worker

    def _make_worker(self, job: Job, number: int, slot: Slot) -> Worker:
        if self._isolation == "thread":
            return ThreadWorker(job, number, self._service, slot)
        return self._make_process(job, number, slot)

    def _make_process(self, job: Job | None, number: int, slot: Slot) -> ProcessWorker:
        worker = ProcessWorker(
            job,
            number,
            self._service,
            slot,
            self._limit_worker,
            lambda: self._close_all_but(job),
        )
        self._watch(worker.pidfd, lambda: self._reap(worker))
        for output in worker.outputs:
            self._add_output(output)
        return worker

    def _limit_worker(self) -> None:
        """Set a worker's limits; of descriptors it needs no more than was given."""
        resource.setrlimit(resource.RLIMIT_NOFILE, self._descriptors)
        self._limit()

    def _leave_in_forked_child(self) -> None:
        """Close what a child of a thread inherits, once.

        In its own children these numbers are those of other files.
        """
        if not self._left:
            self._left = True
            self._close_all_but(None)

    def _close_all_but(self, job: Job | None) -> None:
        """Close, in a worker, what belongs to the supervisor and to others.

        Args:
            job: the worker's own, if it has one by now; None in a child that a thread
                forked.

        """
        self._close_own()
        for worker in self._workers.values():
            worker.job.close()
            if isinstance(worker, ProcessWorker):
                os.close(worker.pidfd)
        for waiting in self._waiting:
            if waiting is not job:
                waiting.close()
        for output in self._outputs:
            os.close(output.reader)
        for client in self._clients:
            client.sock.close()
        if self._listener is not None:
            self._listener.sock.close()
            self._listener.manager.close()
        for line in self._log_lines:
            if job is None or line is not job.log:
                line.sock.close()

    def _close_own(self) -> None:
        self._epoll.close()
        self.slots.close_reader()
        for descriptor in self._signal_pipe:
            os.close(descriptor)
        if self._audit is not None:
            self._audit.close_in_worker()

    def _reap(self, worker: ProcessWorker) -> None:
        """Take the wait status of a worker that has ended, and end its job."""
        if not self.slots.is_detached(worker.slot_number):
            worker.kill(group=True)  # before the number of its group is free
        self._unwatch(worker.pidfd)
        if os.getpid() == 1:
            signal.raise_signal(signal.SIGCHLD)  # orphans may stand behind it
        if self._workers.get(worker.slot_number) is not worker:  # it got no job
            worker.reap()
            self._spare = None
            self.slots.free.append(worker.slot_number)
            return
        ending = Ending.OVERRAN if worker.overran else Ending.ENDED
        self._end_worker(worker, Fate(ending, worker.reap(), worker.pid))

    def _end_worker(self, worker: Worker, fate: Fate) -> None:
        del self._workers[worker.slot_number]
        self.slots.free.append(worker.slot_number)
        if self._audit is not None:
            self._audit.ended(worker, fate.status)
        self._end_job(worker.job, fate)

    def _end_job(self, job: Job, fate: Fate) -> None:
        """Tell the client what became of its job; let go of the descriptors.

        The channel is shut down and not only closed: a process that the worker
        left behind may hold a copy, and the client shall see the end.
        """
        self._tell(job, fate)
        self._unwatch(job.fate.fileno())
        job.close()
        self._listen()

    @staticmethod
    def _tell(job: Job, fate: Fate) -> None:
        for action in (
            lambda: job.fate.send(fate.to_bytes(), socket.MSG_DONTWAIT),
            lambda: job.channel.shutdown(socket.SHUT_RDWR),
        ):
            try:
                action()
            except OSError:  # the client is gone, or has filled its line
                pass

    def _read_fate_line(self, job: Job) -> None:
        """Read what the client wants: to kill its worker, now or soon, or to go."""
        try:
            data = job.fate.recv(64, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if job in self._waiting:
            self._waiting.remove(job)
            self._end_job(job, Fate(Ending.NOT_STARTED, 0, 0))
        elif data.startswith(KILL):
            worker = self._worker_of(job)
            worker.cancelled = True
            self._kill(worker)
        elif data.startswith(LEAVE):
            worker = self._worker_of(job)
            worker.leaves_at = monotonic() + _CLEAN_UP
            worker.look_at = min(worker.leaves_at, worker.look_at or math.inf)
        else:
            self._unwatch(job.fate.fileno())

    def _worker_of(self, job: Job) -> Worker:
        return next(w for w in self._workers.values() if w.job is job)

    def _kill(self, worker: Worker) -> None:
        if isinstance(worker, ProcessWorker):
            detached = self.slots.is_detached(worker.slot_number)
            worker.kill(group=not detached)
        else:
            worker.overran = True
            if self._audit is not None:
                self._audit.overran(worker)
            self._tell(worker.job, Fate(Ending.RUNS_ON, 0, worker.pid))

    # -- deadlines -------------------------------------------------------------

    def _read_notices(self) -> None:
        for notice in self.slots.notices():
            worker = self._workers.get(notice.slot)
            if worker is None:
                continue
            if notice.at == slots.ENDED:
                self._end_worker(worker, Fate(Ending.ENDED, 0, worker.pid))
            else:
                worker.told = notice.at
                if worker.look_at is None or notice.at < worker.look_at:
                    worker.look_at = notice.at

    def _look_at_deadlines(self) -> None:
        now = monotonic()
        for worker in self._workers.values():
            if worker.look_at is None or now < worker.look_at or worker.overran:
                continue
            deadline = self.slots.deadline(worker.slot_number)
            if worker.leaves_at is not None:
                deadline = min(worker.leaves_at, deadline or math.inf)
            worker.look_at = deadline
            if deadline is not None and deadline <= now:
                worker.look_at = None
                worker.overran = worker.leaves_at != deadline
                worker.cancelled = not worker.overran
                self._kill(worker)
            elif now < worker.told and (deadline is None or worker.told < deadline):
                worker.look_at = worker.told  # the worker relies on it

    # -- making room -----------------------------------------------------------

    def _retire_for_waiting(self) -> None:
        """Have as many workers retire as jobs wait: idle ones now, else later.

        An idle worker is told by shutting down what it reads: a CALL that is
        already there is still served, one that comes later fails at its sender
        before a byte is taken.  A busy one looks at its slot after the call; one
        that became idle at this very moment is found by looking again.
        """
        leaving = not self._is_wanted()
        wanted = len(self._workers) if leaving else len(self._waiting)
        candidates = [w for w in self._workers.values() if not w.retiring]
        missing = wanted - (len(self._workers) - len(candidates))
        now = monotonic()
        due = self._look_again is not None and self._look_again <= now
        self._look_again = None
        if not candidates or missing <= 0:
            return
        busy = []
        for worker in candidates:
            if self._is_busy(worker, now):
                busy.append(worker)
            elif missing > 0:
                missing -= 1
                worker.retiring = True
                self._shut_reading(worker)
        if missing > 0:
            for worker in busy:
                self.slots.ask_to_retire(worker.slot_number)
            self._look_again = self._next_look(busy, now, due=due)

    def _next_look(self, busy: list[Worker], now: float, *, due: bool) -> float | None:
        """Return when to look at the slots again, while jobs wait."""
        looks = [
            since + _READ_WITHIN
            for since in map(self._reading_since, busy)
            if since is not None
        ]
        if not due:
            looks.append(now + slots.LOOK_AGAIN)
        return min(looks, default=None)

    def _is_busy(self, worker: Worker, now: float) -> bool:
        """Return whether it runs or reads a call, or is about to.

        What retired before its first call, or within a CALL, would be asked for
        again, and callers that are many enough would never get anywhere.
        """
        since = self._reading_since(worker)
        if since is not None:
            return now < since + _READ_WITHIN
        if self.slots.deadline(worker.slot_number) is not None:
            return True
        try:
            return bool(worker.job.channel.recv(1, _PEEK))
        except OSError:
            return False

    def _reading_since(self, worker: Worker) -> float | None:
        """Return since when it reads a call; a new worker reads its first."""
        if self.slots.is_new(worker.slot_number):
            return worker.born
        return self.slots.reading_since(worker.slot_number)

    @staticmethod
    def _shut_reading(worker: Worker) -> None:
        try:
            worker.job.channel.shutdown(socket.SHUT_RD)
        except OSError:
            pass


def _share(job: Job, running: list[Job]) -> tuple[int, int]:
    """Return how many workers the job's user has, and how many its connection."""
    of_user = [other for other in running if other.uid == job.uid]
    return len(of_user), sum(other.control is job.control for other in of_user)


def _allow_descriptors(limit: tuple[int, int]) -> None:
    """Raise the soft limit of open descriptors to the hard one."""
    _, most = limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
