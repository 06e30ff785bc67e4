"""Clients whose modules gevent or eventlet has patched."""

from __future__ import annotations

import importlib.util
import textwrap
from typing import TYPE_CHECKING

import pytest

import scripts

if TYPE_CHECKING:
    from pathlib import Path

GEVENT = """
import gevent.monkey
gevent.monkey.patch_all()
import gevent
spawn, wait, pause = gevent.spawn, lambda green: green.get(), gevent.sleep
"""
EVENTLET = """
import warnings
warnings.simplefilter("ignore")
import eventlet
eventlet.monkey_patch()
spawn, wait, pause = eventlet.spawn, lambda green: green.wait(), eventlet.sleep
"""
BEGIN = """
import os, sys, time, privsep, service
started = service.services["plain"]
def start():
    started.context.start(sys.argv[1])
"""


#: For calls that last: `call()` is one, `wait_for_calls(n)` sees n of them running
#: at once, and none ends before `end_calls()`.
LASTING = """
begun, held = sys.argv[2:]
os.mkfifo(begun)
os.mkfifo(held)
reader = os.open(begun, os.O_RDWR | os.O_NONBLOCK)
holder = open(held, "r+b", 0)
def call():
    return started.tell_and_wait(begun, held)
def wait_for_calls(number):
    while number:
        try:
            number -= len(os.read(reader, number))
        except BlockingIOError:
            pause(0)
def end_calls():
    holder.close()  # not os.close(): gevent's closes when its loop comes round
"""


