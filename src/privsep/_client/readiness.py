"""Waiting until a file is ready, under whatever scheduler the client runs.

Runs in the client.  eventlet's hub reads off all that is ready at once, and goes on to
wake a greenlet for each, though the first has made it go on and wait for others: there,
select returns with nothing, long before its time.
"""

from __future__ import annotations

import math
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import selectors


def wait_until(
    selector: selectors.BaseSelector, deadline: float
) -> list[tuple[selectors.SelectorKey, int]]:
    """Return what is ready; nothing only if the deadline has come.

    Args:
        selector: where the files are registered.
        deadline: in the seconds of time.monotonic(); infinity for none.

    Returns:
        What `selector.select` does.

    """
    while True:
        left = deadline - monotonic()
        ready = selector.select(None if left == math.inf else max(0.0, left))
        if ready or left <= 0:
            return ready
