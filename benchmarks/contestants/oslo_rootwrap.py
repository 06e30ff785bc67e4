"""The peer of our rootwrap: oslo.rootwrap from PyPI."""

import importlib
import sys
from functools import partial
from pathlib import Path

from benchmarks.contestants.measure import (
    Call,
    Round,
    command,
    latency,
    serve,
    throughput,
)
from benchmarks.contestants.rootwrap_policy import policy

SCRIPT = str(Path(sys.executable).with_name("oslo-rootwrap"))
DAEMON = str(Path(sys.executable).with_name("oslo-rootwrap-daemon"))


def one_shot() -> Round:
    """Run true."""
    return command(SCRIPT, policy(), "true")


def daemon() -> Call:
    """Return a call that runs true in the daemon."""
    client = importlib.import_module("oslo_rootwrap.client")
    run = partial(client.Client([DAEMON, policy()]).execute, ["true"])
    assert list(run()) == [0, "", ""]
    return run


if __name__ == "__main__":
    serve(
        {
            "one-shot": one_shot,
            "daemon": lambda: latency(daemon()),
            "daemon-1-thread": lambda: throughput(daemon(), 1),
            "daemon-8-threads": lambda: throughput(daemon(), 8),
        },
        "oslo.rootwrap",
    )
