"""A call ends by its deadline, whatever the function does."""

from __future__ import annotations

import os
import re
import select
import signal
import threading
from contextlib import suppress
from time import monotonic, sleep
from typing import TYPE_CHECKING

import pytest
import workload  # noqa: F401 - it adds its services
from conftest import IS_ROOT
from observe import (
    WITHIN,
    Fifo,
    Forked,
    Release,
    Threads,
    call_running,
    daemon_pid,
    held,
)

import privsep
from privsep._client import channel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from workload import Workload

    Start = Callable[[str], Workload]

__all__ = ["held"]

#: Of what a test sees or is told once a worker is killed, or has been asked for.
told = pytest.mark.usefixtures("what_became_is_told")

LONG = 2 * WITHIN  #: seconds; what ends with it only has not been ended


@pytest.fixture
def what_became_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have callers wait for what became of a worker while the daemon stands still.

    On a busy machine it may do so for the second that they would wait, and then
    they know nothing.
    """
    monkeypatch.setattr(channel, "_FATE_TIMEOUT", WITHIN)


def in_time(call: Callable[[], object]) -> None:
    """Make a call whose deadline of 0.3 seconds a busy machine may let pass.

    Nothing may end it earlier.
    """
    begun = monotonic()
    try:
        call()
    except privsep.CallTimeout:
        assert monotonic() - begun >= 0.3


def overrun(service: Workload, call: Callable[[], object], held: Fifo) -> str:
    """Make a call that holds `held` and overruns; return what is said of it.

    On a busy machine its deadline may pass before it begins: then it is made again.
    """
    while True:
        service.patient_sleep(0)  # a worker is there, and begins at once
        with pytest.raises(privsep.CallTimeout) as caught:
            call()
        if held.was_written_to():
            return str(caught.value)


# -- process workers ---------------------------------------------------------------


def test_an_overrunning_call_raises_calltimeout_which_is_a_timeouterror(
    start: Start,
) -> None:
    service = start("brisk")
    service.patient_sleep(0)  # a worker is there
    begun = monotonic()
    with pytest.raises(TimeoutError, match=r"sleep\(\) did not end in time") as caught:
        service.sleep(30)
    assert isinstance(caught.value, privsep.CallTimeout)
    assert monotonic() - begun > 0.25


@told
def test_an_overrunning_worker_is_gone_when_calltimeout_is_raised(
    start: Start, held: Fifo
) -> None:
    service = start("brisk")
    said = overrun(service, lambda: service.hold(held.path, LONG), held)
    assert not held.is_held()
    assert re.search(r"its worker \d+ was killed", said)


def test_a_program_that_the_overrunning_call_started_is_killed_too(
    start: Start, held: Fifo
) -> None:
    service = start("brisk")
    overrun(service, lambda: service.hold_with_program(held.path), held)
    held.wait_until_let_go()


@pytest.mark.parametrize("name", ["brisk", "brisk-threads"])
def test_the_next_call_after_a_timeout_works(start: Start, name: str) -> None:
    service = start(name)
    with pytest.raises(privsep.CallTimeout):
        service.sleep(LONG)
    assert service.patient_sleep(0) == "slept"


@told
def test_a_worker_that_ignores_and_blocks_all_signals_is_killed(
    start: Start, held: Fifo
) -> None:
    service = start("brisk")
    overrun(service, lambda: service.hold_and_ignore_signals(held.path), held)
    assert not held.is_held()


@told
def test_a_worker_that_never_gives_up_the_interpreter_is_killed(
    start: Start, held: Fifo
) -> None:
    service = start("brisk")
    overrun(service, lambda: service.hold_the_interpreter(held.path), held)
    assert not held.is_held()
    assert service.patient_sleep(0) == "slept"


def test_an_overrunning_call_does_not_touch_other_calls(
    start: Start, tmp_path: Path
) -> None:
    service = start("leisurely")
    with Release(tmp_path) as release, Fifo(tmp_path, "fifo") as fifo:
        other = Threads([lambda: service.hold_until(fifo.path, release.path)])
        fifo.read_line()
        with pytest.raises(privsep.CallTimeout):
            service.short_sleep(30)
        release.let_go()
        assert other.outcomes() == ["go"]


# -- detached children -------------------------------------------------------------


def test_a_child_that_a_detaching_entrypoint_leaves_outlives_its_worker(
    start: Start, tmp_path: Path
) -> None:
    service = start("leisurely")
    with (
        Release(tmp_path) as release,
        Fifo(tmp_path, "worker") as worker,
        Fifo(tmp_path, "child") as child,
    ):
        left = service.leave_child(worker.path, child.path, release.path)
        assert left == "left"
        worker.wait_until_let_go()
        child.read_line()
        assert service.echo(1) == 1
        assert child.is_held()
        release.let_go()
        child.wait_until_let_go()


@told
def test_a_child_that_an_overrunning_detaching_entrypoint_leaves_is_not_killed(
    start: Start, tmp_path: Path
) -> None:
    service = start("brisk")
    with (
        Release(tmp_path) as release,
        Fifo(tmp_path, "worker") as worker,
        Fifo(tmp_path, "child") as child,
    ):
        words = worker.path, child.path, release.path
        overrun(service, lambda: service.leave_child_then_overrun(*words), worker)
        child.read_line()
        assert not worker.is_held()
        assert child.is_held()
        release.let_go()
        child.wait_until_let_go()


@pytest.mark.skipif(not IS_ROOT, reason="a pid namespace ends with its daemon")
def test_the_daemon_can_be_stopped_while_a_detached_child_lives(
    start: Start, tmp_path: Path
) -> None:
    service = start("leisurely")
    with (
        Release(tmp_path) as release,
        Fifo(tmp_path, "worker") as worker,
        Fifo(tmp_path, "child") as child,
    ):
        service.leave_child(worker.path, child.path, release.path)
        child.read_line()
        (outcome,) = Threads([service.context.stop]).outcomes()
        assert outcome is None
        assert child.is_held()
        release.let_go()
        child.wait_until_let_go()


# -- thread workers ----------------------------------------------------------------


@pytest.fixture
def brisk_threads(start: Start) -> Workload:
    """A service that has a thread, so that a call begins at once."""
    service = start("brisk-threads")
    service.patient_sleep(0)
    return service


@told
def test_a_thread_that_overruns_goes_on_and_the_error_says_so(
    brisk_threads: Workload, held: Fifo, tmp_path: Path
) -> None:
    with Release(tmp_path) as release:
        with pytest.raises(privsep.CallTimeout, match="it goes on running in its"):
            brisk_threads.hold_until(held.path, release.path)
        assert held.read_line()
        assert held.is_held()
        release.let_go()
        held.wait_until_let_go()


@told
def test_the_worker_of_an_overrunning_thread_is_taken_until_it_ends(
    start: Start, held: Fifo, tmp_path: Path
) -> None:
    service = start("lonely-threads")
    with Release(tmp_path) as release:
        overrunning = Forked(lambda: _be_interrupted(service, held, release))
        held.read_line()
        os.kill(overrunning.pid, signal.SIGALRM)
        assert overrunning.wait() == 0
        with pytest.raises(privsep.CallTimeout, match="did not start in time"):
            service.short_sleep(0)
        release.let_go()
        held.wait_until_let_go()
    assert service.echo(1) == 1


def _be_interrupted(service: Workload, held: Fifo, release: Release) -> None:
    """Make a call and, on SIGALRM, ask for its kill: an exception in the caller."""

    class Interrupted(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    signal.signal(signal.SIGALRM, interrupt)
    with pytest.raises(Interrupted):
        service.hold_until(held.path, release.path)


def test_other_calls_go_on_while_a_thread_overruns(
    brisk_threads: Workload, held: Fifo, tmp_path: Path
) -> None:
    with Release(tmp_path) as release:
        with pytest.raises(privsep.CallTimeout):
            brisk_threads.hold_until(held.path, release.path)
        assert [brisk_threads.patient_sleep(0) for _ in range(10)] == ["slept"] * 10
        release.let_go()
        held.wait_until_let_go()


def test_a_thread_that_never_gives_up_the_interpreter_still_ends_the_call(
    brisk_threads: Workload, held: Fifo
) -> None:
    # On a busy machine the deadline may pass before the interpreter is held.
    late = "the daemon is stopped|it goes on running"
    with pytest.raises(privsep.CallTimeout, match=late):
        brisk_threads.hold_the_interpreter(held.path)
    held.read_line()
    os.kill(daemon_pid(), signal.SIGKILL)
    held.wait_until_let_go()


# -- which deadline ----------------------------------------------------------------


def test_an_entrypoint_has_its_own_deadline(start: Start) -> None:
    service = start("leisurely")
    with pytest.raises(privsep.CallTimeout):
        service.short_sleep(30)


@pytest.mark.parametrize("name", ["brisk", "brisk-threads"])
def test_timeout_none_means_no_deadline(start: Start, name: str) -> None:
    service = start(name)
    in_time(lambda: service.echo(1))
    assert service.patient_sleep(0.7) == "slept"


def test_a_call_without_deadline_survives_the_look_for_an_earlier_calls_deadline(
    start: Start,
) -> None:
    service = start("endless")
    in_time(lambda: service.short_sleep(0))
    assert service.sleep(0.7) == "slept"
    assert service.echo(1) == 1


def test_a_deadline_beyond_all_bounds_is_as_good_as_none(start: Start) -> None:
    service = start("aeon")
    in_time(lambda: service.short_sleep(0))
    assert service.sleep(0.7) == "slept"
    assert service.echo(1) == 1


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_deadline_of_nothing_is_an_error(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        privsep.Context("timeless", capabilities=[], timeout=timeout)


# -- waiting for a worker ----------------------------------------------------------


@pytest.mark.parametrize("name", ["lonely", "lonely-threads"])
def test_a_call_that_gets_no_worker_in_time_says_that_it_did_not_start(
    start: Start, held: Fifo, tmp_path: Path, name: str
) -> None:
    service = start(name)
    with (
        call_running(service, held, tmp_path),
        pytest.raises(privsep.CallTimeout, match="did not start in time"),
    ):
        service.short_sleep(0)


@told
@pytest.mark.parametrize("name", ["lonely", "lonely-threads"])
def test_a_call_of_another_process_that_gets_no_worker_says_so_too(
    start: Start, held: Fifo, tmp_path: Path, name: str
) -> None:
    service = start(name)

    def wait_in_vain() -> None:
        with pytest.raises(privsep.CallTimeout, match="did not start in time"):
            service.short_sleep(0)

    with call_running(service, held, tmp_path):
        assert Forked(wait_in_vain).wait() == 0


def test_waiting_for_a_worker_counts_toward_the_deadline(
    start: Start, held: Fifo, tmp_path: Path
) -> None:
    service = start("lonely")
    with call_running(service, held, tmp_path):
        waiting = Threads([lambda: service.short_sleep(0.29)])
        client = service.context.client
        assert client is not None
        pool = client.ensure_started().pool
        while not pool._turns and not waiting.has_ended():
            os.sched_yield()
        select.select([], [], [], 0.05)  # so much of its 0.3 seconds is gone
    (outcome,) = waiting.outcomes()
    assert isinstance(outcome, privsep.CallTimeout)


# -- who enforces it ---------------------------------------------------------------


def test_the_supervisor_kills_the_worker_of_a_client_that_is_stopped(
    start: Start, held: Fifo, tmp_path: Path
) -> None:
    service = start("brisk")
    seen = tmp_path / "seen"

    def call() -> None:
        while not seen.exists():  # a busy machine ends some before they begin
            with pytest.raises(privsep.CallTimeout):
                service.hold(held.path, LONG)

    client = Forked(call)
    held.read_line()
    os.kill(client.pid, signal.SIGSTOP)
    seen.touch()
    held.wait_until_let_go()
    os.kill(client.pid, signal.SIGCONT)
    assert client.wait() == 0


def test_the_supervisor_kills_the_worker_of_a_client_that_is_gone(
    start: Start, held: Fifo
) -> None:
    service = start("brisk")
    client = Forked(lambda: _call_until_killed(lambda: service.hold(held.path, LONG)))
    held.read_line()
    os.kill(client.pid, signal.SIGKILL)
    assert client.wait() == -signal.SIGKILL
    held.wait_until_let_go()


def test_a_stopped_daemon_does_not_keep_the_caller(start: Start, held: Fifo) -> None:
    service = start("brisk")
    assert service.patient_sleep(0) == "slept"
    daemon = daemon_pid()
    os.kill(daemon, signal.SIGSTOP)
    try:
        with pytest.raises(privsep.CallTimeout, match="the daemon is stopped"):
            service.hold(held.path, LONG)
        held.read_line()
    finally:
        os.kill(daemon, signal.SIGCONT)
    held.wait_until_let_go()
    assert service.patient_sleep(0) == "slept"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, TimeoutError, ConnectionError])
def test_a_signal_handler_that_raises_ends_the_call_and_its_worker(
    start: Start, held: Fifo, kind: type[BaseException]
) -> None:
    service = start("leisurely")

    def interrupt(*_: object) -> None:
        raise kind("of the handler")

    def interrupt_when_begun() -> None:
        held.read_line()
        signal.pthread_kill(main, signal.SIGALRM)

    main = threading.get_ident()
    before = signal.signal(signal.SIGALRM, interrupt)
    interrupter = Threads([interrupt_when_begun])
    try:
        with pytest.raises(kind, match="of the handler"):
            service.hold(held.path, LONG)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupter.outcomes() == [None]
    held.wait_until_let_go()
    assert service.echo(1) == 1


# -- what came before --------------------------------------------------------------


def _call_until_killed(call: Callable[[], object]) -> None:
    """Make a call that is to begin; on a busy machine it may end before it does."""
    while True:
        with suppress(privsep.CallTimeout):
            call()


def _assert_killed_in_time(call: Callable[[], object], held: Fifo) -> None:
    """Make a call in a client that is stopped at once; the supervisor ends it."""
    client = Forked(lambda: _call_until_killed(call))
    held.read_line()
    os.kill(client.pid, signal.SIGSTOP)
    held.wait_until_let_go()
    os.kill(client.pid, signal.SIGKILL)
    client.wait()


def test_a_thousand_short_calls_before_do_not_put_off_the_deadline(
    start: Start, held: Fifo
) -> None:
    service = start("brisk")

    def call() -> None:
        for _ in range(1000):
            in_time(lambda: service.echo(1))
        service.hold(held.path, LONG)

    _assert_killed_in_time(call, held)


def test_calls_that_take_most_of_their_deadline_each_do_not_add_up(
    start: Start,
) -> None:
    service = start("brisk")
    for _ in range(6):
        in_time(lambda: service.sleep(0.18))


def test_an_overrun_after_calls_that_took_most_of_their_deadline_is_found(
    start: Start, held: Fifo
) -> None:
    service = start("brisk")

    def call() -> None:
        for _ in range(3):
            in_time(lambda: service.sleep(0.18))
        service.hold(held.path, LONG)

    _assert_killed_in_time(call, held)


@pytest.mark.parametrize("gap", [0.1, 0.29, 0.3, 0.31, 0.5])
def test_an_overrun_after_an_idle_gap_is_found(
    start: Start, held: Fifo, gap: float
) -> None:
    service = start("brisk")

    def call() -> None:
        in_time(lambda: service.echo(1))
        sleep(gap)
        service.hold(held.path, LONG)

    _assert_killed_in_time(call, held)


@pytest.mark.parametrize("gap", [0.0, 0.29, 0.31])
def test_a_stopped_clients_short_call_after_long_ones_is_ended_by_the_supervisor(
    start: Start, held: Fifo, gap: float
) -> None:
    """The short deadline lies before the look that the long one asked for."""
    service = start("leisurely")

    def call() -> None:
        service.echo(1)
        in_time(lambda: service.short_sleep(0))
        sleep(gap)
        service.echo(1)
        service.short_hold(held.path, LONG)

    _assert_killed_in_time(call, held)


def test_a_look_at_another_calls_deadline_takes_the_place_of_none_that_was_asked_for(
    start: Start, held: Fifo
) -> None:
    """It found the worker idle, before a call that relied on the look to come."""
    service = start("brisk")

    def call() -> None:
        begun = monotonic()

        def wait_until(seconds: float) -> None:
            sleep(max(0.0, begun + seconds - monotonic()))

        service.echo(1)  # asks for a look at 0.3
        wait_until(0.12)
        in_time(lambda: service.short_sleep(0.22))  # that sees its deadline, 0.42
        service.echo(1)  # asks for a look at 0.64 or later
        wait_until(0.5)  # at 0.42 it is idle
        service.hold(held.path, LONG)

    _assert_killed_in_time(call, held)
