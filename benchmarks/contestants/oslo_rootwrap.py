"""The peer of our rootwrap: oslo.rootwrap from PyPI."""

import sys
from pathlib import Path

from benchmarks.contestants.measure import Round, command, serve
from benchmarks.contestants.rootwrap_policy import policy

SCRIPT = str(Path(sys.executable).with_name("oslo-rootwrap"))


def one_shot() -> Round:
    """Run true."""
    return command(SCRIPT, policy(), "true")


if __name__ == "__main__":
    serve({"one-shot": one_shot}, "oslo.rootwrap")
