"""How it ends: clients and daemons that go, and signals in the middle of a call."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from observe import WITHIN, Fifo, Release, daemon_pid
from procfs import open_files

import privsep
import scripts

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from service import Service


either_method = pytest.mark.parametrize("method", ["fork", "exec"])


class Watched:
    """A process whose end is awaited."""

    def __init__(self, pid: int) -> None:
        self._pidfd = os.pidfd_open(pid)

    def is_gone(self) -> bool:
        """Wait for its end; return whether it came."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        ended = bool(poll.poll(WITHIN * 1000))
        os.close(self._pidfd)
        return ended


def daemon_of(worker: int) -> int:
    with open(f"/proc/{worker}/status") as file:
        return int(next(x for x in file if x.startswith("PPid")).split()[1])


_BY_THE_KERNEL = re.compile("@[0-9a-f]{5}")  # of sockets that pass credentials


def names_of_sockets(pid: int) -> list[str]:
    """Return the names that a process gave its sockets, if we may see what it has."""
    files: set[str] = set()
    with suppress(PermissionError):  # a daemon's are for root to see
        files.update(open_files(pid).values())
    with open("/proc/net/unix") as file:
        rows = [line.split() for line in file]
    names = [row[7] for row in rows if len(row) > 7 and f"socket:[{row[6]}]" in files]
    return [name for name in names if not _BY_THE_KERNEL.fullmatch(name)]


@pytest.fixture
def fifos(tmp_path: Path) -> tuple[Path, Path]:
    """Two fifos: the call has begun; the call may end."""
    begun, go_on = tmp_path / "begun", tmp_path / "go_on"
    os.mkfifo(begun)
    os.mkfifo(go_on)
    return begun, go_on


# -- the client goes -----------------------------------------------------------

CALLED = """
import os, sys, service
started = service.services["plain"]
started.context.start(sys.argv[1])
print(started.process_id(), flush=True)
sys.stdin.readline()
"""


@either_method
@pytest.mark.parametrize(
    "end", ["", "sys.exit(3)", "os._exit(0)", "os.kill(os.getpid(), 9)", "os.abort()"]
)
def test_daemon_and_worker_go_when_the_client_ends(method: str, end: str) -> None:
    with scripts.begin(CALLED + end, method, stdin=-1) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        worker = int(client.stdout.readline())
        watched = [Watched(worker), Watched(daemon_of(worker))]
        for pid in (client.pid, worker, daemon_of(worker)):
            assert not names_of_sockets(pid)
        client.communicate("\n")
    assert [one.is_gone() for one in watched] == [True, True]


IN_CALL = """
import sys, service
started = service.services["plain"]
started.context.start(sys.argv[1])
getattr(started, sys.argv[2])(*sys.argv[3:])
"""


@either_method
def test_a_call_whose_client_is_killed_is_finished_and_then_the_daemon_goes(
    method: str, fifos: tuple[Path, Path], tmp_path: Path
) -> None:
    begun, go_on = fifos
    finished = tmp_path / "finished"
    os.mkfifo(finished)
    arguments = "open_wait_and_tell", begun, go_on, finished
    with scripts.begin(IN_CALL, method, *arguments) as client:
        worker = int(begun.read_text())
        watched = [Watched(worker), Watched(daemon_of(worker))]
        client.kill()
    go_on.write_text("go on")
    assert finished.read_text() == "go on"
    assert [one.is_gone() for one in watched] == [True, True]


BRIEF_CALLS = """
import os, sys, privsep, service
started = service.services["plain"]
started.context.start(sys.argv[1])
print(started.process_id(), flush=True)
sys.stdin.readline()
while True:  # on a busy machine a call may be over before it begins
    try:
        started.open_and_wait_briefly(*sys.argv[2:])
    except privsep.CallTimeout:
        pass
"""


