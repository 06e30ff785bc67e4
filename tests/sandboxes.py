"""Contexts with a sandbox, each in a module that is written for its test."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from conftest import IS_ROOT, METHOD

import privsep
from privsep._lockdown import landlock, libc
from privsep._lockdown.capability_names import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from jail import Jail


METHODS = ("fork", "userns") if IS_ROOT else ("userns",)
EVERYTHING = [
    name for bit, name in enumerate(NAMES) if libc.capget()[1] >> bit & 1
] or list(NAMES)
NEEDS_ROOT = pytest.mark.skipif(not IS_ROOT, reason="starts with real privileges")
NEEDS_ABI_6 = pytest.mark.skipif(landlock.best_abi() < 6, reason="Landlock ABI 6")

_MODULE = """
import jail, privsep
context = privsep.Context(
    "jail", capabilities={capabilities!r}, timeout=120.0, prefix="jail",
    sandbox=privsep.Sandbox(**{fields!r}), isolation={isolation!r},
)
entry = jail.Jail(context)
"""

_ELSEWHERE = """
import importlib, logging, sys
logging.basicConfig(format="%(levelname)s %(message)s")
{before}
import privsep, jail
context = privsep.Context(
    "jail", capabilities=[], prefix="jail", sandbox=privsep.Sandbox(**{fields!r})
)
entry = jail.Jail(context)
try:
    context.start({method!r})
    print("reads", entry.read("/etc/passwd")[:4])
    for line in open("/proc/mounts"):
        if line.startswith("privsep "):
            print("spread", line)
    context.stop()
except privsep.StartError as error:
    print("StartError", error)
"""


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """Each start method that this user can use here."""
    return str(request.param)


@pytest.fixture
def make(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Jail]]:
    """Return a function that starts a context with a sandbox of some fields."""
    place = tmp_path_factory.mktemp("declared")
    monkeypatch.syspath_prepend(str(place))
    started: list[Jail] = []

    def make_jail(
        start: str = METHOD,
        capabilities: list[str] = EVERYTHING,
        isolation: str = "process",
        **fields: object,
    ) -> Jail:
        name = f"declared_{len(started)}"
        text = _MODULE.format(
            capabilities=capabilities, fields=fields, isolation=isolation
        )
        (place / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        sys.modules.pop(name, None)
        jail: Jail = importlib.import_module(name).entry
        started.append(jail)
        jail.context.start(start)  # type: ignore[arg-type]
        return jail

    yield make_jail
    for jail in started:
        jail.context.stop()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Directories ``in`` and ``out``, each with a file and a directory."""
    for side in ("in", "out"):
        (tmp_path / side / "sub").mkdir(parents=True)
        (tmp_path / side / "file").write_text(side)
    return tmp_path


def refused() -> AbstractContextManager[object]:
    """Expect the EACCES of Landlock, which root gets as anybody does."""
    return pytest.raises(PermissionError, match="Errno 13")


def start_elsewhere(
    before: str, fields: dict[str, object], wrapper: Sequence[str] = ()
) -> str:
    """Start a context in another process after `before`; return what it logged."""
    text = _ELSEWHERE.format(before=before, fields=fields, method=METHOD)
    if METHOD == "userns":
        pytest.skip("a context in __main__ starts by fork only")
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", text],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("StartError"):
        raise privsep.StartError(done.stdout)
    return done.stdout + done.stderr
