"""Starting the daemon of oslo.privsep, with the options of a client."""

import importlib
from typing import Any

from benchmarks.contestants.oslo_privsep_context import context, priv_context

cfg: Any = importlib.import_module("oslo_config.cfg")

THREADS = 4

cfg.CONF([], project="bench")
# As many as ours has workers; the default is one for each processor.
cfg.CONF.set_override("thread_pool_size", THREADS, group="bench")


def start() -> None:
    """Start the daemon as a fork."""
    context.start(priv_context.Method.FORK)


def start_by_command(command: str) -> None:
    """Start the daemon by a command that gives privileges."""
    cfg.CONF.set_override("helper_command", command, group="bench")
    context.start(priv_context.Method.ROOTWRAP)
