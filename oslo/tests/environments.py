"""The environments in which oslo's packages run, and ours in their place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PLACE = Path(sys.prefix) / "oslo"


def python(side: str) -> str:
    """Return the interpreter of `theirs` or `ours`."""
    path = PLACE / side / "bin" / "python3"
    if not path.exists():
        pytest.skip("make_environments.py has not run (make pytest runs it)")
    return str(path)


def begin(side: str, *words: str) -> subprocess.Popen[str]:
    """Start a Python program in an environment."""
    return subprocess.Popen(
        [python(side), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="surrogateescape",
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Return what a program wrote; it has to end well."""
    out, error = process.communicate()
    assert process.returncode == 0, f"{process.args}: {process.returncode}\n{error}"
    return out
