"""The lockdown, and its proof alone, each in a fork that gives up its privileges."""

import functools
import os
import statistics
from collections.abc import Callable
from time import perf_counter_ns
from typing import ParamSpec, TypeVar

from benchmarks.contestants.measure import Round, SkipOperation
from privsep import Sandbox
from privsep._lockdown import order
from privsep._lockdown import proof as attempts
from privsep._lockdown.capability_names import mask, number
from privsep._lockdown.ids import Ids

P = ParamSpec("P")
R = TypeVar("R")

_sandbox = functools.partial(
    Sandbox, read=["/usr"], write=["/var/lib"], execute=["/bin/true"]
)
_SYSCALLS = ["@system-service", "~unshare"]

SANDBOX = _sandbox()
LIST = _sandbox(syscalls=_SYSCALLS)
KILLING_LIST = _sandbox(syscalls=_SYSCALLS, syscall_action="kill")


def whole(sandbox: Sandbox | None) -> Round:
    """Return a round of lockdowns to one capability of another user."""

    def measure() -> int:
        begin = perf_counter_ns()
        _lock_down(sandbox)
        return perf_counter_ns() - begin

    return _in_a_fork(measure)


def proof(sandbox: Sandbox | None) -> Round:
    """Return a round of what such a lockdown spends on its attempts to regain."""

    def measure() -> int:
        spent: list[int] = []
        attempts.regained = _timed(attempts.regained, spent)
        attempts.passed_filter = _timed(attempts.passed_filter, spent)
        _lock_down(sandbox)
        return sum(spent)

    return _in_a_fork(measure)


def _timed(function: Callable[P, R], spent: list[int]) -> Callable[P, R]:
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        begin = perf_counter_ns()
        try:
            return function(*args, **kwargs)
        finally:
            spent.append(perf_counter_ns() - begin)

    return call


def _lock_down(sandbox: Sandbox | None) -> None:
    kept = mask([number("CAP_NET_ADMIN")])
    order.lock_down(order.Kept(Ids.look_up("nobody", None), kept, sandbox))


def _in_a_fork(measure: Callable[[], int]) -> Round:
    if os.geteuid():
        message = "only root has privileges to give up"
        raise SkipOperation(message)

    def once() -> int:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.write(writer, str(measure()).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with open(reader, "rb", buffering=0) as answer:
            text = answer.read()
        os.waitpid(pid, 0)
        return int(text)

    return lambda count: statistics.median(once() for _ in range(count))
