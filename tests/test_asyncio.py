"""Callers in an event loop, and coroutines in the daemon."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING, cast

import awaited
import pytest
from audited import stopped
from conftest import METHOD
from observe import (
    WITHIN,
    Fifo,
    Forked,
    Release,
    daemon_pid,
    held,
    kill,
    patient_client,
    wait_for_rest,
)
from service import services
from streaming import Color, Point

import privsep
from privsep._wire import descriptors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path
    from typing import Any, TypeAlias

    from awaited import Awaited

    from privsep._client.client import Client
    from privsep._client.connection import Connection

    Start: TypeAlias = Callable[..., Awaited]

__all__ = ["held", "patient_client"]

pytestmark = pytest.mark.usefixtures("patient_client")


@pytest.fixture(params=["awaited", "awaited-threads"])
def service(start: Start, request: pytest.FixtureRequest) -> Awaited:
    """A started service of coroutines, with process workers and with threads."""
    return start(request.param)


@pytest.fixture
def processes(start: Start) -> Awaited:
    return start("awaited")


def run(coroutine: Coroutine[Any, Any, object]) -> Any:
    """Run a coroutine; the loop's own mistakes are errors."""
    return asyncio.run(coroutine, debug=True)


def in_loop(entrypoint: Callable[..., Any]) -> Callable[..., Any]:
    """Return what `aio` does, of an entrypoint of whichever kind."""
    made: Any = privsep.aio(entrypoint)
    return made  # type: ignore[no-any-return]


async def go_round() -> None:
    """Return when the loop has gone round some times."""
    for _ in range(10):
        await asyncio.sleep(0)


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def to_end(stream: AsyncIterator[object]) -> None:
    async for _ in stream:
        pass


async def begun(task: asyncio.Task[Any], fifo: Fifo) -> None:
    """Return when the function in the daemon holds the fifo."""
    assert await asyncio.to_thread(fifo.read_line)
    assert not task.done()


# -- a caller in a loop --------------------------------------------------------


def test_a_plain_entrypoint_is_awaited(service: Awaited) -> None:
    echo = privsep.aio(service.echo)

    async def main() -> None:
        for value in (1, "x", [1, (2, {3})], None, b"x" * 100_000, bytes(3 << 20)):
            assert await echo(value) == value

    run(main())
    assert service.echo(1) == 1


def test_one_channel_serves_either_kind_of_caller(service: Awaited) -> None:
    worker = service.process_id()
    for _ in range(3):
        assert run(privsep.aio(service.process_id)()) == worker
        assert service.process_id() == worker


def test_no_thread_is_used_for_calls_beyond_the_one_for_logs(
    service: Awaited,
) -> None:
    service.echo(1)
    before = threading.active_count()
    echo = privsep.aio(service.echo)

    async def main() -> None:
        assert await asyncio.gather(*map(echo, range(50))) == list(range(50))
        assert threading.active_count() == before

    run(main())


def test_the_loop_goes_on_while_a_call_runs_and_while_one_waits_for_a_worker(
    service: Awaited, held: Fifo
) -> None:
    async def main() -> None:
        calls = [
            asyncio.create_task(privsep.aio(service.hold_async)(held.path))
            for _ in range(3)
        ]
        for task in calls[:2]:
            await begun(task, held)
        await go_round()
        assert not any(task.done() for task in calls)
        for task in reversed(calls):
            await cancel(task)
        assert await privsep.aio(service.echo)(1) == 1

    run(main())
    held.wait_until_let_go()


def test_an_exception_is_raised_where_it_is_awaited(service: Awaited) -> None:
    async def main() -> None:
        with pytest.raises(privsep.Refused, match="parameter number: expected"):
            await service.judged(7, Color.RED)
        with pytest.raises(
            privsep.Unserializable, match="argument 1 holds a value of type object"
        ):
            await privsep.aio(service.echo)(object())
        assert await service.judged(2, Color.RED) == [Point(2, Color.RED)]

    run(main())


@pytest.mark.parametrize("kind", ["KeyError", "SystemExit", "TimeoutError"])
def test_a_coroutines_exception_is_raised_where_it_is_awaited(
    service: Awaited, kind: str
) -> None:
    async def main() -> None:
        worker = await privsep.aio(service.process_id)()
        with pytest.raises(BaseException) as caught:
            await service.fail(kind)
        assert type(caught.value).__name__ == kind
        assert "in fail" in str(caught.value.__cause__)
        assert "base_events" not in str(caught.value.__cause__)
        assert await privsep.aio(service.process_id)() == worker

    run(main())


