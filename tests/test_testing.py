"""`privsep.testing`: a user's tests run real code, see the calls, and kill daemons."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import failing
import forks
import pytest
import tested
from conftest import IS_ROOT, METHOD
from tested import Account, Shell

import privsep
from privsep._testing import faults
from privsep.testing import Call, Daemon, Mode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    Begin = Callable[..., Daemon]

pytest_plugins = ["pytester"]

PAGE = Path(__file__).parent.parent / "docs" / "testing.md"
FORK = pytest.param(
    "fork",
    marks=pytest.mark.skipif(not IS_ROOT, reason="a daemon by fork needs root here"),
)


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Return a function that begins to run a context in a mode."""
    with ExitStack() as stack:
        yield lambda context, mode: stack.enter_context(Daemon(context, mode))


@pytest.fixture(params=["in-process", FORK, "userns"])
def mode(request: pytest.FixtureRequest) -> Mode:
    mode: Mode = request.param
    return mode


@pytest.fixture
def daemon(begin: Begin, mode: Mode) -> Daemon:
    return begin(tested.context, mode)


@pytest.fixture
def in_process(begin: Begin) -> Daemon:
    return begin(tested.context, "in-process")


# -- what holds in each mode -------------------------------------------------------


def test_what_crosses_in_a_real_daemon_crosses_and_nothing_else(
    daemon: Daemon,
) -> None:
    value: dict[Any, Any] = {"a": [1, (2.5, {3}), b"x" * 2_000_000], (1,): Path("/x")}
    back = tested.echo(value)
    assert back == value
    assert back is not value
    for wrong in (object(), Shell.SH, Account("ann")):
        with pytest.raises(privsep.Unserializable, match="argument 1 holds a"):
            tested.echo(wrong)
    with pytest.raises(privsep.Refused, match="parameter text: expected str, got int"):
        tested.fail(cast("str", 3))
    with pytest.raises(TypeError, match="missing 1 required"):
        cast("Any", tested.fail)()
    read_end, write_end = os.pipe()
    os.close(write_end)
    echo: Any = tested.echo
    with privsep.Fd(read_end) as file, echo(file) as duplicate:
        assert duplicate.fileno() != file.fileno()
        assert os.path.sameopenfile(duplicate.fileno(), file.fileno())
    with pytest.raises(LookupError, match="no luck") as caught:
        tested.fail("no luck")
    assert "in fail" in str(caught.value.__cause__)


def test_streams_and_awaited_calls_run_and_are_on_record(daemon: Daemon) -> None:
    assert list(tested.numbers(50)) == list(range(50))
    assert asyncio.run(tested.later(Account("ann"))) == Account("ann")
    assert asyncio.run(privsep.aio(tested.echo)(1)) == 1
    assert daemon.calls == [
        Call(tested.numbers, 50),
        Call(tested.later, Account("ann")),
        Call(tested.echo, 1),
    ]


@pytest.mark.parametrize("fault", ["before", "during", "after"])
def test_a_daemon_dies_in_a_stream(begin: Begin, mode: Mode, fault: str) -> None:
    daemon = begin(tested.context, mode)
    tested.context.start("exec")
    daemon.dies(**{fault: 1})
    with pytest.raises(privsep.DaemonGone) if fault != "before" else nullcontext():
        list(tested.numbers(50))
    assert list(tested.numbers(50)) == list(range(50))


def test_a_stream_that_is_to_die_at_its_end_hears_what_it_is_sent(
    daemon: Daemon,
) -> None:
    daemon.dies(after=1)

    async def converse() -> list[object]:
        stream = tested.replies_later()
        heard: list[object] = [
            await anext(stream),
            await stream.asend(1),
            await stream.athrow(LookupError("two")),
        ]
        with pytest.raises(privsep.DaemonGone):
            await stream.asend("enough")
        return heard

    assert asyncio.run(converse()) == [
        "heard None",
        "heard 1",
        "heard LookupError('two')",
    ]


def test_max_message_counts(begin: Begin, mode: Mode) -> None:
    begin(tested.small, mode)
    for arguments in (("x" * 1001, 1), ("x", 1001)):
        with pytest.raises(privsep.MessageTooLarge, match="limit is 1000"):
            tested.repeat(*arguments)
    assert tested.repeat("x", 100) == "x" * 100


