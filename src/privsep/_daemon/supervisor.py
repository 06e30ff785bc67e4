"""The supervisor: starts, reaps and kills workers; nothing else.

Runs in the daemon's main thread (in its only one, with process workers).  One
epoll loop over: the listening socket if there is one (`listener`), control sockets
(`clients`), the output of workers and log lines (`output`), and, here, fate lines, the
pidfds of workers, and the pipe of notices.  From a client it reads datagrams of fixed
size with descriptors, and single bytes on fate lines; it never blocks on a client, and
it parses nothing else that a client sends.
"""

from __future__ import annotations

import errno
import os
import resource
from time import monotonic

from privsep._daemon import slots
from privsep._daemon.clients import Clients
from privsep._daemon.jobs import Queue
from privsep._daemon.loop import Loop
from privsep._daemon.output import Logs
from privsep._daemon.workers import ProcessWorker, ThreadWorker
from privsep._wire.control import KILL, LEAVE, Ending, Fate
from privsep._wire.frames import FOREVER

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    import signal
    import socket
    from collections.abc import Callable

    from privsep._daemon.audit.auditor import Auditor
    from privsep._daemon.idle import Idleness
    from privsep._daemon.jobs import Job
    from privsep._daemon.listener import Listener
    from privsep._daemon.serve import Service
    from privsep._daemon.slots import Slot
    from privsep._daemon.workers import Worker
    from privsep._wire.descriptors import Credentials
else:
    import _signal as signal
    import _socket as socket  # without enum and selectors: 4 ms

_CLOSE_WITHIN = 0.05  # seconds
_READ_WITHIN = 0.2  # seconds without progress after which a reader may retire
_PEEK = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)
_CLEAN_UP = 5.0  # seconds, for a worker whose client has left it


