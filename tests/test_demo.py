"""The demo holds, for whoever runs the tests and for an ordinary user."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from listening import public_path

if TYPE_CHECKING:
    from public_python import PublicPython

__all__ = ["public_path"]

_EXAMPLES = Path(__file__).parent.parent / "examples"


def _last_line(python: str, directory: Path, user: str | None = None) -> str:
    done = subprocess.run(
        [python, str(directory / "demo.py")],
        cwd="/",
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


def test_the_demo_holds_for_whoever_runs_the_tests() -> None:
    assert _last_line(sys.executable, _EXAMPLES).startswith("All ")


def test_the_demo_holds_for_an_ordinary_user(
    public_python: PublicPython, unprivileged_user: str, public_path: Path
) -> None:
    examples = public_path / "examples"
    shutil.copytree(_EXAMPLES, examples, ignore=shutil.ignore_patterns("__pycache__"))
    last = _last_line(str(public_python.executable), examples, unprivileged_user)
    assert last.startswith("All ")
