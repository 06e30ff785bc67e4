"""Clients in processes of their own, each a script that a test holds as text."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypedDict, Unpack

import privsep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ENDS_WITHIN = 120.0  # seconds: a script that hangs fails its test, not the suite


class Options(TypedDict, total=False):
    """How a script runs."""

    user: str  #: whom it runs as, with no supplementary groups
    before: Sequence[str]  #: words before the command
    variables: Mapping[str, str]  #: added to its environment
    stdin: int | IO[bytes]  #: as for Popen; nothing can be read if not given


def begin(
    script: str,
    *arguments: object,
    python: str = sys.executable,
    **options: Unpack[Options],
) -> subprocess.Popen[str]:
    """Start a script, with the test's modules and privsep importable.

    Args:
        script: Python source, indented as the test is.
        arguments: its ``sys.argv[1:]``.
        python: the interpreter; another one than that of the tests is isolated.
        options: see `Options`.

    """
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    environment |= options.get("variables", {})
    isolated = ["-I"]
    if python == sys.executable:
        isolated = []
        source = Path(privsep.__file__).parent.parent
        places = [str(Path(__file__).parent), str(source), os.environ.get("PYTHONPATH")]
        environment["PYTHONPATH"] = ":".join(filter(None, places))
    user = options.get("user")
    return subprocess.Popen(
        [
            *options.get("before", ()),
            python,
            *isolated,
            "-c",
            textwrap.dedent(script),
            *map(str, arguments),
        ],
        stdin=options.get("stdin", subprocess.DEVNULL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env=environment,
        start_new_session=True,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )


def finish(process: subprocess.Popen[str], timeout: float = ENDS_WITHIN) -> list[str]:
    """Return the lines that a script wrote; it must end well."""
    with process:
        try:
            said, trouble = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its forks hold the pipes, too
            said, trouble = process.communicate()
            trouble += f"killed: it did not end within {timeout} s"
    assert process.returncode == 0, (
        f"the script ended with {process.returncode}\n{said}{trouble}"
    )
    return said.splitlines()


def run(script: str, *arguments: object, **options: Unpack[Options]) -> list[str]:
    """Run a script; return the lines that it wrote.  See `begin`."""
    return finish(begin(script, *arguments, **options))
