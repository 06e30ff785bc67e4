"""Type checkers see a decorated function as it was declared.

`tests/typed` holds what they are asked.  Each error that they must find stands there
with a comment that ignores it, and one that ignores nothing is an error itself.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import declared
import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

_ROOT = Path(__file__).parents[1]
_FILES = ["tests/typed/callers.py"]
_CHECKERS = {
    "mypy": ["-m", "mypy", "--strict", "--follow-imports=silent"],
    "pyright": ["-m", "pyright", "--pythonpath", sys.executable],
}


@pytest.mark.parametrize("checker", _CHECKERS)
def test_each_mistake_of_a_caller_is_seen_and_nothing_else(checker: str) -> None:
    said = _run([sys.executable, *_CHECKERS[checker], *_FILES])
    assert said.returncode == 0, said.stdout + said.stderr


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=_ROOT, capture_output=True, text=True, check=False
    )


def test_the_stand_in_shows_the_signature_of_the_function() -> None:
    said = inspect.signature(declared.sample_entry, eval_str=True)
    assert (
        str(said)
        == "(first: int, /, second: str = 'x', *rest: float, key: bool) -> list[typing.Any]"
    )
