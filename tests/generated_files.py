"""What ``privsep generate`` prints, taken apart."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from public_python import PublicPython


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        shutil.which(program) is None, reason=f"{program} is not installed"
    )


def generate(python: PublicPython, kind: str, variable: str, user: str) -> str:
    """Return what is printed for a context, of which nothing is wrong."""
    done = subprocess.run(
        [python.command, "generate", kind, variable, "--user", user],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def files_of(text: str) -> dict[str, str]:
    """Return the files that stand in what is printed, by their paths."""
    _, *parts = re.split(r"^# (/etc/\S+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def service_of(variable: str) -> str:
    """Return the path of a context's service unit."""
    return f"/etc/systemd/system/privsep-{variable.replace(':', '-')}.service"


def options_of(text: str) -> dict[str, str]:
    """Return the options of a unit; one that is there twice has both values."""
    found: dict[str, str] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE):
        found[key] = f"{found.get(key, '')} {value}".strip()
    return found


def left_out_of(text: str) -> dict[str, str]:
    """Return the options that a unit says it has not, each with its reason."""
    return dict(re.findall(r"^# (\w+)= is not here: (.*)$", text, re.MULTILINE))
