"""Workers: their deaths, what they share, and how callers get one."""

from __future__ import annotations

import os
import resource
import signal
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import workload  # it adds its services
from conftest import IS_ROOT, METHOD
from observe import (
    Fifo,
    Forked,
    Release,
    Threads,
    begin_to_stop,
    call_running,
    children,
    daemon_pid,
    held,
    kill,
    wait_for_end,
)

import privsep

if TYPE_CHECKING:
    from collections.abc import Callable

    from workload import Workload

    Start = Callable[..., Workload]

__all__ = ["held"]

BOTH = pytest.mark.parametrize("name", ["leisurely", "leisurely-threads"])
RESTARTING = "exec" if IS_ROOT else "userns"


def test_a_worker_may_open_as_many_files_as_the_service(start: Start) -> None:
    # The daemon raises its own limit, and programs that use select(2) fall over a
    # limit that is higher than theirs was.
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] - 1, before[1]))
    try:
        service = start("leisurely")
        assert service.descriptor_limit() == before[1] - 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.skipif(not IS_ROOT, reason="needs root: the daemon runs as another user")
def test_a_call_for_which_the_system_has_no_worker_is_refused(start: Start) -> None:
    service = start("crowded")
    with pytest.raises(privsep.Refused, match="got no worker: Resource temporarily"):
        service.echo(1)
    with pytest.raises(privsep.Refused):  # of the same daemon: fork starts no other
        service.echo(1)


# -- deaths ------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 255])
def test_a_worker_that_exits_raises_workerdied_with_its_status(
    start: Start, status: int
) -> None:
    service = start("leisurely")
    with pytest.raises(privsep.WorkerDied, match=f"exited with {status} in") as caught:
        service.exit_with(status)
    assert (caught.value.status, caught.value.signal) == (status, None)
    assert service.echo(1) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGRTMIN])
def test_a_worker_that_a_signal_ends_raises_workerdied_with_its_number(
    start: Start, number: int
) -> None:
    service = start("leisurely")
    with pytest.raises(privsep.WorkerDied, match="was killed by SIG") as caught:
        service.kill_self(int(number))
    assert (caught.value.signal, caught.value.status) == (number, None)
    assert service.echo(1) == 1


def test_a_worker_that_dies_of_a_signal_without_a_name_raises_workerdied(
    start: Start,
) -> None:
    service = start("leisurely")
    number = signal.SIGRTMIN + 3
    with pytest.raises(privsep.WorkerDied, match=f"signal {number}") as caught:
        service.kill_self(number)
    assert caught.value.signal == number
    assert service.echo(1) == 1


def test_a_crash_in_c_code_ends_one_call_and_not_the_daemon(
    start: Start, held: Fifo, tmp_path: Path
) -> None:
    service = start("leisurely")
    with call_running(service, held, tmp_path):
        with pytest.raises(privsep.WorkerDied, match="SIGSEGV") as caught:
            service.crash()
        assert caught.value.signal == signal.SIGSEGV


def test_a_child_that_holds_the_channel_does_not_hide_its_workers_death(
    start: Start, held: Fifo, tmp_path: Path
) -> None:
    service = start("leisurely")
    with Release(tmp_path) as release:
        with pytest.raises(privsep.WorkerDied) as caught:
            service.die_before_child(9, held.path, release.path)
        assert caught.value.signal == signal.SIGKILL
        held.read_line()
        assert held.is_held()
        release.let_go()
        held.wait_until_let_go()


@BOTH
def test_an_entrypoint_whose_forked_child_returns_answers_once(
    start: Start, name: str
) -> None:
    service = start(name)
    assert service.fork_and_both_return() == "parent"
    assert service.echo(1) == 1
    assert service.echo(2) == 2


def test_a_program_that_a_thread_runs_keeps_its_exit_status(start: Start) -> None:
    service = start("leisurely-threads")
    done = [service.run_program("echo out; exit 3") for _ in range(100)]
    assert done == [(3, "out\n")] * 100