@either_method
def test_a_call_whose_client_is_killed_ends_with_its_deadline(
    method: str, fifos: tuple[Path, Path]
) -> None:
    begun, never = fifos
    with scripts.begin(BRIEF_CALLS, method, begun, never, stdin=-1) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        watched = [Watched(daemon_of(int(client.stdout.readline())))]
        client.stdin.write("\n")
        client.stdin.flush()
        while not (pid := begun.read_text()):
            pass  # a worker was killed before it wrote
        with suppress(ProcessLookupError):  # its deadline has come
            watched.append(Watched(int(pid)))
        client.kill()
    assert all(one.is_gone() for one in watched)


@either_method
def test_workers_go_when_their_daemon_is_killed(
    start: Callable[..., Service], method: str
) -> None:
    service = start("plain", method)
    worker = service.process_id()
    daemon, watched = daemon_of(worker), Watched(worker)
    os.kill(daemon, signal.SIGKILL)
    assert watched.is_gone()


# -- the daemon is told to go --------------------------------------------------


@either_method
def test_a_running_call_is_finished_after_sigterm_to_the_daemon(
    start: Callable[..., Service], method: str, fifos: tuple[Path, Path]
) -> None:
    service = start("plain", method)
    begun, go_on = fifos
    with ThreadPoolExecutor() as threads:
        running = threads.submit(service.open_and_wait, str(begun), str(go_on))
        daemon = daemon_of(int(begun.read_text()))
        watched = Watched(daemon)
        os.kill(daemon, signal.SIGTERM)
        go_on.write_text("went on")
        assert running.result() == "went on"
    assert watched.is_gone()


def test_the_next_call_after_sigterm_starts_the_daemon_again(
    start: Callable[..., Service],
) -> None:
    service = start("plain", "exec")
    daemon = daemon_of(service.process_id())
    watched = Watched(daemon)
    os.kill(daemon, signal.SIGTERM)
    assert watched.is_gone()
    assert service.echo("again") == "again"
    assert daemon_of(service.process_id()) != daemon


def test_a_daemon_that_was_forked_is_not_started_again_by_a_call(
    start: Callable[..., Service],
) -> None:
    service = start("plain", "fork")
    daemon = daemon_of(service.process_id())
    watched = Watched(daemon)
    os.kill(daemon, signal.SIGTERM)
    assert watched.is_gone()
    with pytest.raises(privsep.DaemonGone, match="cannot be started again by a call"):
        service.echo(1)


# -- signals in the middle of a call -------------------------------------------


class Interruption(Exception):
    """Raised by a signal's handler."""


@contextmanager
def handler(number: int, handle: Callable[..., object]) -> Generator[None]:
    before = signal.signal(number, handle)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def signal_when_begun(
    begun: Path, number: int, go_on: Path | None = None
) -> Generator[None]:
    """Send the main thread a signal when the call has begun; then let it go on."""
    main = threading.get_ident()

    def send() -> None:
        begun.read_text()
        signal.pthread_kill(main, number)
        if go_on is not None:
            go_on.write_text("went on")

    thread = threading.Thread(target=send)
    thread.start()
    yield
    thread.join()


@pytest.mark.parametrize("name", ["single", "threaded"])
def test_a_handler_that_returns_leaves_the_call_alone(
    start: Callable[..., Service], name: str, fifos: tuple[Path, Path]
) -> None:
    service = start(name)
    begun, go_on = fifos
    handled = []
    with (
        handler(signal.SIGUSR1, lambda *_: handled.append(1)),
        signal_when_begun(begun, signal.SIGUSR1, go_on),
    ):
        assert service.open_and_wait(str(begun), str(go_on)) == "went on"
    assert handled == [1]
    assert service.echo(1) == 1


@pytest.mark.parametrize("kind", [Interruption, KeyboardInterrupt, SystemExit])
def test_a_handler_that_raises_ends_the_call_and_its_worker(
    start: Callable[..., Service],
    kind: type[BaseException],
    fifos: tuple[Path, Path],
) -> None:
    # The only worker is killed; left alone, it would keep the next call waiting.
    service = start("single")
    before = service.process_id()
    begun, never = fifos

    def handle(*_: object) -> None:
        raise kind("stop")

    with (
        handler(signal.SIGUSR1, handle),
        signal_when_begun(begun, signal.SIGUSR1),
        pytest.raises(kind, match="stop"),
    ):
        service.open_and_wait(str(begun), str(never))
    assert service.echo("next") == "next"
    assert service.process_id() != before