def test_records_are_handled_before_the_result(
    service: Awaited, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "awaited")
    run(privsep.aio(service.log_here)("text"))
    # A loop that looks for mistakes logs, too: what has taken it 0.1 seconds.
    own = [record for record in caplog.records if record.name == "awaited"]
    assert [record.getMessage() for record in own] == ["text"]


def test_open_files_cross(service: Awaited, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("content")

    async def main() -> None:
        with await in_loop(service.open_file)(str(path)) as file:
            assert file.read() == "content"
        with open(path) as file:  # noqa: ASYNC230 - nothing else is to go on
            back: Any = await privsep.aio(service.echo)(file)
            with back:
                assert back.read() == "content"

    run(main())


@pytest.mark.parametrize("name", ["hold", "hold_async"])
def test_cancelling_the_task_kills_the_process_worker(
    processes: Awaited, tmp_path: Path, name: str
) -> None:
    async def main() -> None:
        call = in_loop(getattr(processes, name))
        for number in range(3):  # there are two workers
            with Fifo(tmp_path, f"held-{number}") as held:
                task = asyncio.create_task(call(held.path))
                await begun(task, held)
                await cancel(task)
                await asyncio.to_thread(held.wait_until_let_go)
        assert await privsep.aio(processes.echo)(1) == 1

    run(main())


def test_cancelling_the_task_cancels_the_coroutine_of_a_thread(
    start: Start, tmp_path: Path
) -> None:
    service = start("awaited-threads")

    async def main() -> None:
        for number in range(3):  # there are two workers
            with Fifo(tmp_path, f"held-{number}") as held:
                task = asyncio.create_task(service.hold_async(held.path))
                await begun(task, held)
                await cancel(task)
                await asyncio.to_thread(held.wait_until_let_go)
        assert await privsep.aio(service.echo)(1) == 1

    run(main())


@pytest.mark.parametrize("name", ["hold_briefly", "hold_async_briefly"])
def test_a_call_ends_by_its_deadline(processes: Awaited, held: Fifo, name: str) -> None:
    with pytest.raises(privsep.CallTimeout, match=r"in time \(0\.3 s\).*was killed"):
        run(in_loop(getattr(processes, name))(held.path))
    held.wait_until_free()


def test_a_coroutine_of_a_thread_is_cancelled_at_its_deadline(
    start: Start, held: Fifo
) -> None:
    service = start("awaited-threads")
    for _ in range(3):  # there are two workers
        with pytest.raises(privsep.CallTimeout, match="it is cancelled"):
            run(service.hold_async_briefly(held.path))
        held.wait_until_free()
    assert service.echo(1) == 1


def test_a_call_that_finds_no_worker_ends_by_its_deadline(
    processes: Awaited, held: Fifo
) -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(processes.hold_async(held.path)) for _ in range(2)]
        for task in tasks:
            await begun(task, held)
        with pytest.raises(privsep.CallTimeout, match="all 2 workers were busy"):
            await privsep.aio(processes.hold_briefly)(held.path)
        for task in tasks:
            await cancel(task)

    run(main())
    held.wait_until_let_go()


def test_a_call_whose_loop_is_closed_takes_no_worker_from_others(
    service: Awaited,
) -> None:
    streams = [service.count(100), service.count(100)]  # there are two workers
    for stream in streams:
        next(stream)
    loop = asyncio.new_event_loop()
    never = loop.create_task(in_loop(service.echo)(1))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    for stream in streams:
        stream.close()
    streams = [service.count(100), service.count(100)]
    assert [next(stream) for stream in streams] == [0, 0]
    for stream in streams:
        stream.close()
    assert not never.done()
    never._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_call_whose_loop_stands_still_takes_no_worker_from_others(
    service: Awaited,
) -> None:
    streams = [service.count(100), service.count(100)]  # there are two workers
    for stream in streams:
        next(stream)
    loop = asyncio.new_event_loop()
    later = loop.create_task(in_loop(service.echo)(1))
    loop.run_until_complete(asyncio.sleep(0))
    for stream in streams:
        stream.close()
    streams = [service.count(100), service.count(100)]
    assert [next(stream) for stream in streams] == [0, 0]
    for stream in streams:
        stream.close()
    assert loop.run_until_complete(later) == 1
    loop.close()


def test_a_loop_waits_at_rest_for_a_daemon_that_takes_no_request(start: Start) -> None:
    service = start("awaited-many")
    connection = cast("Client", service.context.client).connection()
    control = cast("Connection", connection)._control
    control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least there is

    async def call_often() -> None:
        await asyncio.gather(*map(privsep.aio(service.echo), range(20)))

    async def main() -> None:
        task = asyncio.create_task(in_loop(service.echo)(1))
        await go_round()
        assert not task.done()
        os.kill(daemon, signal.SIGCONT)
        assert await task == 1

    daemon = daemon_pid()
    with stopped(daemon):
        others = Forked(lambda: run(call_often()))
        wait_for_rest(others.pid)
        thread = threading.Thread(target=service.echo, args=(2,))
        thread.start()
        wait_for_rest(cast("int", thread.native_id))
        run(main())
    thread.join()
    assert others.wait() == 0