def test_a_program_that_a_process_runs_keeps_its_exit_status(start: Start) -> None:
    service = start("leisurely")
    assert service.run_program("echo out; exit 3") == (3, "out\n")


# -- what they share ---------------------------------------------------------------


def _numbers(threads: Threads) -> list[int]:
    outcomes = threads.outcomes()
    found = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert found == outcomes
    return found


def test_process_workers_do_not_share_state(start: Start, held: Fifo) -> None:
    service = start("leisurely")
    other = Threads([lambda: service.hold(held.path, 0.3)])
    held.read_line()  # two workers now
    first = service.count()
    assert first == 1
    assert other.outcomes() == ["held"]
    counts = _numbers(Threads([service.count] * 3))
    assert workload.counter == 0
    assert max(counts) <= 4


def test_thread_workers_share_state(start: Start) -> None:
    service = start("leisurely-threads")
    counts = _numbers(Threads([service.count] * 20))
    assert max(counts) >= 2
    assert service.count() > max(counts) - 1
    assert workload.counter == 0


@BOTH
def test_a_call_of_the_own_context_runs_in_place(start: Start, name: str) -> None:
    service = start(name)
    outer, inner = service.call_own()
    assert outer == inner != os.getpid()


@BOTH
def test_a_call_of_another_context_from_an_entrypoint_is_refused(
    start: Start, name: str
) -> None:
    service = start(name)
    with pytest.raises(privsep.Refused, match="belongs to context 'brisk'"):
        service.call_other()


# -- more callers than workers -----------------------------------------------------


@pytest.mark.parametrize("name", ["lonely", "lonely-threads"])
def test_eight_threads_on_one_worker_all_make_progress(start: Start, name: str) -> None:
    service = start(name)

    def call_often(thread: int) -> list[object]:
        return [service.echo((thread, number)) for number in range(50)]

    outcomes = Threads([partial(call_often, t) for t in range(8)]).outcomes()
    assert outcomes == [[(t, number) for number in range(50)] for t in range(8)]


def test_threads_that_wait_for_a_worker_get_it_in_the_order_they_came(
    start: Start, held: Fifo, tmp_path: Path
) -> None:
    service = start("lonely")
    file = tmp_path / "order"
    file.touch()
    with Release(tmp_path) as release:
        first = Threads([lambda: service.hold_until(held.path, release.path)])
        held.read_line()
        waiting = []
        for number in range(8):
            waiting.append(Threads([partial(service.append, str(file), str(number))]))
            _wait_for_turns(service, number + 1)
        release.let_go()
        for threads in [first, *waiting]:
            threads.outcomes()
    assert file.read_text().split() == [str(number) for number in range(8)]


def _wait_for_turns(service: Workload, count: int) -> None:
    """Return when so many callers stand in the pool's queue: there is no event."""
    client = service.context.client
    assert client is not None
    assert client._connection is not None
    while len(client._connection.pool._turns) < count:
        os.sched_yield()


def test_two_hundred_threads_on_four_workers_run_each_call_once(
    start: Start, tmp_path: Path
) -> None:
    service = start("leisurely")
    file = tmp_path / "runs"
    file.touch()

    def call(thread: int) -> None:
        for number in range(5):
            service.append(str(file), f"{thread}.{number}")

    outcomes = Threads([partial(call, t) for t in range(200)]).outcomes()
    assert outcomes == [None] * 200
    _assert_each_ran_once(file, 200, 5)


def _assert_each_ran_once(file: Path, callers: int, calls: int) -> None:
    runs = Counter(file.read_text().split())
    wanted = {f"{who}.{number}" for who in range(callers) for number in range(calls)}
    assert runs.keys() == wanted
    assert set(runs.values()) == {1}