def test_objects_cross_by_their_annotations_and_are_recorded_as_given(
    daemon: Daemon,
) -> None:
    ann, secret = Account("ann"), privsep.Secret("opensesame")
    assert tested.add(ann, secret, uid=7) == Account("ann7")
    assert ann == Account("ann")
    with pytest.raises(LookupError) as caught:
        tested.fail("no luck")
    first, second = daemon.calls
    assert first == Call(tested.add, ann, secret, uid=7)
    assert (first.result, first.error) == (Account("ann7"), None)
    assert second == Call("tested.fail", "no luck")
    assert (second.result, second.error) == (None, caught.value)
    assert "opensesame" not in repr(daemon.calls)
    assert repr(second) == "tested.fail('no luck')"


def test_records_reach_the_tests_own_loggers(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    tested.say("a word")
    assert caplog.record_tuples == [("tested", logging.WARNING, "a word")]
    del daemon


def test_an_entrypoint_calls_its_own_context_in_place_and_no_other(
    daemon: Daemon, begin: Begin, mode: Mode
) -> None:
    begin(tested.other, mode)
    assert tested.call_echo(1) == [1]
    with pytest.raises(privsep.Refused, match="belongs to context 'tested-other'"):
        tested.call_other()
    assert tested.of_other() == "other"
    assert daemon.calls == [Call(tested.call_echo, 1), Call(tested.call_other)]


def test_a_call_that_overruns_raises_calltimeout(daemon: Daemon, mode: Mode) -> None:
    tested.echo("first")  # so that there is a worker
    reader, writer = os.pipe()
    with privsep.Fd(reader) as pipe, pytest.raises(privsep.CallTimeout) as caught:
        tested.read_briefly(pipe)
    os.close(writer)
    said = "goes on running" if mode == "in-process" else "was killed"
    assert said in str(caught.value)
    assert tested.echo("next") == "next"
    assert [call.error for call in daemon.calls] == [None, caught.value, None]


def test_where_a_function_runs_is_as_the_mode_says(daemon: Daemon, mode: Mode) -> None:
    uid, capabilities = tested.user()
    if mode == "in-process":
        assert tested.process() == os.getpid()
        assert uid == os.getuid()
    else:
        assert tested.process() != os.getpid()
        assert int(capabilities, 16) == 0
        assert tested.context.status().method == mode
    assert tested.context.client is not None
    assert (
        daemon.calls == [Call(tested.user), Call(tested.process)][: len(daemon.calls)]
    )


def test_the_service_may_start_and_stop_it_by_any_method(daemon: Daemon) -> None:
    for method in ("fork", "exec", "sudo", "auto"):
        tested.context.start(method)
        with pytest.raises(privsep.StartError, match="is started already"):
            tested.context.start(method)
        assert tested.echo(method) == method
        tested.context.stop()
    with pytest.raises(ValueError, match="no start method 'frok'"):
        tested.context.start("frok")  # type: ignore[arg-type]
    assert len(daemon.calls) == 4


# -- daemons that die ------------------------------------------------------------------

_EFFECTS = {"before": "", "during": "first ", "after": "first second "}


@pytest.mark.parametrize("fault", _EFFECTS)
def test_a_daemon_that_dies_has_done_so_much_and_is_started_again(
    daemon: Daemon, tmp_path: Path, fault: str
) -> None:
    path = tmp_path / "steps"
    assert tested.echo(1) == 1
    daemon.dies(**{fault: 2})
    if fault == "before":
        assert tested.steps(path) == "done"
        assert path.read_text() == "first second "
    else:
        with pytest.raises(privsep.DaemonGone, match=r"while tested\.steps\(\)"):
            tested.steps(path)
        assert path.read_text() == _EFFECTS[fault]
    assert tested.echo(3) == 3
    assert len(daemon.calls) == 3


@pytest.mark.parametrize("fault", _EFFECTS)
def test_a_daemon_that_dies_and_was_started_by_fork_stays_gone(
    daemon: Daemon, tmp_path: Path, fault: str
) -> None:
    path = tmp_path / "steps"
    path.touch()
    tested.context.start("fork")
    daemon.dies(**{fault: 1})
    told = "was started by fork" if fault == "before" else r"while tested\.steps\(\)"
    with pytest.raises(privsep.DaemonGone, match=told) as raised:
        tested.steps(path)
    assert daemon.calls[0].error is raised.value
    assert path.read_text() == _EFFECTS[fault]
    for _ in range(2):
        with pytest.raises(privsep.DaemonGone, match="was started by fork"):
            tested.echo(1)
    assert [type(call.error) for call in daemon.calls] == [privsep.DaemonGone] * 3
    tested.context.stop()
    tested.context.start("fork")
    assert tested.echo(1) == 1


@pytest.mark.parametrize("fault", ["during", "after"])
def test_a_function_of_one_line_dies_when_it_has_run(
    daemon: Daemon, tmp_path: Path, fault: str
) -> None:
    daemon.dies(**{fault: 1})
    with pytest.raises(privsep.DaemonGone):
        tested.steps_in_one(tmp_path / "steps")
    assert (tmp_path / "steps").read_text() == "all "
    assert tested.steps_in_one(tmp_path / "steps") is Shell.SH


@pytest.mark.parametrize("fault", _EFFECTS)
def test_a_daemon_whose_workers_are_threads_dies(
    begin: Begin, mode: Mode, tmp_path: Path, fault: str
) -> None:
    path = tmp_path / "steps"
    path.touch()
    daemon = begin(tested.threads, mode)
    tested.threads.start("fork")
    daemon.dies(**{fault: 1})
    with pytest.raises(privsep.DaemonGone):
        tested.steps_in_thread(path)
    assert path.read_text() == _EFFECTS[fault]


async def _all(items: AsyncIterator[str]) -> list[str]:
    return [item async for item in items]


_OTHER_KINDS: dict[str, tuple[Callable[..., Any], Callable[[Path], object]]] = {
    "generator": (tested.steps_yielded, lambda path: list(tested.steps_yielded(path))),
    "coroutine": (
        tested.steps_awaited,
        lambda path: asyncio.run(tested.steps_awaited(path)),
    ),
    "asynchronous generator": (
        tested.steps_yielded_later,
        lambda path: asyncio.run(_all(tested.steps_yielded_later(path))),
    ),
    "awaited": (
        tested.steps,
        lambda path: asyncio.run(_awaited(privsep.aio(tested.steps)(path))),
    ),
}


async def _awaited(result: Any) -> object:
    return await result


@pytest.mark.parametrize("kind", _OTHER_KINDS)
def test_streams_and_awaited_calls_are_recorded_and_die(
    daemon: Daemon, tmp_path: Path, kind: str
) -> None:
    function, call = _OTHER_KINDS[kind]
    path = tmp_path / "steps"
    tested.context.start("auto")
    result = call(path)
    assert result in ("done", ["item"])
    for fault, effect in _EFFECTS.items():
        path.write_text("")
        daemon.dies(**{fault: len(daemon.calls) + 1})
        if fault == "before":
            assert call(path) == result
        else:
            with pytest.raises(privsep.DaemonGone):
                call(path)
            assert path.read_text() == effect
    assert call(path) == result
    assert daemon.calls == [Call(function, path)] * 5


def test_a_daemon_dies_more_than_once(in_process: Daemon, tmp_path: Path) -> None:
    in_process.dies(after=1)
    in_process.dies(after=3)
    for _ in range(2):
        with pytest.raises(privsep.DaemonGone):
            tested.steps(tmp_path / "steps")
        assert tested.steps(tmp_path / "steps") == "done"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "one of before, during, after says when, and not 0"),
        ({"before": 2, "after": 3}, "and not 2"),
        ({"during": 1}, "1 calls have been made already"),
        ({"before": 0}, "1 calls have been made already"),
    ],
    ids=repr,
)
def test_a_death_that_cannot_be_is_an_error(
    in_process: Daemon, asked: dict[str, int], said: str
) -> None:
    tested.echo(1)
    with pytest.raises(ValueError, match=said):
        in_process.dies(**asked)


