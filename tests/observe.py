"""What tests see of processes they did not start: fifos, pidfds, children."""

from __future__ import annotations

import os
import select
import threading
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Self

import procfs
import pytest
from conftest import METHOD
from forks import fork

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from workload import Workload

    import privsep

WITHIN = 60.0  # seconds: what hangs shall not block for ever; load does not matter


class Fifo:
    """A fifo of the file system: whoever holds it for writing is alive.

    Pids differ between pid namespaces, descriptors do not.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.path = str(directory / name)
        os.mkfifo(self.path)
        self._reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._reader)

    def _poll(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def read_line(self) -> str:
        """Return the first line that a holder writes."""
        data = b""
        end = monotonic() + WITHIN
        while not data.endswith(b"\n"):
            assert self._poll(end - monotonic()), f"nobody wrote to {self.path}"
            data += os.read(self._reader, 1)
        return data.decode()

    def was_written_to(self) -> bool:
        """Return whether a process wrote to it; all that was written is read."""
        written = False
        while self._poll(0) and os.read(self._reader, 4096):
            written = True
        return written

    def is_held(self) -> bool:
        """Return whether a process holds it; all that was written is read."""
        while self._poll(0):
            if not os.read(self._reader, 4096):
                return False
        return True

    def wait_until_free(self) -> None:
        """Return when no process holds it; perhaps none ever did, having been killed.

        Only who has opened and closed it is missed by those that read from it.
        """
        os.close(os.open(self.path, os.O_WRONLY))
        self.wait_until_let_go()

    def wait_until_let_go(self, within: float = WITHIN) -> None:
        """Return when no process holds it any more, which one did."""
        end = monotonic() + within
        while self._poll(max(0.0, end - monotonic())):
            if not os.read(self._reader, 4096):
                return
        msg = f"{self.path} is held after {within} s"
        raise AssertionError(msg)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Fifo]:
    """What a call holds as long as it lasts."""
    with Fifo(tmp_path, "held") as fifo:
        yield fifo


class Release:
    """A fifo whose readers go on when the test says so, or at its end."""

    def __init__(self, directory: Path, name: str = "release") -> None:
        self.path = str(directory / name)
        os.mkfifo(self.path)
        self._writer: int | None = os.open(self.path, os.O_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()

    def let_go(self) -> None:
        """Have each reader see what was written, and the end."""
        if self._writer is not None:
            os.write(self._writer, b"go")
            os.close(self._writer)
            self._writer = None


def children(pid: int) -> set[int]:
    """Return the children of a process that have not ended."""
    return {child for child in procfs.children(pid) if not _has_ended(child)}


def _has_ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def daemon_pid(method: str = METHOD) -> int:
    """Return the pid of the only daemon of this process."""
    (pid,) = children(os.getpid())
    if method == "userns":  # the helper waits for the init of the pid namespace
        (pid,) = children(pid)
    return pid


def wait_for_end(pidfd: int, within: float = WITHIN) -> None:
    """Return when the process has ended; close the pidfd."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    try:
        assert poll.poll(within * 1000), f"a process lives after {within} s"
    finally:
        os.close(pidfd)


def kill(pid: int, number: int = 9) -> None:
    """Kill a process and its children; return when they have ended."""
    pidfds = [os.pidfd_open(each) for each in (pid, *children(pid))]
    os.kill(pid, number)
    for pidfd in pidfds:
        wait_for_end(pidfd)


_REST = 0.1  # seconds


def _sleeps_since(pid: int) -> str | None:
    """Return how often the main thread has gone to sleep; None if it is awake.

    What has ended sleeps for ever.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    asleep = fields["State"].split()[0] in ("S", "Z")
    return fields["voluntary_ctxt_switches"] if asleep else None


def wait_for_rest(pid: int) -> None:
    """Return when the main thread of a process sleeps and nothing wakes it.

    What runs round and round never does so, however little of the processor it
    gets: it is awake, or has gone to sleep once more.
    """
    end = monotonic() + WITHIN
    while monotonic() < end:
        before = _sleeps_since(pid)
        threading.Event().wait(_REST)
        if before is not None and _sleeps_since(pid) == before:
            return
    msg = f"process {pid} does not come to rest within {WITHIN} s"
    raise AssertionError(msg)


class Forked:
    """A forked child that runs a function, as another client process."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.pid = fork(function)

    def wait(self, within: float = WITHIN) -> int:
        """Return its exit status, or minus the signal that killed it."""
        try:
            wait_for_end(os.pidfd_open(self.pid), within)
        except AssertionError:
            os.kill(self.pid, 9)
            raise
        finally:
            status = os.waitpid(self.pid, 0)[1]
        return os.waitstatus_to_exitcode(status)


class Threads:
    """Threads that each run a function; their results, in order."""

    def __init__(self, functions: Iterable[Callable[[], object]]) -> None:
        functions = list(functions)
        self._outcomes: list[object] = [None] * len(functions)
        self._threads = [
            threading.Thread(target=self._run, args=(number, function))
            for number, function in enumerate(functions)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int, function: Callable[[], object]) -> None:
        try:
            self._outcomes[number] = function()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self._outcomes[number] = error

    def has_ended(self) -> bool:
        """Return whether no thread runs any more."""
        return not any(thread.is_alive() for thread in self._threads)

    def outcomes(self, within: float = 2 * WITHIN) -> list[object]:
        """Wait for all; return what each returned or raised."""
        end = monotonic() + within
        for thread in self._threads:
            thread.join(max(0.0, end - monotonic()))
            assert not thread.is_alive(), f"a thread runs after {within} s"
        return self._outcomes


@contextmanager
def call_running(service: Workload, held: Fifo, directory: Path) -> Generator[None]:
    """Have a call run that has begun, and then ends well."""
    with Release(directory) as release:
        call = Threads([lambda: service.hold_until(held.path, release.path)])
        held.read_line()
        yield
        release.let_go()
        assert call.outcomes() == ["go"]


@pytest.fixture
def patient_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that waits for what becomes of a worker, however slow the daemon is.

    Else it gives up after a second, which is told as another error.
    """
    from privsep._client import asynchronous, channel, streams

    for module in (channel, asynchronous):
        monkeypatch.setattr(module, "_FATE_TIMEOUT", WITHIN)
    monkeypatch.setattr(streams, "_CLOSE_WITHIN", WITHIN)


def begin_to_stop(context: privsep.Context) -> Threads:
    """Stop a context in a thread; return when it has begun, for which is no event."""
    client = context.client
    assert client is not None
    stopping = Threads([context.stop])
    while client._connection is not None:
        os.sched_yield()
    return stopping
