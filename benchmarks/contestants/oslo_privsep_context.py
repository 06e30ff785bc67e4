"""The context of oslo.privsep that is measured.

As services have theirs, in a module that imports nothing else: the daemon imports it.
"""

import importlib
from collections.abc import Callable
from typing import Any

from benchmarks.contestants.placement import pin

# No import statement: it is not there where types are checked.
priv_context: Any = importlib.import_module("oslo_privsep.priv_context")

context = priv_context.PrivContext(
    __name__, cfg_section="bench", pypath=f"{__name__}.context", capabilities=[]
)
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
