"""What a daemon of a trivial context loads, and how much memory it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import trivial
from conftest import IS_ROOT
from hostile import Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_METHOD = "exec" if IS_ROOT else "userns"  # a fresh interpreter, in both
_MOST_MODULES = 90
_MOST_RESIDENT = 12 * 1024 * 1024
_NEVER = {
    "array",
    "asyncio",
    "collections",
    "ctypes",
    "dataclasses",
    "datetime",
    "decimal",
    "email",
    "importlib.metadata",
    "inspect",
    "ipaddress",
    "json",
    "logging",
    "msgspec",
    "multiprocessing",
    "pathlib",
    "pickle",
    "privsep._boundary",
    "privsep._client",
    "privsep._daemon.admission",
    "privsep._daemon.listener",
    "privsep._daemon.manager",
    "privsep._start.methods",
    "privsep._wire.scalars",
    "privsep.boundary",
    "subprocess",
    "traceback",
    "types",
    "uuid",
    "warnings",
    "zoneinfo",
}
_BARE = "import sys; print(*sys.modules, sys.version_info[:2])"


def _interpreters() -> list[str]:
    """Return the running interpreter, and the system's if it is of the same kind."""
    system = "/usr/bin/python3"
    found = [sys.executable]
    if os.path.realpath(system) != os.path.realpath(sys.executable) and _modules_of(
        system
    )[-2:] == [str(x) for x in (f"({sys.version_info[0]},", f"{sys.version_info[1]})")]:
        found.append(system)
    return found


def _modules_of(interpreter: str) -> list[str]:
    command = [interpreter, "-I", "-S", "-c", _BARE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return done.stdout.split()


@pytest.fixture(params=_interpreters())
def daemon(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Daemon]:
    monkeypatch.setattr(sys, "executable", request.param)
    daemon = Daemon(trivial.context, _METHOD)
    yield daemon
    daemon.close()


def _loaded(daemon: Daemon) -> list[str]:
    modules = daemon.call("loaded_modules")
    assert isinstance(modules, list)
    return modules


_WHOLE_MODULES = """
import sys
sys.path[:] = sys.argv[1:]
from privsep._wire import values
assert not {"collections", "datetime"} & {*sys.modules}
import collections, datetime, msgpack
assert collections.OrderedDict and datetime.datetime_CAPI
moment = datetime.datetime(2000, 1, 1, tzinfo=datetime.timezone.utc)
value = [msgpack.ExtType(1, b"one"), msgpack.Timestamp.from_datetime(moment)]
assert msgpack.unpackb(msgpack.packb(value)) == value
assert value[1].to_datetime() == moment
assert value[0]._asdict() == {"code": 1, "data": b"one"}
assert value[0]._replace(code=2) == msgpack.ExtType._make((2, b"one"))
"""


def test_who_imports_what_msgpack_is_loaded_without_gets_whole_modules() -> None:
    command = [sys.executable, "-I", "-S", "-c", _WHOLE_MODULES, *sys.path]
    subprocess.run(command, check=True)


def test_a_msgpack_that_asks_for_more_gets_whole_modules(tmp_path: Path) -> None:
    other = "import collections\ncollections.deque\n"
    other += "ExtType = Packer = StackError = unpackb = None\n"
    (tmp_path / "msgpack.py").write_text(other)
    script = "import sys; sys.path[:] = sys.argv[1:]; import privsep._wire.messagepack"
    command = [sys.executable, "-I", "-S", "-c", script, str(tmp_path), *sys.path]
    subprocess.run(command, check=True)


@pytest.mark.xfail(
    sys.version_info >= (3, 13),
    strict=True,
    reason="91 modules on 3.13, where site reads .pth files by one more; 90 before",
)
def test_a_trivial_daemon_loads_few_modules(daemon: Daemon) -> None:
    modules = _loaded(daemon)
    bare = _modules_of(sys.executable)
    print(f"{len(modules)} modules; beyond those of a bare interpreter:")
    print(*sorted(set(modules) - set(bare)), sep="\n")
    assert len(modules) <= _MOST_MODULES


@pytest.mark.usefixtures("daemon")
def test_a_trivial_daemon_takes_little_memory() -> None:
    # The first may have compiled what it imports, which takes memory of its own.
    with closing(Daemon(trivial.context, _METHOD)) as second:
        fields = {
            name: int(second.status(name).split()[0])
            for name in ("VmRSS", "RssAnon", "RssFile")
        }
    print(", ".join(f"{name} {kilobytes} KiB" for name, kilobytes in fields.items()))
    assert (fields["RssAnon"] + fields["RssFile"]) * 1024 <= _MOST_RESIDENT


def test_a_trivial_daemon_loads_nothing_that_it_has_no_use_for(
    daemon: Daemon,
) -> None:
    assert not _NEVER.intersection(_loaded(daemon))


def test_a_trivial_daemon_loads_no_typing(daemon: Daemon) -> None:
    assert not {"typing", "re"}.intersection(_loaded(daemon))