def test_ctrl_c_ends_the_call_and_not_the_daemon(
    start: Callable[..., Service], fifos: tuple[Path, Path]
) -> None:
    service = start("single")
    begun, never = fifos
    with (
        handler(signal.SIGINT, signal.default_int_handler),
        signal_when_begun(begun, signal.SIGINT),
        pytest.raises(KeyboardInterrupt),
    ):
        service.open_and_wait(str(begun), str(never))
    assert service.echo("next") == "next"


def test_ctrl_c_while_the_thread_of_the_log_starts_leaves_one(
    start: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = start("single")
    before = threading.active_count()
    start_thread = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        monkeypatch.undo()
        start_thread(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        service.echo(1)
    assert service.echo(2) == 2
    assert threading.active_count() == before + 1


@contextmanager
def storm() -> Generator[list[int]]:
    """SIGALRM every millisecond, to a handler that returns."""
    handled: list[int] = []
    with handler(signal.SIGALRM, lambda *_: handled.append(1)):
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            yield handled
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def test_a_storm_of_signals_changes_no_result(either: Service) -> None:
    large = os.urandom(8 << 20)
    with storm() as handled:
        assert either.sleep(0.5) == "slept"
        assert either.echo(large) == large
        assert [either.echo(n) for n in range(200)] == list(range(200))
        while len(handled) < 100:
            assert either.echo(1) == 1


def test_a_storm_of_signals_does_not_put_off_the_deadline(either: Service) -> None:
    with storm(), pytest.raises(privsep.CallTimeout):
        either.short_sleep(60.0)


@either_method
def test_a_default_timeout_of_sockets_is_no_deadline_of_calls(method: str) -> None:
    lines = scripts.run(
        """
        import socket, sys, service
        socket.setdefaulttimeout(0.1)
        started = service.services["plain"]
        started.context.start(sys.argv[1])
        print(started.sleep(0.3))
        started.context.stop()
        """,
        method,
    )
    assert lines == ["slept"]


def test_a_call_that_overruns_while_the_daemon_is_let_go_of_says_so(
    plain: Service, tmp_path: Path
) -> None:
    with (
        Fifo(tmp_path, "begun") as begun,
        Release(tmp_path) as release,
        ThreadPoolExecutor(1) as threads,
    ):
        call = threads.submit(plain.open_and_wait_briefly, begun.path, release.path)
        # On a busy machine it may be over before it begins.
        call.add_done_callback(lambda _: Path(begun.path).write_text("over"))
        begun.wait_until_let_go()
        plain.context.stop()
        with pytest.raises(privsep.CallTimeout):
            call.result()


def test_a_call_that_cannot_even_be_asked_for_ends(plain: Service) -> None:
    plain.echo(1)
    pid = daemon_pid()
    client = plain.context.client
    assert client is not None
    control = client.ensure_started()._control
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(BlockingIOError):
            while True:
                control.send(b"x", socket.MSG_DONTWAIT)
        with (
            ThreadPoolExecutor(2) as threads,
            pytest.raises(privsep.CallTimeout, match=r"took no request|not gone"),
        ):
            calls = [threads.submit(plain.short_sleep, 5) for _ in range(2)]
            done, _ = wait(calls, WITHIN)
            os.kill(pid, signal.SIGCONT)
            assert len(done) == 2
            calls[1].result()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert plain.echo(2) == 2


def test_a_channel_that_a_signals_handler_took_from_its_call_is_replaced(
    start: Callable[..., Service],
) -> None:
    service = start("single")
    service.echo(1)
    client = service.context.client
    assert client is not None
    # As a handler that raises between two steps of a call, which cannot be timed.
    lost = client.ensure_started().pool.idle.pop()
    sockets = lost.sock, lost.fate
    del lost
    assert service.echo(2) == 2
    for sock in sockets:
        sock.close()