def test_a_loop_goes_on_while_a_thread_says_hello_to_the_daemon(
    processes: Awaited, monkeypatch: pytest.MonkeyPatch
) -> None:
    saying, go_on = threading.Event(), threading.Event()
    send = descriptors.send

    def hold_first(*arguments: Any) -> None:
        if not saying.is_set():
            saying.set()
            assert go_on.wait(WITHIN)
        send(*arguments)

    async def main() -> None:
        task = asyncio.create_task(in_loop(processes.echo)(1))
        await go_round()
        assert not task.done()
        go_on.set()
        assert await task == 1

    monkeypatch.setattr(descriptors, "send", hold_first)
    thread = threading.Thread(target=processes.echo, args=(2,))
    thread.start()
    saying.wait()
    run(main())
    thread.join()


def test_a_daemon_that_died_in_a_call_can_be_started_again(
    processes: Awaited, held: Fifo
) -> None:
    async def main() -> None:
        task = asyncio.create_task(processes.hold_async(held.path))
        await begun(task, held)
        await asyncio.to_thread(kill, daemon_pid())
        with pytest.raises(privsep.DaemonGone):
            await task

    run(main())
    processes.context.start(METHOD)
    assert processes.echo(1) == 1


def test_a_daemon_that_died_in_a_stream_can_be_started_again(
    processes: Awaited,
) -> None:
    async def main() -> None:
        stream = processes.answer("first")
        assert await anext(stream) == "first"
        await asyncio.to_thread(kill, daemon_pid())
        with pytest.raises(privsep.DaemonGone):
            await anext(stream)

    run(main())
    processes.context.start(METHOD)
    assert processes.echo(1) == 1


def test_a_killed_daemon_is_told(processes: Awaited, held: Fifo) -> None:
    async def main() -> None:
        task = asyncio.create_task(processes.hold_async(held.path))
        await begun(task, held)
        pid = daemon_pid()
        await asyncio.to_thread(kill, pid)
        with pytest.raises((privsep.DaemonGone, privsep.WorkerDied)):
            await task

    run(main())


def test_the_first_call_starts_the_daemon_and_the_loop_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service: Any = services["awaited-late"]

    async def main() -> None:
        task = asyncio.create_task(in_loop(service.echo)(1))
        await begun(task, importing)
        await go_round()
        assert not task.done()
        release.let_go()
        assert await task == 1

    with Fifo(tmp_path, "begun") as importing, Release(tmp_path) as release:
        monkeypatch.setenv("PRIVSEP_TEST_BEGUN", importing.path)
        monkeypatch.setenv("PRIVSEP_TEST_GO_ON", release.path)
        try:
            run(main())
        finally:
            service.context.stop()


def test_a_forked_child_has_channels_of_its_own(service: Awaited) -> None:
    assert run(service.echo_async(1)) == 1
    assert Forked(lambda: run(service.echo_async(2))).wait() == 0
    assert run(service.echo_async(3)) == 3


