"""The peer of our rootwrap: oslo.rootwrap from PyPI."""

import importlib
from functools import partial

from benchmarks.contestants.measure import Call, serve
from benchmarks.contestants.rootwrap_policy import operations, policy, program


def daemon() -> Call:
    """Return a call that runs true in the daemon."""
    client = importlib.import_module("oslo_rootwrap.client")
    command = [program("oslo-rootwrap-daemon"), policy()]
    run = partial(client.Client(command).execute, ["true"])
    assert list(run()) == [0, "", ""]
    return run


if __name__ == "__main__":
    serve(operations(program("oslo-rootwrap"), daemon), "oslo.rootwrap")
