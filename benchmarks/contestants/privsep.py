"""Ours, from this repository."""

import asyncio
import statistics
from functools import partial
from time import perf_counter_ns
from typing import Literal

import privsep
from benchmarks.contestants import lockdown
from benchmarks.contestants.floor import ITEM, ITEMS, LARGE
from benchmarks.contestants.measure import (
    Round,
    first_use,
    latency,
    need_sudo,
    place,
    script,
    serve,
    throughput,
)
from benchmarks.contestants.privsep_contexts import (
    WORKERS,
    chunks,
    count,
    echo,
    echo_annotated,
    echo_large,
    echo_thread,
    echo_unannotated,
    pin_daemon,
    pin_worker,
    processes,
    threads,
)


def echo_one() -> Round:
    """Call echo(1) from one thread, served by a process."""
    processes.start("fork")
    place(pin_worker)
    return latency(lambda: echo(1))


def echo_of_large_value() -> Round:
    """Call echo with a large value from one thread, served by a process."""
    processes.start("fork")
    place(pin_worker)
    value = bytes(LARGE)
    return latency(lambda: echo_large(value))


def stream() -> Round:
    """Receive a gibibyte in items from a generator, served by a process."""
    processes.start("fork")

    def call() -> None:
        for _ in chunks(ITEM, ITEMS):
            pass

    return latency(call)


def stream_item() -> Round:
    """Take the items of a long stream, served by a process."""
    processes.start("fork")
    place(pin_worker)
    numbers = count()
    return latency(lambda: next(numbers))


def echo_in_loop() -> Round:
    """Await echo(1) from one task, served by a process."""
    processes.start("fork")
    place(pin_worker)
    awaited = privsep.aio(echo)

    def run(count: int) -> float:
        async def calls() -> float:
            times = []
            for _ in range(count):
                begin = perf_counter_ns()
                await awaited(1)
                times.append(perf_counter_ns() - begin)
            return statistics.median(times)

        return asyncio.run(calls())

    return run


def echo_three(*, annotated: bool) -> Round:
    """Call a function of three parameters, which are annotated or not."""
    processes.start("fork")
    place(pin_worker)
    function = echo_annotated if annotated else echo_unannotated
    return latency(lambda: function("eth0", 1500, ["10.0.0.1"]))


def echo_audited() -> Round:
    """Call echo(1) from one thread, with an audit that reports its failures."""
    from benchmarks.contestants import privsep_audited as audited

    audited.reported.start("fork")
    place(audited.pin_reported)
    return latency(lambda: audited.echo_reported(1))


def echo_audit_required() -> Round:
    """Call echo(1) from one thread, with an audit that must know of it before."""
    from benchmarks.contestants import privsep_audited as audited

    audited.required.start("fork")
    place(audited.pin_required)
    return latency(lambda: audited.echo_required(1))


def echo_isolated_by_thread() -> Round:
    """Call echo(1) from one thread, served by a thread."""
    threads.start("fork")
    place(pin_daemon)
    return latency(lambda: echo_thread(1))


def echo_threads() -> Round:
    """Call echo(1) from as many threads as there are workers."""
    processes.start("fork")
    return throughput(lambda: echo(1), WORKERS)


def first_call(method: Literal["fork", "exec"]) -> Round:
    """Start the daemon and make its first call."""
    return first_use(lambda: processes.start(method), lambda: echo(1), processes.stop)


def first_call_of_thread() -> Round:
    """Start a daemon whose workers are threads, by fork, and make its first call."""
    return first_use(
        lambda: threads.start("fork"), lambda: echo_thread(1), threads.stop
    )


def fork_script() -> Round:
    """Do so by fork in a script."""
    module = "benchmarks.contestants.privsep_contexts"
    return script(
        f"from {module} import echo, processes",
        "processes.start('fork')",
        "echo(1)",
        "processes.stop()",
    )


def sudo() -> Round:
    """Start the least daemon through sudo and make its first call."""
    from benchmarks.contestants import privsep_least as least

    need_sudo()
    start = partial(least.context.start, "sudo")
    return first_use(start, lambda: least.echo(1), least.context.stop)


def sudo_annotated() -> Round:
    """Start a daemon that judges arguments through sudo and make its first call."""
    from benchmarks.contestants import privsep_annotated as annotated

    need_sudo()
    start = partial(annotated.context.start, "sudo")
    call = partial(annotated.echo, "eth0", 1500, ["10.0.0.1"])
    return first_use(start, call, annotated.context.stop)


if __name__ == "__main__":
    serve(
        {
            "echo": echo_one,
            "echo-large": echo_of_large_value,
            "stream": stream,
            "stream-item": stream_item,
            "echo-asyncio": echo_in_loop,
            "echo-annotated": lambda: echo_three(annotated=True),
            "echo-unannotated": lambda: echo_three(annotated=False),
            "echo-audited": echo_audited,
            "echo-audit-required": echo_audit_required,
            "echo-thread-isolation": echo_isolated_by_thread,
            "echo-threads": echo_threads,
            "fork": lambda: first_call("fork"),
            "fork-thread-isolation": first_call_of_thread,
            "fork-script": fork_script,
            "exec": lambda: first_call("exec"),
            "sudo": sudo,
            "sudo-annotated": sudo_annotated,
            "lockdown": lambda: lockdown.whole(None),
            "lockdown-sandbox": lambda: lockdown.whole(lockdown.SANDBOX),
            "lockdown-list": lambda: lockdown.whole(lockdown.LIST),
            "proof": lambda: lockdown.proof(None),
            "proof-sandbox": lambda: lockdown.proof(lockdown.SANDBOX),
            "proof-list": lambda: lockdown.proof(lockdown.LIST),
            "proof-kill": lambda: lockdown.proof(lockdown.KILLING_LIST),
        },
        "privsep",
    )