def test_calls_that_are_cancelled_disturb_no_others_and_leave_nothing(
    service: Awaited,
) -> None:
    async def main() -> None:
        call = privsep.aio(service.echo)
        await asyncio.gather(*map(call, range(5)))
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(40):
            tasks = [asyncio.create_task(call(number)) for number in range(5)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            # Workers retire meanwhile; no call must be lost with them.
            assert await asyncio.gather(*map(call, range(5))) == list(range(5))
        # Of the two channels there may have been none at first.
        assert len(os.listdir("/proc/self/fd")) <= before + 4

    run(main())


# -- coroutines in the daemon --------------------------------------------------


def test_a_thread_without_a_loop_runs_one_for_the_call(service: Awaited) -> None:
    assert run(service.echo_async("value")) == "value"


def test_the_calls_of_a_worker_share_its_loop(service: Awaited) -> None:
    async def main() -> None:
        assert await service.which_loop() == await service.which_loop()

    run(main())


def test_a_coroutine_may_use_all_of_asyncio(service: Awaited) -> None:
    async def main() -> None:
        assert await service.gather(20) == list(range(20))
        assert await service.run_program("text") == "text\n"

    run(main())


def test_what_a_call_leaves_running_is_cancelled_at_its_end(service: Awaited) -> None:
    async def main() -> None:
        await service.leave_task()
        assert await service.was_cancelled()

    run(main())


# -- streams -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["count_async", "count"])
def test_items_come_in_order(service: Awaited, name: str) -> None:
    items = in_loop(getattr(service, name))

    async def main() -> None:
        assert [item async for item in items(500)] == list(range(500))
        assert [item async for item in items(0)] == []

    run(main())


def test_a_plain_caller_of_a_generator_and_one_in_a_loop_share_a_worker(
    service: Awaited,
) -> None:
    worker = service.process_id()

    async def main() -> None:
        assert [item async for item in privsep.aio(service.count)(50)][-1] == 49

    run(main())
    assert list(service.count(50))[-1] == 49
    assert service.process_id() == worker


def test_large_items_cross(service: Awaited) -> None:
    async def main() -> None:
        async for chunk in privsep.aio(service.chunks)(2 << 20, 5):
            assert chunk == bytes(2 << 20)

    run(main())
    for chunk in service.chunks(2 << 20, 5):
        assert chunk == bytes(2 << 20)


def test_items_are_made_anew_by_their_annotation(service: Awaited) -> None:
    async def main() -> None:
        points = [point async for point in service.points_async(3)]
        assert points == [Point(x, Color.RED) for x in range(3)]

    run(main())


def test_values_are_sent_and_exceptions_thrown(service: Awaited) -> None:
    async def main() -> None:
        stream = service.answer("first")
        assert await anext(stream) == "first"
        assert await stream.asend([1]) == [1]
        assert await stream.athrow(ValueError("x")) == ["caught", "x"]
        error = KeyError("y")
        with pytest.raises(KeyError) as caught:
            await stream.athrow(error)
        assert caught.value is error
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        stream = service.answer("first")
        await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await stream.asend("end")

    run(main())


def test_aclose_returns_when_the_generator_has_cleaned_up(
    service: Awaited, held: Fifo
) -> None:
    async def main() -> None:
        stream = service.hold_items(held.path)
        assert [await anext(stream) for _ in range(5)] == list(range(5))
        assert held.is_held()
        await stream.aclose()
        assert not held.is_held()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    run(main())


def test_leaving_the_loop_ends_the_stream_in_the_daemon(
    service: Awaited, held: Fifo
) -> None:
    async def main() -> None:
        async for number in service.hold_items(held.path):
            if number == 20:
                break
        gc.collect()
        await asyncio.to_thread(held.wait_until_let_go)

    run(main())


def test_a_generator_that_is_left_may_wait_while_it_cleans_up(
    service: Awaited, held: Fifo, tmp_path: Path
) -> None:
    clean = tmp_path / "clean"

    async def main() -> None:
        async for _ in service.hold_until_clean(held.path, str(clean), 1000):
            break
        gc.collect()
        await asyncio.to_thread(held.wait_until_let_go)

    run(main())
    assert clean.exists()


def test_cancelling_the_task_cancels_the_generator_of_a_thread_that_is_ahead(
    start: Start, held: Fifo
) -> None:
    """What the client has sent meanwhile does not hide that it is gone."""
    service = start("awaited-threads")
    items = 12  # more were asked for by then, and the generator still makes one

    async def main() -> None:
        stream = service.hold_after(held.path, items)
        for number in range(items):
            assert await anext(stream) == number
        task = asyncio.create_task(to_end(stream))
        await begun(task, held)
        await cancel(task)
        await asyncio.to_thread(held.wait_until_let_go)

    run(main())


def test_cancelling_the_task_kills_the_worker_of_its_stream(
    processes: Awaited, held: Fifo
) -> None:
    async def main() -> None:
        async def consume() -> None:
            async for _ in processes.hold_after(held.path, 2):
                pass

        task = asyncio.create_task(consume())
        await begun(task, held)
        await cancel(task)
        await asyncio.to_thread(held.wait_until_let_go)

    run(main())


def test_two_tasks_cannot_ask_for_an_item_at_the_same_time(
    service: Awaited, held: Fifo
) -> None:
    async def main() -> None:
        stream = service.hold_after(held.path, 0)

        async def consume() -> int:
            return await anext(stream)

        first = asyncio.create_task(consume())
        await begun(first, held)
        with pytest.raises(RuntimeError, match="already running"):
            await anext(stream)
        await cancel(first)

    run(main())


# -- aio -----------------------------------------------------------------------


def test_aio_takes_entrypoints_only_and_no_copy_of_one(service: Awaited) -> None:
    @functools.wraps(service.echo)
    def wrapper(value: object) -> object:
        return service.echo(value)

    wrong: Any
    for wrong in (wrapper, awaited.echo, len, 5):
        with pytest.raises(TypeError, match="is no entrypoint"):
            in_loop(wrong)
    assert privsep.aio(service.echo_async) is service.echo_async
    assert privsep.aio(service.count_async) is service.count_async