@pytest.fixture(params=["gevent", "eventlet"])
def patch(request: pytest.FixtureRequest) -> str:
    """The lines that patch a script, and name `spawn`, `wait` and `pause`."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return GEVENT if request.param == "gevent" else EVENTLET


either_method = pytest.mark.parametrize("method", ["exec", "userns"])


def run(patch: str, script: str, method: str, *arguments: object) -> list[str]:
    whole = patch + BEGIN + textwrap.dedent(script)
    return scripts.run(whole, method, *arguments)


def run_lasting(patch: str, script: str, method: str, directory: Path) -> list[str]:
    whole = LASTING + textwrap.dedent(script)
    return run(patch, whole, method, directory / "begun", directory / "held")


@either_method
def test_a_patched_client_starts_calls_and_stops(patch: str, method: str) -> None:
    lines = run(
        patch,
        """
        start()
        print(started.echo("value"))
        try:
            started.fail("KeyError", "name")
        except KeyError as error:
            print(error.args)
        started.context.stop()
        """,
        method,
    )
    assert lines == ["value", "('name',)"]


@either_method
def test_green_threads_go_through_streams(patch: str, method: str) -> None:
    lines = run(
        patch,
        """
        start()
        def consume():
            return list(started.numbers(100)) == list(range(100))
        print(all([wait(green) for green in [spawn(consume) for _ in range(6)]]))
        stream = started.numbers(100)
        print(next(stream), next(stream))
        stream.close()
        started.context.stop()
        """,
        method,
    )
    assert lines == ["True", "0 1"]


@either_method
def test_concurrent_green_threads_each_get_their_own_result(
    patch: str, method: str
) -> None:
    lines = run(
        patch,
        """
        start()
        def call(number):
            return all(
                started.echo([number, n]) == [number, n] for n in range(50)
            )
        greens = [spawn(call, number) for number in range(12)]
        print(all(wait(green) for green in greens))
        large = os.urandom(4 << 20)
        greens = [spawn(started.echo, large) for _ in range(6)]
        print(all(wait(green) == large for green in greens))
        started.context.stop()
        """,
        method,
    )
    assert lines == ["True", "True"]


@either_method
def test_other_green_threads_run_while_one_is_in_a_call(
    patch: str, method: str
) -> None:
    # The call cannot end before another green thread has written to the fifo.
    lines = run(
        patch,
        """
        import tempfile
        from pathlib import Path
        start()
        with tempfile.TemporaryDirectory() as directory:
            fifo = f"{directory}/fifo"
            os.mkfifo(fifo)
            in_call = spawn(started.wait_for_writer, fifo)
            def write():
                while True:
                    try:
                        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
                    except OSError:  # the worker does not read yet
                        pause(0)
            def send():
                # Not os.close(): gevent's closes when its loop comes round.
                with open(write(), "wb", 0) as file:
                    file.write(b"from another")
            writer = spawn(send)
            wait(writer)
            print(wait(in_call))
        started.context.stop()
        """,
        method,
    )
    assert lines == ["from another"]


@either_method
def test_more_green_threads_than_workers_wait_in_turn(
    patch: str, method: str, tmp_path: Path
) -> None:
    lines = run_lasting(
        patch,
        """
        start()
        greens = [spawn(call) for _ in range(8)]
        wait_for_calls(4)  # at once, and not one by one
        end_calls()
        print([wait(green) for green in greens] == ["waited"] * 8)
        started.context.stop()
        """,
        method,
        tmp_path,
    )
    assert lines == ["True"]


@either_method
def test_a_deadline_ends_a_call_of_a_green_thread(patch: str, method: str) -> None:
    lines = run(
        patch,
        """
        start()
        def overrun():
            begun = time.monotonic()
            try:
                started.short_sleep(20.0)
            except privsep.CallTimeout:
                return time.monotonic() - begun >= 0.3
        greens = [spawn(overrun) for _ in range(3)]
        print([wait(green) for green in greens])
        print(started.echo("next"))
        started.context.stop()
        """,
        method,
    )
    assert lines == ["[True, True, True]", "next"]


@either_method
def test_the_deadline_counts_the_wait_for_a_worker_in_a_green_thread(
    patch: str, method: str, tmp_path: Path
) -> None:
    lines = run_lasting(
        patch,
        """
        start()
        long = [spawn(call) for _ in range(4)]
        wait_for_calls(4)
        try:
            started.short_sleep(0.0)
        except privsep.CallTimeout as error:
            print(error)
        end_calls()
        print([wait(green) for green in long] == ["waited"] * 4)
        started.context.stop()
        """,
        method,
        tmp_path,
    )
    assert "did not start in time" in lines[0]
    assert lines[1] == "True"


@either_method
def test_a_green_thread_that_is_killed_in_a_call_takes_no_worker_along(
    patch: str, method: str, tmp_path: Path
) -> None:
    lines = run_lasting(
        patch,
        """
        start()
        for _ in range(6):  # more than there are workers
            green = spawn(call)
            wait_for_calls(1)
            green.kill()
        print(started.echo("next"))
        started.context.stop()
        """,
        method,
        tmp_path,
    )
    assert lines == ["next"]


@either_method
def test_records_of_a_call_arrive_in_a_patched_client(patch: str, method: str) -> None:
    lines = run(
        patch,
        """
        import logging
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        start()
        started.log_message(logging.WARNING, "from the call")
        started.log_from_thread("from a thread")
        started.context.stop()
        """,
        method,
    )
    assert sorted(lines) == ["from a thread", "from the call"]


def test_fork_from_a_patched_process_says_what_to_do(patch: str) -> None:
    lines = run(
        patch,
        """
        try:
            start()
        except privsep.StartError as error:
            print(error)
        """,
        "fork",
    )
    assert "start it before they are patched, or with 'exec'" in lines[0]


@either_method
def test_open_files_cross_from_and_to_a_patched_client(patch: str, method: str) -> None:
    lines = run(
        patch,
        """
        import socket, files
        with files.processes.context:
            ours, theirs = socket.socketpair()
            pause(0)
            ours.send(b"bytes")
            print(files.processes.receive(theirs))
            back = files.processes.echo([ours, privsep.Fd(os.dup(1))])
            print(type(back[0]) is socket.socket, back[0].fileno() != ours.fileno())
            theirs.send(b"more")
            print(back[0].recv(10))
        """,
        method,
    )
    assert lines == ["b'bytes'", "True True", "b'more'"]


@either_method
def test_large_values_cross_from_and_to_a_patched_client(
    patch: str, method: str
) -> None:
    lines = run(
        patch,
        """
        start()
        data = [os.urandom(5_000_000), bytearray(3_000_000)]
        greens = [spawn(started.echo, data) for _ in range(2)]
        print([wait(green) == data for green in greens])
        started.context.stop()
        """,
        method,
    )
    assert lines == ["[True, True]"]
