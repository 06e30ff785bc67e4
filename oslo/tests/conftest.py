"""The suite's leak check, user and interpreter, for the tests of oslo/."""

from __future__ import annotations

import fcntl
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_SUITE = Path(__file__).parents[2] / "tests"
sys.path.insert(0, str(_SUITE))

_spec = importlib.util.spec_from_file_location("suite", _SUITE / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
suite = importlib.util.module_from_spec(_spec)
sys.modules["suite"] = suite
_spec.loader.exec_module(suite)

pytest_configure = suite.pytest_configure
leaves_nothing_behind = suite.leaves_nothing_behind
public_python = suite.public_python
unprivileged_user = suite.unprivileged_user

from public_python import etc_locked  # noqa: E402 - found by now
from services import helper_rule, service_python  # noqa: E402 - found by now

__all__ = ["helper_rule", "service_python"]


@pytest.fixture(autouse=True)
def root_says_the_same() -> Iterator[None]:
    """Each helper asks root, and tests of other files change what root says."""
    with etc_locked(fcntl.LOCK_SH):
        yield
