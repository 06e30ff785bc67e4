"""A service that sleeps, forks, dies, floods and fails; importable by any daemon."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from service import (
    echo,
    exit_with,
    kill_self,
    process_id,
    services,
    short_sleep,
    sleep,
)

import privsep

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("workload")
counter = 0


def count() -> int:
    global counter  # noqa: PLW0603 - what the workers share, or do not
    counter += 1
    return counter


def descriptor_limit() -> int:
    """Return how many descriptors this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def patient_sleep(seconds: float) -> str:
    """Sleep; it has no deadline."""
    return sleep(seconds)


def _hold(fifo: str) -> int:
    """Open `fifo` for writing, for as long as this process lives."""
    descriptor = os.open(fifo, os.O_WRONLY)
    os.write(descriptor, b"%d\n" % os.getpid())
    return descriptor


def _hold_until(fifo: str, release: str, begun: int | None = None) -> None:
    """Hold `fifo` until somebody lets go of `release`; tell `begun` first."""
    with open(release) as file:
        _hold(fifo)
        if begun is not None:
            os.write(begun, b"x")
        file.read()


def hold(fifo: str, seconds: float) -> str:
    """Hold `fifo` open while sleeping."""
    descriptor = _hold(fifo)
    time.sleep(seconds)
    os.close(descriptor)
    return "held"


def short_hold(fifo: str, seconds: float) -> str:
    """Hold `fifo` open while sleeping; its own deadline is 0.3 seconds."""
    return hold(fifo, seconds)


def hold_with_program(fifo: str) -> None:
    """Hold `fifo` open, and have a program hold it, for ever."""
    descriptor = _hold(fifo)
    subprocess.run(["/bin/sleep", "1000"], pass_fds=[descriptor], check=True)


def hold_and_ignore_signals(fifo: str) -> None:
    """Ignore or block every signal that can be; hold `fifo` open."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, signal.SIG_IGN)
        except OSError:
            continue
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    _hold(fifo)
    while True:
        time.sleep(1)


def hold_the_interpreter(fifo: str) -> int:
    """Hold `fifo` open and the interpreter's lock, in C, for ever."""
    _hold(fifo)
    return sum(range(10**12))


def hold_until(fifo: str, release: str) -> str:
    """Hold `fifo` open until somebody writes to the fifo `release`."""
    with open(release) as file:
        descriptor = _hold(fifo)
        text = file.read()
    os.close(descriptor)
    return text


def append(path: str, line: str) -> None:
    """Append `line` to a file: one execution, one line."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def leave_child(workers: str, childs: str, release: str) -> str:
    """Leave a child that holds `childs` until `release`; hold `workers` open."""
    if os.fork():
        _hold(workers)
        return "left"
    try:
        _hold_until(childs, release)
    finally:
        os._exit(0)


def leave_child_then_overrun(workers: str, childs: str, release: str) -> None:
    leave_child(workers, childs, release)
    time.sleep(1000)


def die_before_child(number: int, fifo: str, release: str) -> None:
    """Die of a signal; a child that keeps every descriptor waits for `release`.

    It is forked behind Python's back, so nothing closes the channel in it.
    """
    reader, writer = os.pipe()
    if ctypes.PyDLL(None).fork() == 0:
        try:
            os.setsid()
            _hold_until(fifo, release, writer)
        finally:
            os._exit(0)
    os.read(reader, 1)
    os.kill(os.getpid(), number)
    signal.pause()


def fork_and_both_return() -> str:
    """Fork; return "parent" here, after the child has returned "child"."""
    child = os.fork()
    if child == 0:
        return "child"
    os.waitid(os.P_PID, child, os.WEXITED)
    return "parent"


def fork_and_stay(fifo: str, release: str) -> None:
    """Leave a child of the function that lives until `release`."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            _hold_until(fifo, release, writer)
        finally:
            os._exit(0)
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)


