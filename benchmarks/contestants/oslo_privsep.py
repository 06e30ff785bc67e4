"""oslo.privsep from PyPI, or what oslo/ has in its place: the same calls and starts."""

import sys
from importlib.metadata import packages_distributions

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
from benchmarks.contestants.oslo_privsep_context import context, echo, pin_daemon
from benchmarks.contestants.oslo_privsep_start import (
    THREADS,
    start,
    start_by_command,
)


def echo_one() -> Round:
    """Call echo(1) from one thread."""
    start()
    place(pin_daemon)
    return latency(lambda: echo(1))


def echo_threads() -> Round:
    """Call echo(1) from four threads."""
    start()
    return throughput(lambda: echo(1), THREADS)


def fork() -> Round:
    """Start the daemon and make its first call."""
    return first_use(start, lambda: echo(1), context.stop)


def fork_script() -> Round:
    """Do so in a script."""
    modules = "benchmarks.contestants.oslo_privsep"
    return script(
        f"from {modules}_context import context, echo",
        f"from {modules}_start import start",
        "start()",
        "echo(1)",
        "context.stop()",
    )


def sudo() -> Round:
    """Start the daemon through sudo and make its first call."""
    need_sudo()
    command = f"sudo -n {sys.prefix}/bin/privsep-helper"
    return first_use(lambda: start_by_command(command), lambda: echo(1), context.stop)


if __name__ == "__main__":
    serve(
        {
            "echo": echo_one,
            "echo-threads": echo_threads,
            "fork": fork,
            "fork-script": fork_script,
            "sudo": sudo,
        },
        *set(packages_distributions()["oslo_privsep"]),
        "msgpack",
    )