@pytest.mark.parametrize("name", ["lonely", "lonely-threads", "leisurely"])
def test_client_processes_that_want_more_workers_than_there_are_lose_no_call(
    start: Start, tmp_path: Path, name: str
) -> None:
    service = start(name)
    file = tmp_path / "runs"
    file.touch()

    def call(client: int) -> None:
        def call_often(thread: int) -> None:
            for number in range(25):
                service.append(str(file), f"{client * 3 + thread}.{number}")

        outcomes = Threads([partial(call_often, t) for t in range(3)]).outcomes()
        assert outcomes == [None] * 3

    clients = [Forked(partial(call, c)) for c in range(3)]
    assert [client.wait() for client in clients] == [0] * 3
    _assert_each_ran_once(file, 9, 25)


def test_large_calls_of_contending_processes_run_once_each(
    start: Start, tmp_path: Path
) -> None:
    """A worker may be told to retire in the middle of reading one."""
    service = start("lonely")
    file = tmp_path / "runs"
    file.touch()
    ballast = "/./" * 150_000

    def call(client: int) -> None:
        for number in range(20):
            assert service.echo(ballast) == ballast
            service.append(str(file), f"{client}.{number}")

    clients = [Forked(partial(call, c)) for c in range(3)]
    assert [client.wait() for client in clients] == [0] * 3
    _assert_each_ran_once(file, 3, 20)


def test_a_client_that_keeps_an_idle_worker_does_not_starve_another(
    start: Start,
) -> None:
    service = start("lonely")
    assert service.echo(1) == 1
    assert Forked(lambda: service.echo(2)).wait() == 0
    assert service.echo(3) == 3


@BOTH
def test_a_forked_client_stops_for_itself_only(start: Start, name: str) -> None:
    service = start(name)
    assert service.echo(1) == 1

    def call_and_stop() -> None:
        assert service.echo(2) == 2
        service.context.stop()

    assert Forked(call_and_stop).wait() == 0
    assert service.echo(3) == 3


@BOTH
def test_a_client_forked_while_other_threads_call_makes_calls(
    start: Start, name: str
) -> None:
    service = start(name)

    def call_often() -> None:
        for number in range(300):
            assert service.echo(number) == number

    threads = Threads([call_often] * 3)
    clients = [Forked(lambda: service.echo(1)) for _ in range(5)]
    assert [client.wait() for client in clients] == [0] * 5
    assert threads.outcomes() == [None] * 3


# -- the daemon's death ------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("method", [METHOD, RESTARTING])
def test_a_daemon_that_dies_in_a_call_raises_daemongone(
    start: Start, held: Fifo, name: str, method: str
) -> None:
    service = start(name, method)
    calls = Threads([lambda: service.hold(held.path, 30)])
    held.read_line()
    kill(daemon_pid(method))
    (error,) = calls.outcomes()
    assert isinstance(error, privsep.DaemonGone)
    assert isinstance(error, ConnectionError)
    assert "while workload.hold() was running" in str(error)
    held.wait_until_let_go()


@pytest.mark.skipif(METHOD != "fork", reason="as root only")
@BOTH
def test_a_daemon_started_by_fork_that_is_gone_is_not_started_again(
    start: Start, name: str
) -> None:
    service = start(name)
    assert service.echo(1) == 1
    kill(daemon_pid())
    for _ in range(2):
        with pytest.raises(privsep.DaemonGone, match="cannot be started again"):
            service.echo(2)


@BOTH
def test_a_daemon_that_is_gone_is_started_again_by_the_next_call(
    start: Start, name: str
) -> None:
    service = start(name, RESTARTING)
    for number in range(3):
        assert service.echo(number) == number
        kill(daemon_pid(RESTARTING))
    assert service.echo(3) == 3


def _forked_ahead() -> int:
    """Return the pid of the worker that waits for the first call, when it is there."""
    daemon = daemon_pid()
    while not (ahead := children(daemon)):
        os.sched_yield()
    (worker,) = ahead
    return worker


def test_the_first_worker_is_forked_ahead_and_takes_the_first_call(
    start: Start,
) -> None:
    service = start("leisurely", METHOD)
    ahead = _forked_ahead()
    # In a pid namespace it has a number of its own.
    assert METHOD == "userns" or service.process_id() == ahead
    assert children(daemon_pid()) == {ahead}


