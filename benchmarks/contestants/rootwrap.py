"""Our rootwrap, from this repository."""

import sys
from pathlib import Path

from benchmarks.contestants.measure import Round, command, latency, serve
from benchmarks.contestants.rootwrap_policy import policy

LAUNCHER = str(Path(sys.executable).with_name("privsep-rootwrap"))


def one_shot() -> Round:
    """Run true, by the launcher."""
    return command(LAUNCHER, policy(), "true")


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
            "match-10": lambda: match(8),
            "match-10000": lambda: match(9_998),
        },
        "privsep",
    )