def run_program(script: str) -> tuple[int, str]:
    done = subprocess.run(
        ["/bin/sh", "-c", script], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout


def crash() -> None:
    """Read address 0."""
    ctypes.string_at(0)


def call_own() -> tuple[int, int]:
    """Call an entrypoint of the context that runs this."""
    assert serving is not None
    return os.getpid(), serving.process_id()


def call_other() -> None:
    """Call an entrypoint of another context."""
    assert serving is not None
    other = brisk if serving.context is not brisk.context else leisurely
    other.process_id()


def log_with_extra() -> None:
    added = {"request": "req-1", "tags": ("a", {"b": 2})}
    log.warning("text", extra=added | {"unsendable": object(), "long": "x" * 10_000})


def log_message(level: int, text: str) -> int:
    log.log(level, text)
    return threading.get_native_id()


def echo_after_log(text: str, times: int, number: int) -> int:
    log.warning(text * times)
    return number


def log_exception(text: str) -> None:
    nothing: dict[str, int] = {}
    try:
        nothing[text]
    except KeyError:
        log.exception("it failed")


def log_from_thread(text: str) -> None:
    thread = threading.Thread(target=log.warning, args=(text,))
    thread.start()
    thread.join()


def print_text(text: str) -> None:
    print(text, flush=True)
    print(text, file=sys.stderr, flush=True)


def hold_and_print(fifo: str, release: str, text: str) -> None:
    hold_until(fifo, release)
    print_text(text)


def print_and_exit(text: str, status: int) -> None:
    print_text(text)
    os._exit(status)


def run_loud_program(script: str) -> None:
    subprocess.run(["/bin/sh", "-c", script], check=True)


def write_bytes(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def flood(lines: int, text: str) -> None:
    """Write `lines` lines to stdout as fast as can be."""
    write_bytes(1, f"{text}\n".encode() * lines)


def take_memory(size: int) -> int:
    return len(bytearray(size))


def make_list(length: int) -> list[int]:
    return [0] * length


def make_bytes(size: int) -> bytes:
    return bytes(size)


def make_nested_bytes(count: int, size: int) -> list[bytes]:
    return [bytes(size)] * count


def make_nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def make_cycle() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


def raise_with(size: int) -> None:
    raise ValueError("x" * size)


FUNCTIONS: tuple[Callable[..., object], ...] = (
    descriptor_limit,
    echo, process_id, count, sleep, hold, hold_with_program, hold_and_ignore_signals,
    hold_the_interpreter, hold_until, append, die_before_child, fork_and_both_return,
    fork_and_stay, run_program, exit_with, crash, kill_self, call_own, call_other,
    log_message, log_with_extra, log_exception, log_from_thread, print_text,
    echo_after_log, hold_and_print, print_and_exit, run_loud_program, write_bytes,
    flood, take_memory,
    make_list, make_bytes, make_nested_bytes, make_nested, make_cycle, raise_with,
)  # fmt: skip

serving: Workload | None = None


class Workload:
    """A context, and its entrypoints as attributes."""

    def __init__(self, context: privsep.Context) -> None:
        self.context = context
        self._entrypoints: dict[str, Callable[..., Any]] = {}
        for function in FUNCTIONS:
            self._expose(function, context.entrypoint)
        self._expose(short_sleep, context.entrypoint(timeout=0.3))
        self._expose(short_hold, context.entrypoint(timeout=0.3))
        self._expose(patient_sleep, context.entrypoint(timeout=None))
        self._expose(leave_child, context.entrypoint(detach=True))
        self._expose(leave_child_then_overrun, context.entrypoint(detach=True))
        # No Service, but `start` finds it there, and its tests say which they get.
        services[context.name] = self  # type: ignore[assignment]

    def _expose(
        self,
        function: Callable[..., object],
        entrypoint: Callable[..., Callable[..., Any]],
    ) -> None:
        def run(*args: object, **kwargs: object) -> object:
            global serving  # noqa: PLW0603 - a daemon has one context
            serving = self
            return function(*args, **kwargs)

        run.__qualname__ = run.__name__ = function.__name__
        run.__module__ = __name__
        self._entrypoints[function.__name__] = entrypoint(run)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        try:
            return self._entrypoints[name]
        except KeyError:
            raise AttributeError(name) from None


MEBIBYTE = 1024 * 1024

leisurely_context = privsep.Context("leisurely", capabilities=[], timeout=120.0)
leisurely = Workload(leisurely_context)
leisurely_threads_context = privsep.Context(
    "leisurely-threads", capabilities=[], timeout=120.0, isolation="thread"
)
leisurely_threads = Workload(leisurely_threads_context)
brisk_context = privsep.Context("brisk", capabilities=[], timeout=0.3)
brisk = Workload(brisk_context)
brisk_threads_context = privsep.Context(
    "brisk-threads", capabilities=[], timeout=0.3, isolation="thread", workers=2
)
brisk_threads = Workload(brisk_threads_context)
lonely_context = privsep.Context("lonely", capabilities=[], timeout=120.0, workers=1)
lonely = Workload(lonely_context)
lonely_threads_context = privsep.Context(
    "lonely-threads", capabilities=[], timeout=120.0, workers=1, isolation="thread"
)
lonely_threads = Workload(lonely_threads_context)
endless_context = privsep.Context("endless", capabilities=[], timeout=None, workers=1)
endless = Workload(endless_context)
aeon_context = privsep.Context("aeon", capabilities=[], timeout=1e300, workers=1)
aeon = Workload(aeon_context)
tight_context = privsep.Context(
    "tight", capabilities=[], timeout=120.0, max_message=64 * 1024, workers=1
)
tight = Workload(tight_context)
frugal_context = privsep.Context(
    "frugal", capabilities=[], timeout=120.0, memory=1024 * MEBIBYTE, workers=1
)
frugal = Workload(frugal_context)
frugal_threads_context = privsep.Context(
    "frugal-threads",
    capabilities=[],
    timeout=120.0,
    memory=1024 * MEBIBYTE,
    isolation="thread",
)
frugal_threads = Workload(frugal_threads_context)
starved_context = privsep.Context(
    "starved", capabilities=[], timeout=120.0, memory=MEBIBYTE
)
starved = Workload(starved_context)
starved_for_ever_context = privsep.Context(
    "starved-for-ever", capabilities=[], timeout=None, memory=MEBIBYTE
)
starved_for_ever = Workload(starved_for_ever_context)
chatty_context = privsep.Context(
    "chatty", capabilities=[], modules=["workload", "printing"]
)
chatty = Workload(chatty_context)
crowded_context = privsep.Context(  # its user may have one process, or thread
    "crowded",
    capabilities=[],
    user="nobody",
    isolation="thread",
    sandbox=privsep.Sandbox(write=None, rlimits={"NPROC": 1}),
)
crowded = Workload(crowded_context)
