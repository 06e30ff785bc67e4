"""Our rootwrap, from this repository."""

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

LAUNCHER = str(Path(sys.executable).with_name("privsep-rootwrap"))
DAEMON = str(Path(sys.executable).with_name("privsep-rootwrap-daemon"))


def one_shot() -> Round:
    """Run true, by the launcher."""
    return command(LAUNCHER, policy(), "true")


def daemon() -> Call:
    """Return a call that runs true in the daemon, with pipes for its output."""
    from privsep.rootwrap import Client

    run = partial(Client([DAEMON, policy()]).execute, ["true"])
    assert run() == (0, "", "")
    return run


def match(lines: int) -> Round:
    """Judge true, which is the last of so many filters."""
    from privsep.rootwrap import load
    from privsep.rootwrap.judge import judge

    read = load(policy(files=1, lines=lines))
    return latency(lambda: judge(["true"], read).close())


if __name__ == "__main__":
    serve(
        {
            "one-shot": one_shot,
            "daemon": lambda: latency(daemon()),
            "daemon-1-thread": lambda: throughput(daemon(), 1),
            "daemon-8-threads": lambda: throughput(daemon(), 8),
            "match-10": lambda: match(8),
            "match-10000": lambda: match(9_998),
        },
        "privsep",
    )
