"""Workers: a process each, or a thread each, that serves one channel.

Runs in the supervisor.  A process is forked, has its own process group and its
own stdout and stderr, and dies with the supervisor; a thread shares all of the
daemon.  Both end when their channel does.
"""

from __future__ import annotations

import os
from time import monotonic

from privsep._daemon.environment import STOPS
from privsep._daemon.output import LogLine, OutputPipe
from privsep._lockdown import attributes
from privsep._wire import descriptors

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    import signal
    import socket
    from collections.abc import Callable
    from typing import NoReturn

    from privsep._daemon.jobs import Job
    from privsep._daemon.serve import Service
    from privsep._daemon.slots import Slot
else:
    # Without enum and selectors: 4 ms; and signal.signal() makes an enum of what it
    # returns: 30 page faults, which a process pays for that was just forked.
    import _signal as signal
    import _socket as socket


class Worker:
    """What the supervisor knows of a running worker."""

    can_be_killed: bool
    pid: int

    def __init__(self, job: Job | None, slot_number: int) -> None:
        if job is not None:  # else it waits to be assigned one
            self.job = job
        self.slot_number = slot_number
        self.born = monotonic()
        self.look_at: float | None = None  #: when to look at its slot, monotonic
        self.told = 0.0  #: when it last asked for a look
        self.retiring = False
        self.overran = False
        self.cancelled = False  #: killed as its client asked
        self.leaves_at: float | None = None  #: when to kill it, its client having left


class ThreadWorker(Worker):
    """A worker that is a thread of the daemon."""

    can_be_killed = False

    def __init__(
        self, job: Job, slot_number: int, service: Service, slot: Slot
    ) -> None:
        super().__init__(job, slot_number)
        self.pid = os.getpid()
        # The thread has a descriptor of its own: the supervisor shuts down and
        # closes its own one whenever it has to.
        channel = socket.socket(fileno=os.dup(job.channel.fileno()))
        import threading  # noqa: PLC0415 - for these workers only

        threading.Thread(
            target=self._run, args=(channel, service, slot), daemon=True
        ).start()

    @staticmethod
    def _run(channel: socket.socket, service: Service, slot: Slot) -> None:
        _serving[slot] = channel
        try:
            service.serve(channel, slot)
        finally:
            _serving.pop(slot, None)
            channel.close()
            if slot.audit is not None:
                slot.audit.close()
            slot.ended()


_serving: dict[Slot, socket.socket] = {}


def _forget_in_forked_child() -> None:
    """Leave the calls to the worker: a child that an entrypoint forks has none.

    A channel that the child held open would hide the worker's end from the
    client, and a child that returned would answer a second time.
    """
    for slot, channel in _serving.items():
        slot.disown()
        channel.close()
    _serving.clear()


os.register_at_fork(after_in_child=_forget_in_forked_child)


class ProcessWorker(Worker):
    """A worker that is a process of its own.

    Without a job it is forked all the same, and waits until it is assigned one.
    """

    can_be_killed = True

    def __init__(
        self,
        job: Job | None,
        slot_number: int,
        service: Service,
        slot: Slot,
        limit: Callable[[], None],
        close_others: Callable[[], None],
    ) -> None:
        super().__init__(job, slot_number)
        self.outputs: list[OutputPipe] = []
        self.supervisor = os.getpid()
        self.errand: socket.socket | None = None  #: its end of what brings the job
        try:
            if job is None:
                self._errand, self.errand = socket.socketpair()
            for stream in ("stdout", "stderr"):
                log = None if job is None else job.log
                self.outputs.append(OutputPipe(stream, log))
            self.pid = os.fork()
        except OSError:
            for output in self.outputs:
                output.close()
            raise
        if self.pid == 0:
            if job is None:
                self._errand.close()
            _child(self, service, slot, limit, close_others)
        try:
            os.setpgid(self.pid, self.pid)
        except OSError:  # the child was first, and may even be gone
            pass
        if self.errand is not None:
            self.errand.close()
        for output in self.outputs:
            output.pid = self.pid
            output.close_writer()
        self._watch_end()

    def assign(self, job: Job) -> bool:
        """Hand `job` to this worker, which waits for it; return False if it is gone."""
        handed = [job.channel.fileno()]
        if job.log is not None:
            handed.append(job.log.sock.fileno())
        try:
            descriptors.send(self._errand, b"j", handed)
        except OSError:
            return False
        finally:
            self._errand.close()
        self.job = job
        self.born = monotonic()
        for output in self.outputs:
            output.log = job.log
        return True

    def _watch_end(self) -> None:
        """Get a descriptor that tells the end; without one it must not live."""
        try:
            self.pidfd = os.pidfd_open(self.pid)
        except OSError:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            for output in self.outputs:
                os.close(output.reader)
            raise

    def kill(self, *, group: bool) -> None:
        """Kill the worker and, if `group`, all in its process group."""
        try:
            if group:
                os.killpg(self.pid, signal.SIGKILL)
            else:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def reap(self) -> int:
        """Return the wait status of the worker, which has ended."""
        status = os.waitpid(self.pid, 0)[1]
        os.close(self.pidfd)
        return status


def _child(
    worker: ProcessWorker,
    service: Service,
    slot: Slot,
    limit: Callable[[], None],
    close_others: Callable[[], None],
) -> NoReturn:
    """Be the worker; never return into the supervisor's code."""
    status = 1
    try:
        os.setpgid(0, 0)
        attributes.die_with(worker.supervisor)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM, *STOPS):
            signal.signal(number, signal.SIG_DFL)
        for descriptor, output in enumerate(worker.outputs, start=1):
            os.dup2(output.writer, descriptor)
        close_others()
        for output in worker.outputs:
            output.close()
        limit()
        if worker.errand is None:
            worker.job.fate.close()
            channel, log = worker.job.channel, worker.job.log
        else:
            channel, log = _receive_job(worker.errand)
        service.logging.use_line(log)
        _serving[slot] = channel
        service.serve(channel, slot)
        status = 0
    except BaseException:  # noqa: BLE001 - it must not unwind into the supervisor
        import traceback  # noqa: PLC0415

        traceback.print_exc()
    finally:
        os._exit(status)


def _receive_job(errand: socket.socket) -> tuple[socket.socket, LogLine | None]:
    """Wait for a job; end this process if none comes, as the daemon ends."""
    came = descriptors.receive(errand, 1, 2)
    errand.close()
    if not came.data:
        os._exit(0)
    channel, *logs = [socket.socket(fileno=number) for number in came.descriptors]
    channel.settimeout(None)  # not socket.setdefaulttimeout()'s
    return channel, LogLine(logs[0]) if logs else None