def test_a_worker_that_was_forked_ahead_and_dies_is_replaced(start: Start) -> None:
    service = start("lonely", METHOD)
    kill(_forked_ahead())
    assert service.echo(1) == 1


def test_a_daemon_that_is_never_called_ends_with_its_worker(start: Start) -> None:
    service = start("leisurely", METHOD)
    ends = [os.pidfd_open(pid) for pid in (_forked_ahead(), daemon_pid())]
    service.context.stop()
    for end in ends:
        wait_for_end(end)


def test_a_daemon_killed_with_a_pool_of_idle_channels_is_replaced_at_once(
    start: Start, tmp_path: Path
) -> None:
    service = start("leisurely", RESTARTING)
    file = tmp_path / "runs"
    file.touch()
    Threads([lambda: service.sleep(0.1)] * 4).outcomes()
    kill(daemon_pid(RESTARTING))
    outcomes = Threads(
        [partial(service.append, str(file), f"{n}.0") for n in range(20)]
    ).outcomes()
    assert outcomes == [None] * 20
    _assert_each_ran_once(file, 20, 1)


def test_all_who_wait_for_a_worker_of_a_daemon_that_dies_hear_of_it(
    start: Start, held: Fifo
) -> None:
    service = start("lonely", METHOD)
    running = Threads([lambda: service.hold(held.path, 30)])
    held.read_line()
    waiting = Threads([lambda: service.echo(1)] * 8)
    _wait_for_turns(service, 8)
    kill(daemon_pid())
    assert isinstance(running.outcomes()[0], privsep.DaemonGone)
    for outcome in waiting.outcomes():
        if METHOD == "fork":
            assert isinstance(outcome, privsep.DaemonGone), repr(outcome)
        else:
            assert outcome == 1


def test_a_child_of_a_thread_does_not_hide_the_daemons_death(
    start: Start, held: Fifo, tmp_path: Path
) -> None:
    service = start("leisurely-threads", "exec" if IS_ROOT else "userns")
    with Release(tmp_path) as release, Fifo(tmp_path, "call") as call:
        service.fork_and_stay(held.path, release.path)
        held.read_line()
        running = Threads([lambda: service.hold(call.path, 30)])
        call.read_line()
        pid = daemon_pid(RESTARTING)
        pidfd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        wait_for_end(pidfd)
        (outcome,) = running.outcomes()
        assert isinstance(outcome, privsep.DaemonGone)
        assert service.echo(1) == 1
        release.let_go()
        held.wait_until_let_go()


def test_stop_while_callers_wait_leaves_no_call_without_an_end(
    start: Start, held: Fifo, tmp_path: Path
) -> None:
    service = start("lonely", RESTARTING)
    with Release(tmp_path) as release:
        running = Threads([lambda: service.hold_until(held.path, release.path)])
        held.read_line()
        waiting = Threads([lambda: service.echo(1)] * 4)
        _wait_for_turns(service, 4)
        stopping = begin_to_stop(service.context)
        release.let_go()
        assert running.outcomes() == ["go"]
        assert stopping.outcomes() == [None]
        for outcome in waiting.outcomes():
            assert outcome == 1 or isinstance(outcome, privsep.PrivsepError), repr(
                outcome
            )


# -- the surroundings --------------------------------------------------------------


@pytest.mark.skipif(METHOD != "fork", reason="the limit is set in a client that forks")
def test_a_service_with_a_lower_limit_of_memory_than_the_context_works(
    start: Start,
) -> None:
    def limited() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        # This process has what threads of other tests have left it, too.
        most = pages * resource.getpagesize() + 2 * 1024 * workload.MEBIBYTE
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        service = start("leisurely")
        assert service.echo(1) == 1
        service.context.stop()

    assert Forked(limited).wait() == 0


@BOTH
def test_the_workers_end_with_the_daemon(start: Start, name: str) -> None:
    service = start(name)
    Threads([lambda: service.sleep(0.05)] * 4).outcomes()
    service.context.stop()
    assert not children(os.getpid())