class Supervisor:
    """Serves the clients that it was given until the last has gone.

    With a `listener` it serves whoever may connect, until SIGTERM.
    """

    def __init__(
        self,
        service: Service,
        workers: slots.Slots,
        *,
        isolation: str,
        limit: Callable[[], None],
        audit: Auditor | None = None,
        listener: Listener | None = None,
        idle_timeout: float = FOREVER,
    ) -> None:
        self._service = service
        self._isolation = isolation
        self._limit = limit  #: sets the resource limits of a worker
        self.slots = workers
        self._waiting = Queue()
        self._workers: dict[int, Worker] = {}
        self._look_again: float | None = None
        self._idleness: Idleness | None = None
        if idle_timeout != FOREVER:
            from privsep._daemon.idle import Idleness  # noqa: PLC0415 - only rootwrap's

            self._idleness = Idleness(self.slots, idle_timeout)
        self._spare: ProcessWorker | None = None  #: that waits for a job
        self._left = False  #: in a child that a thread forked, and in its children
        self._descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
        _allow_descriptors(self._descriptors)
        self._shared = listener is not None
        threads_of_one = isolation == "thread" and not self._shared
        self._loop = Loop()
        self._logs = Logs(self._loop, service.logging if threads_of_one else None)
        self.clients = Clients(self._loop, self._logs, self, shared=self._shared)
        self._loop.watch(self.slots.reader, self._read_notices)
        self._catch_signals()
        self._audit = audit
        if audit is not None:
            self._loop.watch(audit.sock.fileno(), lambda: self._look_at_audit(audit))
        self._listener = listener
        if listener is not None:
            for number in (signal.SIGHUP, signal.SIGALRM):
                signal.signal(number, lambda *_: None)
            listener.serve(self._loop, self.clients, self.record_refusal)
        if threads_of_one:  # else there is no client whose output it would be
            self._logs.capture_own()
        if isolation == "thread":
            # A child that an entrypoint forks must not hide the daemon's death.
            os.register_at_fork(after_in_child=self._leave_in_forked_child)

    def adopt(self, spare: ProcessWorker) -> None:
        """Have a worker that waits for a job; the first call gets it."""
        self._spare = spare
        self._watch(spare)

    def run(self) -> None:
        """Serve until no client is left and the last worker has ended.

        A thread that overran is not waited for: it ends with the process.
        """
        while self._is_wanted() or not all(
            worker.overran and not worker.can_be_killed
            for worker in self._workers.values()
        ):
            ready = self._loop.wait(self._time_to_next_look())
            self._interrupt_what_waits(_CLOSE_WITHIN)
            self._loop.handle(ready)
            self._look_at_deadlines()
            if self._idleness is not None and self._idleness.is_over():
                self.clients.drop_all()
            self._start_waiting()
            self._retire_for_waiting()
            if self._listener is not None:
                self._listener.look()
            self._interrupt_what_waits(0)
        if self._spare is not None:
            self._spare.kill(group=True)
            self._spare.reap()
        if self._audit is not None:
            self._audit.close()
        self._logs.end()

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
        return bool(self.clients) or self._listener is not None

    def _time_to_next_look(self) -> float | None:
        looks = [w.look_at for w in self._workers.values() if w.look_at is not None]
        if self._look_again is not None:
            looks.append(self._look_again)
        if self._idleness is not None and self.clients:
            looks.append(self._idleness.look_at)
        if self._listener is not None:
            looks += self._listener.looks()
        return min(looks) - monotonic() if looks else None

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
        self._loop.watch(reader, self._read_signals)

    def _read_signals(self) -> None:
        received = os.read(self._signal_pipe[0], 512)
        if signal.SIGTERM in received:
            self.clients.drop_all()
            if self._listener is not None:
                self._listener.close()
                self._listener = None
        if signal.SIGCHLD in received:
            self._reap_orphans()
        if signal.SIGHUP in received:
            if self._audit is not None:
                self._audit.reopen()
            if self._listener is not None:
                self._listener.reload()

    def _look_at_audit(self, audit: Auditor) -> None:
        if audit.is_gone():
            self._loop.unwatch(audit.sock.fileno())

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

    # -- what clients ask for ----------------------------------------------------

    def add_job(self, job: Job) -> None:
        """Start a worker for `job` when it is its turn."""
        if not self._waiting.add(job):
            self._end_job(job, Fate(Ending.TOO_MANY, 0, 0))
            self.record_refusal(job.peer, "too many calls of this user wait")
            return
        try:
            self._loop.watch(job.fate.fileno(), lambda: self._read_fate_line(job))
        except OSError as error:  # fs.epoll.max_user_watches
            self._waiting.remove(job)
            self._end_job(job, Fate(Ending.NO_WORKER, error.errno or 0, 0))
            self.record_refusal(job.peer, f"no worker: {error}")

    def record_refusal(self, client: Credentials | None, reason: str) -> None:
        """Record that something of a client's was not taken."""
        if self._audit is not None:
            self._audit.turned_away(client, reason)

    def end_of_client(self, control: socket.socket) -> None:
        """Let go of what the client with this control socket still waits for."""
        for job in self._waiting.of(control):
            self._waiting.remove(job)
            self._end_job(job, Fate(Ending.NOT_STARTED, 0, 0))
        self._make_room()

    def _make_room(self) -> None:
        """Take connections again that were left for lack of room: some was made."""
        if self._listener is not None:
            self._listener.resume()

    # -- workers ---------------------------------------------------------------

    def _start_waiting(self) -> None:
        """Give free slots to the waiting."""
        while self._waiting and (self.slots.free or self._spare is not None):
            job = self._waiting.first()
            if self._spare is not None:
                spare, self._spare = self._spare, None
                if spare.assign(job):
                    self._workers[spare.slot_number] = spare
                    self._waiting.start(job)
                continue
            number = self.slots.take()
            # It stays among the waiting meanwhile: a child that the new thread
            # forks at once must find it, to close it.
            try:
                self._workers[number] = self._start_worker(job, number)
                self._waiting.start(job)
            except (OSError, RuntimeError) as error:  # no process, no thread
                self._waiting.remove(job)
                self.slots.free.append(number)
                number = getattr(error, "errno", None) or errno.EAGAIN
                self._end_job(job, Fate(Ending.NO_WORKER, number, 0))
                self.record_refusal(job.peer, f"no worker: {error}")

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
        worker = ProcessWorker(
            job,
            number,
            self._service,
            slot,
            self._limit_worker,
            lambda: self._close_all_but(job),
        )
        try:
            self._watch(worker)
        except OSError:  # fs.epoll.max_user_watches
            worker.kill(group=True)
            self._loop.unwatch(worker.pidfd)
            for output in worker.outputs:
                self._logs.drop_pipe(output)
            worker.reap()
            raise
        return worker

    def _watch(self, worker: ProcessWorker) -> None:
        self._loop.watch(worker.pidfd, lambda: self._reap(worker))
        for output in worker.outputs:
            self._logs.add_pipe(output)

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
        self.clients.close_in_worker()
        if self._listener is not None:
            self._listener.close_in_worker()
        self._logs.close_in_worker(None if job is None else job.log)

    def _close_own(self) -> None:
        self._loop.close()
        self.slots.close_reader()
        for descriptor in self._signal_pipe:
            os.close(descriptor)
        if self._audit is not None:
            self._audit.close_in_worker()

    def _reap(self, worker: ProcessWorker) -> None:
        """Take the wait status of a worker that has ended, and end its job."""
        if not self.slots.is_detached(worker.slot_number):
            worker.kill(group=True)  # before the number of its group is free
        self._loop.unwatch(worker.pidfd)
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
        self._waiting.end(worker.job)
        self._end_job(worker.job, fate)

    def _end_job(self, job: Job, fate: Fate) -> None:
        """Tell the client what became of its job; let go of the descriptors.

        The channel is shut down and not only closed: a process that the worker
        left behind may hold a copy, and the client shall see the end.
        """
        self._tell(job, fate)
        self._loop.unwatch(job.fate.fileno())
        job.close()
        self._make_room()

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
        if self._waiting.waits(job):
            self._waiting.remove(job)
            self._end_job(job, Fate(Ending.NOT_STARTED, 0, 0))
        elif data.startswith(KILL):
            worker = self._worker_of(job)
            worker.cancelled = True
            self._kill(worker)
        elif data.startswith(LEAVE):
            worker = self._worker_of(job)
            worker.leaves_at = monotonic() + _CLEAN_UP
            worker.look_at = min(worker.leaves_at, worker.look_at or FOREVER)
        else:
            self._loop.unwatch(job.fate.fileno())

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
                deadline = min(worker.leaves_at, deadline or FOREVER)
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

        Who was just called is not seen to be busy before its slot says so.  Its call
        may want to read more, so the worker looks at this side's mark, having set its
        own, as this side does the other way round: one of the two sees the other.
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
                self.slots.ask_to_retire(worker.slot_number)
                if self._is_busy(worker, now):
                    busy.append(worker)
                    continue
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


def _allow_descriptors(limit: tuple[int, int]) -> None:
    """Raise the soft limit of open descriptors to the hard one."""
    _, most = limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
