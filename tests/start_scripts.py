"""Scripts that start a daemon, and say what came of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


#: Seconds: what waits for the deadline, which comes twice as late, has failed.
AT_ONCE = 60.0
LATE = 2 * AT_ONCE
START_AND_FAIL = f"""
    import json, sys, importlib, time, privsep
    variable, method, options = sys.argv[1:]
    module, name = variable.split(":")
    context = getattr(importlib.import_module(module), name)
    begun = time.monotonic()
    try:
        context.start(method, **{{"deadline": {LATE}, **json.loads(options)}})
    except privsep.StartError as error:
        print(f"{{time.monotonic() - begun:.1f}}", error)
"""


@pytest.fixture
def fails_at_once() -> Iterator[None]:
    """The test, which only waits for a start that fails, is over soon."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < AT_ONCE


def said_at_once(lines: list[str]) -> str:
    """Return what START_AND_FAIL caught, after seeing that it came soon."""
    seconds, _, first = lines[0].partition(" ")
    assert float(seconds) < AT_ONCE
    return "\n".join([first, *lines[1:]])
