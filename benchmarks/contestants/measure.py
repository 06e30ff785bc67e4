"""What every measuring process needs: the clock, and the line protocol with the runner.

A measuring process is started with the name of one operation and a number of processors
(see `place`). It says one JSON line, its versions or why it cannot be measured here;
then, for each line that it reads, a count, it runs a round of so many operations and
answers with the nanoseconds of one. Between rounds it waits without using the
processor, so that it is not in the others' way.
"""

import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import perf_counter_ns
from typing import NoReturn

from benchmarks.contestants.placement import pin

Call = Callable[[], object]
Round = Callable[[int], float]
"""Runs so many operations and returns the nanoseconds of one."""


class SkipOperation(Exception):
    """The operation cannot be measured on this machine; the message says why."""


def place(pin_other_side: Callable[[int], object]) -> None:
    """Put both sides on as many processors as the row asks for, if it asks.

    Between two processors a ping-pong takes three to four times as long as on one, and
    the scheduler's choice lasts for seconds; so where it is free, a ratio may be one of
    luck.
    """
    asked = int(sys.argv[2])
    available = sorted(os.sched_getaffinity(0))
    if asked > len(available):
        message = f"there are not {asked} processors"
        raise SkipOperation(message)
    if asked:
        pin(available[0])
        pin_other_side(available[asked - 1])


def latency(call: Call) -> Round:
    """Return a round of calls in sequence; its figure is their median."""

    def run(count: int) -> float:
        times = []
        for _ in range(count):
            begin = perf_counter_ns()
            call()
            times.append(perf_counter_ns() - begin)
        return statistics.median(times)

    return run


def throughput(call: Call, threads: int) -> Round:
    """Return a round of calls shared out among threads; its figure is time a call."""

    def run(count: int) -> float:
        begin: list[int] = []
        gate = threading.Barrier(
            threads, action=lambda: begin.append(perf_counter_ns()), timeout=30
        )
        share = count // threads

        def work() -> int:
            call()  # a thread's first call may have to ask for a channel
            gate.wait()
            for _ in range(share):
                call()
            return perf_counter_ns()

        with ThreadPoolExecutor(threads) as crew:
            ends = [crew.submit(work) for _ in range(threads)]
        return (max(end.result() for end in ends) - begin[0]) / (share * threads)

    return run


def first_use(start: Call, call: Call, stop: Call) -> Round:
    """Return a round of starts with the first call, each in a fresh fork.

    A start was made here before, so that what a library imports only then is not
    counted, as what another imports with itself is not; `script` counts both. The clock
    stops before `stop`, and the process stays until its children are gone, so that an
    ending daemon is not in the next one's way.
    """
    start()
    call()
    stop()

    def child(answer: int) -> NoReturn:
        status = 1
        try:
            begin = perf_counter_ns()
            start()
            call()
            os.write(answer, str(perf_counter_ns() - begin).encode())
            stop()
            with suppress(ChildProcessError):
                while True:
                    os.wait()
            status = 0
        except BaseException as error:  # noqa: BLE001 - whatever it is, this copy of the process must not run on
            traceback.print_exc()
            os.write(answer, repr(error).encode())
        os._exit(status)

    def once() -> int:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            child(writer)
        os.close(writer)
        _, status = os.waitpid(pid, 0)
        with os.fdopen(reader, "rb", buffering=0) as answer:
            os.set_blocking(
                reader, False
            )  # a daemon that was forked may hold the other end
            text = (answer.read(4096) or b"").decode()
        if status:
            message = f"a first use failed (wait status {status}) {text}"
            raise RuntimeError(message)
        return int(text)

    return lambda count: statistics.median(once() for _ in range(count))


def command(*argv: str) -> Round:
    """Return a round of runs of a command, each from start to end."""
    return latency(lambda: subprocess.run(argv, check=True, stdin=subprocess.DEVNULL))


def script(*lines: str) -> Round:
    """Return a round of runs of a Python script, each from start to end."""
    return command(sys.executable, "-I", "-c", "\n".join(lines))


def need_sudo() -> None:
    """Skip the operation unless sudo starts this interpreter without a password."""
    if not shutil.which("sudo"):
        message = "sudo is not installed"
        raise SkipOperation(message)
    probe = subprocess.run(
        ["sudo", "-n", sys.executable, "-I", "-S", "-c", "pass"],
        capture_output=True,
        check=False,
    )
    if probe.returncode:
        message = (
            f"no rule lets sudo run without a password: {probe.stderr.decode().strip()}"
        )
        raise SkipOperation(message)


def serve(operations: Mapping[str, Callable[[], Round]], *distributions: str) -> None:
    """Run rounds of the operation that the command line names until stdin closes."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no reply

    def reply(**fields: object) -> None:
        print(json.dumps(fields), file=replies, flush=True)

    try:
        run = operations[sys.argv[1]]()
    except SkipOperation as reason:
        reply(skip=str(reason))
        return
    reply(versions={name: importlib.metadata.version(name) for name in distributions})
    for line in sys.stdin:
        reply(ns=run(int(line)))
