"""The context of oslo.privsep that is measured."""

import importlib
from collections.abc import Callable
from typing import Any

from benchmarks.contestants.placement import pin

# Not import statements: they are not there where types are checked.
cfg: Any = importlib.import_module("oslo_config.cfg")
priv_context: Any = importlib.import_module("oslo_privsep.priv_context")

THREADS = 4

cfg.CONF([], project="bench")
context = priv_context.PrivContext(
    __name__, cfg_section="bench", pypath=f"{__name__}.context", capabilities=[]
)
# As many as ours has workers; the default is one for each processor.
cfg.CONF.set_override("thread_pool_size", THREADS, group="bench")
entrypoint: Callable[[Callable[[int], int]], Callable[[int], int]] = context.entrypoint


@entrypoint
def echo(value: int) -> int:
    """Return the value."""
    return value


@entrypoint
def pin_daemon(processor: int) -> int:
    """Keep the daemon on one processor."""
    pin(processor)
    return processor


def start() -> None:
    """Start the daemon as a fork."""
    context.start(priv_context.Method.FORK)
