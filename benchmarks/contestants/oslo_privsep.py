"""oslo.privsep from PyPI: the peer of every call and of every start."""

from benchmarks.contestants.measure import (
    Round,
    first_use,
    latency,
    place,
    script,
    serve,
    throughput,
)
from benchmarks.contestants.oslo_privsep_context import (
    THREADS,
    context,
    echo,
    pin_daemon,
    start,
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
    module = "benchmarks.contestants.oslo_privsep_context"
    return script(
        f"from {module} import context, echo, start",
        "start()",
        "echo(1)",
        "context.stop()",
    )


if __name__ == "__main__":
    serve(
        {
            "echo": echo_one,
            "echo-threads": echo_threads,
            "fork": fork,
            "fork-script": fork_script,
        },
        "oslo.privsep",
        "msgpack",
    )
