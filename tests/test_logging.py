"""What the daemon's functions log and print arrives at the client's loggers."""

from __future__ import annotations

import contextvars
import logging
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest
import workload  # noqa: F401 - it adds its services
from observe import (
    Fifo,
    Release,
    Threads,
    begin_to_stop,
    daemon_pid,
    kill,
    wait_for_rest,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from workload import Workload

    Start = Callable[..., Workload]

LONG = 120.0  # seconds: what never comes shall not block

BOTH = pytest.mark.parametrize("name", ["leisurely", "leisurely-threads"])

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id")


class Recorder(logging.Handler):
    """Keeps records, and where they were handled; others may wait for one.

    It counts the lines that were printed, and those that it is told were dropped.
    """

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.threads: list[int] = []
        self.requests: list[str | None] = []
        self.came = self.dropped = 0
        self._come = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._come:
            self.records.append(record)
            self.threads.append(threading.get_ident())
            self.requests.append(request_id.get(None))
            self.came += record.msg == "%s of %s: %s"
            if record.msg == "%s log messages were dropped":
                self.dropped += cast("tuple[int]", record.args)[0]
            self._come.notify_all()

    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    def wait_for(self, text: str) -> logging.LogRecord:
        """Return the first record whose message contains `text`."""

        def found() -> list[logging.LogRecord]:
            return [r for r in self.records if text in r.getMessage()]

        self.wait_until(found, f"no {text!r} came")
        return found()[0]

    def wait_for_line(self, stream: str, text: str) -> None:
        """Return when a line has come that was printed to one of the streams."""
        begin, end = f"{stream} of ", f": {text}"
        self.wait_until(
            lambda: any(
                m.startswith(begin) and m.endswith(end) for m in self.messages()
            ),
            f"no {text!r} came on {stream}",
        )

    def wait_until(self, holds: Callable[[], object], otherwise: str) -> None:
        """Wait until something holds of the records; it is asked after each."""
        with self._come:
            assert self._come.wait_for(holds, LONG), otherwise


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    handler = Recorder()
    root = logging.getLogger()
    root.addHandler(handler)
    loggers = [logging.getLogger("workload"), logging.getLogger("privsep")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
    yield handler
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    root.removeHandler(handler)


# -- records -----------------------------------------------------------------------


@BOTH
def test_a_record_is_handled_in_the_calling_thread_before_the_call_returns(
    start: Start, recorder: Recorder, name: str
) -> None:
    service = start(name)
    request_id.set("mine")
    service.log_message(logging.WARNING, "in the call")
    assert recorder.messages() == ["in the call"]
    assert recorder.threads == [threading.get_ident()]
    assert recorder.requests == ["mine"]


@BOTH
def test_a_record_says_where_it_was_made(
    start: Start, recorder: Recorder, name: str
) -> None:
    service = start(name)
    service.log_message(logging.WARNING, "in the call")
    (record,) = recorder.records
    assert (record.name, record.levelno) == ("workload", logging.WARNING)
    assert (record.module, record.funcName) == ("workload", "log_message")
    assert record.process == service.process_id() or name == "leisurely"


@BOTH
def test_what_extra_adds_arrives_if_it_crosses(
    start: Start, recorder: Recorder, name: str
) -> None:
    start(name).log_with_extra()
    (record,) = recorder.records
    added = vars(record)
    assert (added["request"], added["tags"]) == ("req-1", ("a", {"b": 2}))
    assert not {"unsendable", "long"} & added.keys()


def test_records_of_many_calls_reach_the_thread_that_made_each(
    start: Start, recorder: Recorder
) -> None:
    service = start("leisurely-threads")

    def call_often(number: int) -> None:
        for _ in range(20):
            service.log_message(logging.WARNING, f"{number}={threading.get_ident()}")

    threads = [threading.Thread(target=call_often, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(recorder.records) == 80
    for message, thread_id in zip(recorder.messages(), recorder.threads, strict=True):
        assert message.partition("=")[2] == str(thread_id)


@BOTH
def test_a_record_of_a_thread_of_the_function_arrives(
    start: Start, recorder: Recorder, name: str
) -> None:
    service = start(name)
    service.log_from_thread("of a thread")
    record = recorder.wait_for("of a thread")
    assert record.name == "workload"


@BOTH
def test_levels_follow_the_clients(start: Start, recorder: Recorder, name: str) -> None:
    service = start(name)
    logger = logging.getLogger("workload")
    for level in (logging.DEBUG, logging.ERROR, logging.INFO):
        logger.setLevel(level)
        for made in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            service.log_message(made, f"{made} at {level}")
    assert recorder.messages() == [
        *(f"{made} at 10" for made in (10, 20, 30, 40)),
        "40 at 40",
        *(f"{made} at 20" for made in (20, 30, 40)),
    ]


@BOTH
def test_exception_information_arrives_as_text(
    start: Start, recorder: Recorder, name: str
) -> None:
    service = start(name)
    service.log_exception("missing")
    (record,) = recorder.records
    text = logging.Formatter().format(record)
    assert text.startswith("it failed\nTraceback (most recent call last):\n")
    assert "in log_exception" in text
    assert text.endswith("KeyError: 'missing'")


@pytest.mark.parametrize("text", ["100 %s %d %", "", "ünï\udc80", "nul\0", "a\nb"])
def test_a_message_arrives_as_it_was(
    start: Start, recorder: Recorder, text: str
) -> None:
    service = start("leisurely")
    service.log_message(logging.WARNING, text)
    assert recorder.messages() == [text]


@BOTH
def test_a_very_long_message_is_bounded(
    start: Start, recorder: Recorder, name: str
) -> None:
    service = start(name)
    service.log_message(logging.WARNING, "long " + "x" * 10_000_000)
    (message,) = recorder.messages()
    assert message.startswith("long xxx")
    assert 1000 < len(message) < 100_000


def test_a_record_larger_than_the_message_limit_does_not_take_the_replys_place(
    start: Start, recorder: Recorder
) -> None:
    service = start("tight")
    for number in range(3):  # 90 kB, the limit is 64 KiB
        assert service.echo_after_log("\N{SNOWMAN}", 30_000, number) == number
    assert service.echo(3) == 3
    assert len(recorder.records) == 3
    for message in recorder.messages():
        assert message.startswith("\N{SNOWMAN}" * 1000)


def test_an_error_while_a_record_is_handled_does_not_spoil_the_next_call(
    start: Start, recorder: Recorder
) -> None:
    service = start("leisurely")

    def fail(record: logging.LogRecord) -> bool:
        raise LookupError(record.getMessage())

    recorder.addFilter(fail)
    with pytest.raises(LookupError, match="in the call"):
        service.log_message(logging.WARNING, "in the call")
    recorder.removeFilter(fail)
    assert service.echo(1) == 1


def test_an_error_while_a_stray_record_is_handled_does_not_end_the_reading(
    start: Start, recorder: Recorder
) -> None:
    service = start("leisurely")
    failed = threading.Event()

    def fail(record: logging.LogRecord) -> bool:
        del record
        failed.set()
        raise LookupError

    recorder.addFilter(fail)
    service.log_from_thread("first")
    assert failed.wait(LONG)
    recorder.removeFilter(fail)
    service.log_from_thread("second")
    recorder.wait_for("second")


def test_an_error_while_a_line_of_the_daemon_is_handled_does_not_end_the_reading(
    start: Start, recorder: Recorder
) -> None:
    def fail(record: logging.LogRecord) -> bool:
        if record.getMessage().endswith("first"):
            raise LookupError
        return True

    recorder.addFilter(fail)
    start("chatty").context.stop()
    assert recorder.messages() == ["stderr of the daemon: second"]


def test_threads_that_make_the_first_call_together_start_one_reader(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = start("leisurely")
    second = threading.Thread(target=service.echo, args=(2,))
    readers: list[threading.Thread] = []

    class Thread(threading.Thread):
        """One that is made when another caller has come as far as it can."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            readers.append(self)
            if len(readers) == 1:
                second.start()
                with suppress(FileNotFoundError):  # it has ended
                    wait_for_rest(cast("int", second.native_id))

    monkeypatch.setattr(threading, "Thread", Thread)
    service.echo(1)
    second.join()
    assert len(readers) == 1


def test_a_handler_that_blocks_does_not_block_who_lets_go_of_the_daemon(
    start: Start, recorder: Recorder
) -> None:
    service = start("leisurely")
    blocks, go_on = threading.Event(), threading.Event()

    def block(record: logging.LogRecord) -> bool:
        if record.getMessage().endswith(": printed"):
            blocks.set()
            go_on.wait()
        return True

    recorder.addFilter(block)
    service.print_text("printed")
    assert blocks.wait(LONG)
    kill(daemon_pid())
    call = Threads([partial(service.echo, 1)])
    try:
        call.outcomes()  # DaemonGone, or what the next daemon answers
    finally:
        go_on.set()


# -- output ------------------------------------------------------------------------


@BOTH
def test_what_a_function_prints_is_logged(
    start: Start, recorder: Recorder, name: str
) -> None:
    service = start(name)
    service.print_text("printed")
    for stream in ("stdout", "stderr"):
        record = recorder.wait_for(f"{stream} of")
        assert record.getMessage().endswith(": printed")
        assert record.name == f"privsep.{name}"


@BOTH
def test_what_a_program_prints_is_logged(
    start: Start, recorder: Recorder, name: str
) -> None:
    service = start(name)
    service.run_loud_program("echo to-out; echo to-err >&2")
    assert "stdout of" in recorder.wait_for("to-out").getMessage()
    assert "stderr of" in recorder.wait_for("to-err").getMessage()


def test_what_a_dying_worker_prints_last_is_logged(
    start: Start, recorder: Recorder
) -> None:
    service = start("leisurely")
    with pytest.raises(Exception, match="exited with 3"):
        service.print_and_exit("last words", 3)
    recorder.wait_for("last words")


@BOTH
def test_what_is_printed_before_stop_is_logged_when_stop_returns(
    start: Start, recorder: Recorder, name: str
) -> None:
    service = start(name)
    for number in range(5):
        service.print_text(f"line {number}")
    service.context.stop()
    lines = [m.partition(": ")[2] for m in recorder.messages() if "stdout of" in m]
    assert lines == [f"line {number}" for number in range(5)]


@BOTH
def test_calls_go_on_and_lines_wait_where_the_client_gets_no_thread_to_read_them(
    start: Start, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    service = start(name)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        service.print_text("printed")
    assert not recorder.came
    service.context.stop()
    assert recorder.wait_for("stdout of").getMessage().endswith(": printed")


@BOTH
def test_what_a_running_call_prints_after_stop_began_is_logged(
    start: Start, recorder: Recorder, name: str, tmp_path: Path
) -> None:
    service = start(name)
    with Fifo(tmp_path, "held") as held, Release(tmp_path) as release:
        path = release.path
        call = Threads([lambda: service.hold_and_print(held.path, path, "late")])
        held.read_line()
        stopping = begin_to_stop(service.context)
        release.let_go()
        assert call.outcomes() == [None]
        assert stopping.outcomes() == [None]
    assert [m for m in recorder.messages() if m.endswith(": late")]


@BOTH
def test_a_few_hundred_lines_printed_at_once_are_all_logged(
    start: Start, recorder: Recorder, name: str
) -> None:
    service = start(name)
    service.flood(300, "line")
    service.print_text("the end")
    recorder.wait_for_line("stdout", "the end")
    lines = [m for m in recorder.messages() if m.endswith(": line")]
    assert len(lines) == 300
    assert not [m for m in recorder.messages() if "were dropped" in m]


@BOTH
def test_a_very_long_line_is_bounded(
    start: Start, recorder: Recorder, name: str
) -> None:
    service = start(name)
    # Several times the bound, and less than the log line holds if nobody reads.
    service.write_bytes(1, b"y" * 50_000 + b"\n")
    service.print_text("the end")
    recorder.wait_for_line("stdout", "the end")
    for message in recorder.messages():
        assert len(message) < 10_000
    assert sum(message.count("y") for message in recorder.messages()) >= 8192


@BOTH
def test_binary_rubbish_is_logged_escaped_and_does_no_harm(
    start: Start, recorder: Recorder, name: str
) -> None:
    service = start(name)
    service.write_bytes(2, bytes(range(256)) * 20 + b"\n")
    service.print_text("the end")
    recorder.wait_for_line("stderr", "the end")
    assert service.echo(1) == 1
    assert any(r"\xff" in message for message in recorder.messages())


@BOTH
def test_a_flood_of_lines_neither_blocks_nor_breaks_calls_and_is_counted(
    start: Start, recorder: Recorder, name: str
) -> None:
    service = start(name)
    lines = 100_000  # more than are kept for a slow reader
    flooding = Threads([lambda: service.flood(lines, "wet")])
    assert [service.echo(number) for number in range(100)] == list(range(100))
    assert flooding.outcomes() == [None]
    recorder.wait_until(lambda: recorder.came + recorder.dropped == lines, "lost")
    assert recorder.came


def test_a_client_that_does_not_read_its_logs_does_not_block_calls(
    start: Start, recorder: Recorder
) -> None:
    service = start("leisurely")
    service.echo(1)
    blocked = threading.Event()

    def block(record: logging.LogRecord) -> bool:
        if record.name.startswith("privsep."):
            blocked.wait()
        return True

    recorder.addFilter(block)
    try:
        service.flood(100_000, "wet")
        assert [service.echo(number) for number in range(10)] == list(range(10))
    finally:
        blocked.set()
        recorder.removeFilter(block)
