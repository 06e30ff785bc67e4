"""Type checkers see a decorated function as it was declared.

`tests/typed` holds what they are asked.  Each error that they must find stands there
with a comment that ignores it, and one that ignores nothing is an error itself.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_TYPED = Path(__file__).parent / "typed"
_CHECKERS = {
    "mypy": ["mypy", "--strict", "--follow-imports=silent", str(_TYPED)],
    "pyright": ["pyright", f"--project={_TYPED}", f"--pythonpath={sys.executable}"],
}


@pytest.mark.parametrize("checker", _CHECKERS)
def test_each_mistake_of_a_caller_is_seen_and_nothing_else(checker: str) -> None:
    said = subprocess.run(
        [sys.executable, "-m", *_CHECKERS[checker]],
        cwd=_TYPED.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr
