"""An entrypoint that is a generator is one at its caller."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import time
from itertools import islice
from typing import TYPE_CHECKING

import pytest
import streaming
from conftest import METHOD
from observe import (
    Fifo,
    Forked,
    Release,
    Threads,
    children,
    daemon_pid,
    held,
    kill,
    patient_client,
)

import privsep
from privsep._client import streams
from privsep._daemon import supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import TypeAlias

    from streaming import Streaming

    Start: TypeAlias = Callable[..., Streaming]

__all__ = ["held", "patient_client"]

pytestmark = pytest.mark.usefixtures("patient_client")

WINDOW = 16


@pytest.fixture(params=["streams", "threaded-streams"])
def service(start: Start, request: pytest.FixtureRequest) -> Streaming:
    """A started service of generators, with process workers and with threads."""
    return start(request.param)


@pytest.fixture
def processes(start: Start) -> Streaming:
    return start("streams")


# -- items ---------------------------------------------------------------------


def test_items_come_in_order_and_the_result_is_what_yield_from_returns(
    service: Streaming,
) -> None:
    results = []

    def consume() -> Iterator[int]:
        results.append((yield from service.numbers(1000)))

    assert list(consume()) == list(range(1000))
    assert results == ["all"]


def test_a_generator_without_items_ends_at_once(service: Streaming) -> None:
    assert list(service.numbers(0)) == []
    assert list(service.numbers(0)) == []


def test_nothing_runs_until_the_first_item_is_asked_for(
    service: Streaming, tmp_path: Path
) -> None:
    path = tmp_path / "numbers"
    stream = service.write_numbers(str(path), 3)
    service.echo(1)
    assert not path.exists()
    assert next(stream) == 0
    assert path.read_text() == "0\n"
    assert list(stream) == [1, 2]


def test_an_item_comes_when_it_is_made(service: Streaming, tmp_path: Path) -> None:
    with Release(tmp_path) as release:
        stream = service.wait_between(release.path)
        assert list(islice(stream, 2)) == ["before", "still before"]
        release.let_go()
        assert list(stream) == ["go"]


def test_the_generator_is_ahead_by_the_window_at_most(
    service: Streaming, tmp_path: Path
) -> None:
    path = tmp_path / "numbers"
    stream = service.write_numbers(str(path), 1000)
    for taken in range(1, 100):
        assert next(stream) == taken - 1
        made = len(path.read_text().split())
        assert taken <= made <= (1 if taken == 1 else taken + WINDOW)
    del stream


def test_a_generator_without_window_is_where_its_caller_is(
    service: Streaming, tmp_path: Path
) -> None:
    path = tmp_path / "numbers"
    stream = service.numbers_in_turn(str(path), 20)
    for taken, number in enumerate(stream, start=1):
        assert number == taken - 1
        assert len(path.read_text().split()) == taken


def test_a_stream_ends_once_and_stays_ended(service: Streaming) -> None:
    stream = service.numbers(1)
    assert list(stream) == [0]
    with pytest.raises(StopIteration) as caught:
        next(stream)
    assert caught.value.value is None
    stream.close()


def test_many_streams_one_after_the_other_use_one_worker(service: Streaming) -> None:
    worker = service.process_id()
    for _ in range(50):
        assert list(service.numbers(20)) == list(range(20))
    assert service.process_id() == worker


def test_streams_that_are_open_at_the_same_time_do_not_mix(service: Streaming) -> None:
    streams = [service.numbers(stop) for stop in (30, 40, 50)]
    pairs = list(zip(*streams, strict=False))
    assert pairs == [(number,) * 3 for number in range(30)]
    for stream in streams:
        stream.close()


def test_open_files_cross_as_items_and_as_the_result(
    service: Streaming, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text("content")
    results = []

    def consume() -> Iterator[object]:
        results.append((yield from service.open_files(str(path), 40)))

    for item in consume():
        assert isinstance(item, dict)
        with item["file"] as file, item["fd"] as descriptor:
            assert file.read() == "content"
            assert os.fstat(descriptor.fileno()).st_size == 7
    with results[0] as file:
        assert file.read() == "content"


def test_open_files_that_nobody_takes_are_closed(
    service: Streaming, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.touch()
    stream = service.open_files(str(path), 40)
    for item in islice(stream, 2):
        item["file"].close()
        item["fd"].close()
    stream.close()
    stream = service.open_files(str(path), 40)
    for item in islice(stream, 2):
        item["file"].close()
        item["fd"].close()
    with pytest.raises(ValueError):
        stream.throw(ValueError())


def test_items_and_result_are_made_anew_by_their_annotation(service: Streaming) -> None:
    results = []

    def consume() -> Iterator[streaming.Point]:
        results.append((yield from service.points(3)))

    red = streaming.Color.RED
    assert list(consume()) == [streaming.Point(x, red) for x in range(3)]
    assert results == [red]


def test_an_argument_that_is_refused_is_so_at_the_first_item(
    service: Streaming,
) -> None:
    stream = service.points(4)
    with pytest.raises(privsep.Refused, match="parameter number: expected"):
        next(stream)
    assert list(stream) == []
    assert service.echo(1) == 1


def test_wrong_arguments_are_the_functions_own_type_error(service: Streaming) -> None:
    with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
        next(service.numbers(1, 2))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_records_of_an_item_are_handled_before_it_in_the_thread_that_takes_it(
    service: Streaming, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "streaming")
    for number in service.log_before_each(40):
        assert [record.getMessage() for record in caplog.records][number] == (
            f"before {number}"
        )
    assert len(caplog.records) == 40


# -- how it ends ---------------------------------------------------------------


def test_an_exception_comes_after_the_items_before_it(service: Streaming) -> None:
    stream = service.fail_after(20, "OSError")
    assert list(islice(stream, 20)) == list(range(20))
    with pytest.raises(FileNotFoundError, match="it failed") as caught:
        next(stream)
    assert "in fail_after" in str(caught.value.__cause__)
    assert list(stream) == []


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        (
            "object",
            privsep.Unserializable,
            "item 2 of .*holds a value of type object, which",
        ),
        ("large", privsep.MessageTooLarge, "item 2 of .*has 70005 bytes"),
        ("deep", privsep.MessageTooLarge, "item 2 of .*nested deeper than 100"),
    ],
)
def test_an_item_that_does_not_cross_ends_the_stream(
    service: Streaming, kind: str, error: type[Exception], words: str
) -> None:
    worker = service.process_id()
    stream = service.of_kind("plain", kind, "plain")
    assert next(stream) == "plain"
    with pytest.raises(error, match=words):
        next(stream)
    assert list(stream) == []
    assert service.process_id() == worker


def test_a_result_that_does_not_cross_comes_after_the_items(service: Streaming) -> None:
    stream = service.return_object()
    assert next(stream) == 1
    with pytest.raises(privsep.Unserializable, match="returned a value of type object"):
        next(stream)


def test_close_returns_when_the_generator_has_cleaned_up(
    service: Streaming, held: Fifo
) -> None:
    worker = service.process_id()
    stream = service.hold(held.path)
    assert list(islice(stream, 5)) == list(range(5))
    assert held.is_held()
    stream.close()
    assert not held.is_held()
    assert service.process_id() == worker
    assert list(stream) == []


def test_close_before_the_first_item_runs_nothing(
    service: Streaming, tmp_path: Path
) -> None:
    path = tmp_path / "numbers"
    with contextlib.closing(service.write_numbers(str(path), 3)):
        pass
    service.echo(1)
    assert not path.exists()


def test_close_raises_what_the_generator_raises_as_it_cleans_up(
    service: Streaming,
) -> None:
    stream = service.fail_in_clean_up()
    next(stream)
    with pytest.raises(OSError, match="cleaning failed"):
        stream.close()
    assert service.echo(1) == 1


def test_close_in_the_middle_of_an_item_kills_the_worker(
    processes: Streaming, held: Fifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_CLOSE_WITHIN", 0.2)
    stream = processes.hold_and_stop(held.path, 2)
    assert list(islice(stream, 2)) == [0, 1]
    stream.close()
    held.wait_until_let_go()
    assert processes.echo(1) == 1


def test_leaving_the_loop_ends_it_in_the_daemon(service: Streaming, held: Fifo) -> None:
    for number in service.hold(held.path):
        if number == 20:
            break
    held.wait_until_let_go()
    assert service.echo(1) == 1


def test_a_stream_that_is_garbage_ends_in_the_daemon(
    service: Streaming, held: Fifo
) -> None:
    stream = service.hold(held.path)
    next(stream)
    circle: list[object] = [stream]
    circle.append(circle)
    assert held.is_held()
    del circle, stream
    gc.collect()
    held.wait_until_let_go()


def test_a_stream_left_in_the_middle_of_an_item_loses_its_worker(
    start: Start, held: Fifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_CLEAN_UP", 0.2)  # a forked daemon has it, too
    service = start("single-stream")
    for number in service.hold_and_stop(held.path, 2):
        if number == 1:
            break
    held.wait_until_let_go()
    assert service.echo(1) == 1


def test_places_of_streams_that_were_left_are_free_again(
    start: Start, held: Fifo
) -> None:
    service = start("single-stream")
    for _ in range(20):
        next(service.hold(held.path))
    assert service.echo(1) == 1


def test_a_stream_ends_with_its_client(service: Streaming, held: Fifo) -> None:
    def die() -> None:
        next(service.hold(held.path))
        os.kill(os.getpid(), signal.SIGKILL)

    assert Forked(die).wait() == -signal.SIGKILL
    held.wait_until_let_go()


def test_a_killed_worker_is_told_with_the_next_item(processes: Streaming) -> None:
    stream = processes.killed_after(3)
    with pytest.raises(privsep.WorkerDied) as caught:
        list(stream)
    assert caught.value.signal == signal.SIGKILL
    assert list(stream) == []


def test_a_killed_daemon_is_told_with_the_next_item(processes: Streaming) -> None:
    stream = processes.numbers_in_turn("/dev/null", 100)
    next(stream)
    kill(daemon_pid())
    with pytest.raises(privsep.DaemonGone):
        next(stream)
    processes.context.start(METHOD)
    assert list(processes.numbers_in_turn("/dev/null", 2)) == [0, 1]


# -- throw, send ---------------------------------------------------------------


def test_what_is_sent_arrives_and_what_is_yielded_then_is_returned(
    service: Streaming,
) -> None:
    stream = service.answer("first")
    assert next(stream) == "first"
    assert stream.send([1, 2]) == [1, 2]
    assert next(stream) is None
    with pytest.raises(StopIteration) as caught:
        stream.send("end")
    assert caught.value.value == "ended"


def test_nothing_can_be_sent_where_the_daemon_may_be_ahead(service: Streaming) -> None:
    stream = service.numbers(3)
    assert next(stream) == 0
    with pytest.raises(TypeError, match="give it window=0"):
        stream.send(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert list(stream) == [1, 2]


def test_what_is_too_large_is_not_sent_and_the_stream_goes_on(
    service: Streaming,
) -> None:
    stream = service.answer(0)
    assert next(stream) == 0
    with pytest.raises(privsep.MessageTooLarge, match="limit is 66000"):
        stream.send(bytes(66_000))
    assert stream.send(1) == 1


def test_nothing_can_be_sent_before_the_first_item(service: Streaming) -> None:
    stream = service.answer("first")
    with pytest.raises(TypeError, match="just-started generator"):
        stream.send(1)
    assert next(stream) == "first"
    with pytest.raises(
        privsep.Unserializable, match=r"sent to .*holds a value of type object"
    ):
        stream.send(object())
    assert stream.send(1) == 1
    stream.close()


def test_what_is_thrown_can_be_caught(service: Streaming) -> None:
    stream = service.answer("first")
    next(stream)
    assert stream.throw(ValueError("x", 1)) == ["caught", "x", 1]
    assert stream.throw(ValueError) == ["caught"]
    assert stream.throw(ValueError, "y") == ["caught", "y"]
    error = UnicodeDecodeError("utf-8", b"x", 0, 1, "bad")
    assert stream.throw(error) == ["caught", "utf-8", b"x", 0, 1, "bad"]
    stream.close()


def test_what_is_thrown_ahead_drops_what_was_made_ahead(service: Streaming) -> None:
    stream = service.catch_ahead("")
    assert list(islice(stream, 5)) == list(range(5))
    assert stream.throw(KeyError("x")) == ["KeyError", "x"]
    after = list(islice(stream, 40))
    first = after[0]
    assert isinstance(first, int)
    assert 4 <= first <= 4 + WINDOW
    assert after == list(range(first, first + 40))
    assert stream.throw(streaming.Custom("y")) == ["KeyError", "y"]
    stream.close()


def test_what_is_thrown_is_never_too_large_to_be_told_while_items_come(
    service: Streaming,
) -> None:
    """The daemon would not read it: it waits for room for the items ahead."""
    for _ in range(10):
        stream = service.chunks(60_000, 1000)
        next(stream)
        next(stream)
        error = KeyError("x" * (2 << 20))
        with pytest.raises(KeyError) as caught:
            stream.throw(error)
        assert caught.value is error


def test_what_is_thrown_and_not_caught_comes_back_as_itself(service: Streaming) -> None:
    worker = service.process_id()
    for error in (streaming.Custom("x"), KeyboardInterrupt(), GeneratorExit()):
        stream = service.answer("first")
        next(stream)
        with pytest.raises(type(error)) as caught:
            stream.throw(error)
        assert caught.value is error
        assert list(stream) == []
    assert service.process_id() == worker


def test_throw_before_the_first_item_or_after_the_last_raises_here(
    service: Streaming,
) -> None:
    for items in (0, 1):
        stream = service.numbers(items)
        with pytest.raises(KeyError):
            stream.throw(KeyError("x"))
        assert list(stream) == []
        list(stream)
        with pytest.raises(LookupError):
            stream.throw(LookupError())


def test_throw_when_the_generator_has_ended_ahead_raises_here(
    service: Streaming,
) -> None:
    stream = service.numbers(5)
    assert list(islice(stream, 3)) == [0, 1, 2]
    with pytest.raises(KeyError):
        stream.throw(KeyError("x"))
    assert service.echo(1) == 1


def test_a_stream_makes_a_context_manager(service: Streaming, held: Fifo) -> None:
    holding = contextlib.contextmanager(service.hold)
    with pytest.raises(KeyError), holding(held.path) as first:
        assert first == 0
        assert held.is_held()
        raise KeyError
    held.wait_until_let_go()


# -- deadlines -----------------------------------------------------------------


def test_a_consumer_that_asks_for_nothing_keeps_no_worker_beyond_the_deadline(
    service: Streaming, held: Fifo
) -> None:
    stream = service.short_hold(held.path)
    assert next(stream) == 0
    held.wait_until_let_go()
    with pytest.raises(privsep.CallTimeout, match=r"in time \(2 s\)"):
        list(stream)


def test_a_consumer_that_asks_for_nothing_keeps_no_worker_beyond_the_items_deadline(
    service: Streaming, held: Fifo
) -> None:
    stream = service.short_item_hold(held.path)
    assert next(stream) == 0
    held.wait_until_let_go()
    with pytest.raises(privsep.CallTimeout, match=r"1\.5 s for each item"):
        list(stream)


def test_an_item_that_takes_too_long_ends_the_stream(service: Streaming) -> None:
    stream = service.two_and_stop()
    assert list(islice(stream, 2)) == [0, 1]
    with pytest.raises(privsep.CallTimeout, match=r"2 s for each item"):
        next(stream)
    assert service.echo(1) == 1


def test_a_stream_may_take_longer_than_each_of_its_items(processes: Streaming) -> None:
    assert list(processes.slow_numbers(10)) == list(range(10))


def test_a_consumer_has_its_time_for_all_items_that_were_made_before_the_end(
    processes: Streaming,
) -> None:
    stream = processes.five()
    assert next(stream) == 0
    assert next(stream) == 1  # the others are made, too, and the end is said
    time.sleep(2.2)  # more than the generator has for one item
    assert list(stream) == [2, 3, 4]


# -- threads, forks, other calls -----------------------------------------------


def test_another_thread_may_go_on_with_a_stream(service: Streaming) -> None:
    stream = service.numbers(100)
    parts = [
        Threads([lambda: list(islice(stream, 20))]).outcomes()[0] for _ in range(5)
    ]
    assert [number for part in parts for number in part] == list(range(100))  # type: ignore[attr-defined]


def test_an_item_cannot_be_asked_for_while_another_is(service: Streaming) -> None:
    stream = service.log_before_each(2)
    errors = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            errors.extend(Threads([lambda: next(stream)]).outcomes())
            errors.extend(Threads([stream.close]).outcomes())

    streaming.log.addHandler(handler := Handler())
    try:
        assert list(stream) == [0, 1]
    finally:
        streaming.log.removeHandler(handler)
    assert list(map(str, errors)) == ["generator already executing"] * 4


def test_in_a_forked_child_the_stream_is_over_and_in_the_parent_it_goes_on(
    service: Streaming,
) -> None:
    stream = service.numbers(100)
    assert list(islice(stream, 3)) == [0, 1, 2]

    def try_in_child() -> None:
        with pytest.raises(privsep.DaemonGone, match="forked"):
            list(stream)
        assert list(service.numbers(2)) == [0, 1]

    assert Forked(try_in_child).wait() == 0
    assert Forked(stream.close).wait() == 0
    assert Forked(gc.collect).wait() == 0
    assert list(stream) == list(range(3, 100))


def test_a_child_that_the_generator_forks_sends_no_items(processes: Streaming) -> None:
    assert list(processes.fork_between()) == [1, 2, 3]
    assert processes.echo(1) == 1


def test_a_stream_keeps_its_worker_while_other_calls_come(start: Start) -> None:
    service = start("streams")
    streams = [service.numbers(100) for _ in range(3)]
    for stream in streams:
        next(stream)
    assert [service.echo(number) for number in range(20)] == list(range(20))
    for stream in streams:
        assert list(stream) == list(range(1, 100))


def test_a_call_waits_for_the_worker_that_a_stream_keeps(start: Start) -> None:
    service = start("single-stream")
    stream = service.numbers(100)
    next(stream)
    waiting = Threads([lambda: service.echo("waited")])
    assert list(stream) == list(range(1, 100))
    assert waiting.outcomes() == ["waited"]
    stream = service.numbers(100)
    next(stream)
    waiting = Threads([lambda: service.echo("waited")])
    del stream
    assert waiting.outcomes() == ["waited"]


def test_another_clients_request_does_not_cut_a_stream(start: Start) -> None:
    service = start("single-stream")
    stream = service.numbers(1000)
    assert next(stream) == 0
    other = Forked(lambda: service.echo(1))
    assert list(stream) == list(range(1, 1000))
    assert other.wait() == 0
    assert list(service.numbers(5)) == list(range(5))


def test_a_worker_that_went_while_it_was_idle_costs_a_stream_nothing(
    processes: Streaming,
) -> None:
    assert processes.echo(1) == 1
    pidfds = [(pid, os.pidfd_open(pid)) for pid in children(daemon_pid())]
    other = Forked(lambda: [next(processes.numbers(3)) for _ in range(20)])
    assert other.wait() == 0
    for _, pidfd in pidfds:
        os.close(pidfd)
    assert list(processes.numbers(3)) == [0, 1, 2]


# -- memory --------------------------------------------------------------------


def test_a_long_stream_takes_no_more_memory_than_a_short_one(
    service: Streaming,
) -> None:
    """64 MiB; the row "stream" of the benchmarks has a gigabyte."""
    size, times = 64 * 1024, 1024
    stream = service.chunks(size, times)
    assert next(stream) == bytes(size)
    before = streaming.resident()
    for _ in range(times):
        assert len(next(stream)) == size
    grown = streaming.resident() - before
    with pytest.raises(StopIteration) as caught:
        next(stream)
    assert grown < 16 * 2**20
    assert caught.value.value < 16 * 2**20


def test_streams_leave_no_descriptors_behind(service: Streaming) -> None:
    service.echo(1)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        list(service.numbers(3))
        stream = service.numbers(100)
        next(stream)
        stream.close()
        stream = service.numbers(100)
        next(stream)
        del stream
        service.echo(1)
    # A daemon of threads lets go of its first stderr, and then we do, after its start.
    assert len(os.listdir("/proc/self/fd")) in (before, before - 1)