def test_no_other_daemon_serves_names_that_kill(
    start: Callable[..., Any], begin: Begin
) -> None:
    begin(tested.context, "in-process")
    service = start("plain")
    entry = service.context.client.context._table["service.echo"]
    fatal = faults.fatal(entry, "after")
    with pytest.raises(privsep.Refused, match="is not an entrypoint"):
        service.context.client.call(fatal, (1,), {})


# -- in-process ------------------------------------------------------------------------


def test_threads_call_at_the_same_time_in_process(begin: Begin) -> None:
    daemon = begin(tested.threads, "in-process")
    with ThreadPoolExecutor(8) as crew:
        ids = list(crew.map(lambda _: tested.thread(), range(200)))
    assert len(set(ids)) <= tested.threads.workers
    assert threading.get_native_id() not in ids
    assert len(daemon.calls) == 200


def test_a_function_is_patched_in_process(
    in_process: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words: list[str] = []
    monkeypatch.setattr(tested, "append", lambda _, word: words.append(word))
    assert tested.steps(tmp_path) == "done"
    assert words == ["first", "second"]
    del in_process


def test_a_detached_call_works_in_process(in_process: Daemon) -> None:
    assert [tested.detached() for _ in range(3)] == ["detached"] * 3
    assert len(in_process.calls) == 3


def test_a_forked_child_makes_calls_in_process(in_process: Daemon) -> None:
    assert tested.process() == os.getpid()
    child = forks.Child(lambda: tested.process() == os.getpid())
    assert child.result() == "True"
    assert tested.echo(1) == 1
    assert len(in_process.calls) == 2


def test_there_is_no_status_in_process(in_process: Daemon) -> None:
    with pytest.raises(privsep.StartError, match="in-process there is no daemon"):
        tested.context.status()
    assert not in_process.calls


@pytest.mark.parametrize(
    ("context", "told"),
    [
        (failing.raises, "RuntimeError: this module does not want to"),
        (failing.absent, "ModuleNotFoundError: No module named 'broken.absent'"),
        (failing.leaves, "SystemExit: 3"),
    ],
    ids=["raises", "is absent", "leaves"],
)
def test_a_module_that_does_not_import_is_told_in_process(
    begin: Begin, context: privsep.Context, told: str
) -> None:
    begin(context, "in-process")
    with pytest.raises(privsep.StartError, match=f"could not be started .*: {told}"):
        context.start()


def test_an_annotation_that_cannot_be_judged_is_an_error_in_each_mode(
    begin: Begin, mode: Mode
) -> None:
    begin(tested.broken, mode)
    with pytest.raises(privsep.StartError, match="parameter value is annotated"):
        tested.broken.start()


# -- and the rest of the service ---------------------------------------------------


def test_the_context_is_as_before_afterwards() -> None:
    tested.context.start(METHOD)
    before = tested.process()
    with Daemon(tested.context) as daemon:
        assert tested.process() == os.getpid()
    assert tested.process() == before
    assert daemon.calls == [Call(tested.process)]
    tested.context.stop()


def test_another_mode_is_an_error() -> None:
    with pytest.raises(ValueError, match="it may be in-process, fork, userns"):
        Daemon(tested.context, "sudo")  # type: ignore[arg-type]


def test_calls_are_equal_by_function_and_arguments() -> None:
    call = Call(tested.echo, 1, a=2)
    assert call == Call("tested.echo", 1, a=2)
    different = (
        Call(tested.fail, 1, a=2),
        Call(tested.echo, 2, a=2),
        Call(tested.echo, 1),
        "tested.echo(1, a=2)",
    )
    for other in different:
        assert call != other
    assert repr(call) == "tested.echo(1, a=2)"


# -- the plugin --------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["in-process", FORK, "userns"])
def test_the_page_is_true(pytester: pytest.Pytester, mode: str) -> None:
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        name = block.split()[1]
        assert name.endswith(".py")
        (pytester.path / name).write_text(block)
    outcome = pytester.runpytest_subprocess(f"--privsep={mode}", "-Werror")
    outcome.assert_outcomes(passed=3)


def test_a_mark_counts_more_than_the_option(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_marks="""
        import os
        import privsep
        import pytest

        context = privsep.Context("marks", capabilities=[])

        @context.entrypoint
        def process() -> int:
            return os.getpid()

        def test_the_option_says(privsep_daemon):
            daemon = privsep_daemon(context)
            assert process() != os.getpid()

        @pytest.mark.privsep("in-process")
        class TestMarked:
            def test_the_class_is_marked(self, privsep_daemon):
                privsep_daemon(context)
                assert process() == os.getpid()

            @pytest.mark.privsep("userns")
            def test_the_nearest_counts(self, privsep_daemon):
                privsep_daemon(context)
                assert process() != os.getpid()

        @pytest.mark.privsep("sudo")
        def test_another_mode_fails(privsep_daemon):
            privsep_daemon(context)

        def test_what_is_not_asked_for_is_not_loaded():
            import sys
            assert "privsep._testing.call" in sys.modules
        """
    )
    outcome = pytester.runpytest_subprocess("--privsep=userns", "--strict-markers")
    outcome.assert_outcomes(passed=4, failed=1)
    outcome.stdout.fnmatch_lines(["*mode is 'sudo'; it may be in-process, fork, *"])


def test_the_plugin_loads_no_client_before_it_is_asked_for_one(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_nothing():
            assert "privsep.testing" in sys.modules
            assert not [name for name in sys.modules if name.startswith("privsep._cl")]
        """
    )
    outcome = pytester.runpytest_subprocess()
    outcome.assert_outcomes(passed=1)
    wrong = pytester.runpytest_subprocess("--privsep=sudo")
    wrong.stderr.fnmatch_lines(["*argument --privsep: invalid choice: 'sudo'*"])
