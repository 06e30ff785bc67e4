"""A daemon begins with nothing of its starter's but what its context names."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
import surroundings
from conftest import IS_ROOT

import scripts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Method
    from public_python import PublicPython

FRESH: list[Method] = ["exec", "userns"] if IS_ROOT else ["userns"]
METHODS: list[Method] = ["fork", *FRESH]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def begin() -> Iterator[Callable[[str], None]]:
    """Return a function that starts the daemon."""
    yield surroundings.context.start  # type: ignore[misc]  # its method is a str here
    surroundings.context.stop()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    """A descriptor of a directory that a daemon must not get."""
    low = os.open(tmp_path, os.O_RDONLY)
    descriptor = fcntl.fcntl(low, fcntl.F_DUPFD, 200)  # a number that nobody else gets
    os.close(low)
    yield descriptor
    os.close(descriptor)


# -- variables -----------------------------------------------------------------


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set some that a daemon keeps, and some that it does not."""
    for name in list(os.environ):
        if name.startswith(("LC_", "LANG")):
            monkeypatch.delenv(name)
    for name, value in (
        ("LANG", "C.UTF-8"),
        ("LC_TIME", "C"),
        ("TZ", "UTC"),
        ("PRIVSEP_TEST_KEPT", "kept"),
        ("PRIVSEP_TEST_SECRET", "secret"),
        ("LD_PRIVSEP", "secret"),
    ):
        monkeypatch.setenv(name, value)


def test_variables_are_those_of_the_locale_the_zone_and_what_the_context_names(
    begin: Callable[[str], None], method: str
) -> None:
    begin(method)
    assert surroundings.variables() == {
        "LANG": "C.UTF-8",
        "LC_TIME": "C",
        "TZ": "UTC",
        "PRIVSEP_TEST_KEPT": "kept",
        "PATH": PATH,
    }


@pytest.mark.parametrize("fresh", FRESH)
def test_a_fresh_interpreter_never_has_the_others_in_its_memory(
    begin: Callable[[str], None], fresh: str
) -> None:
    begin(fresh)
    assert set(surroundings.first_environment().split(b"\0")) == {
        *(b"LANG=C.UTF-8", b"LC_TIME=C", b"TZ=UTC", b"PRIVSEP_TEST_KEPT=kept", b"")
    }


# -- descriptors ---------------------------------------------------------------


def _assert_is_nowhere(directory: int) -> None:
    path = os.readlink(f"/proc/self/fd/{directory}")
    assert path not in surroundings.open_now().values()


def test_a_fork_has_null_in_place_of_what_it_inherits(
    begin: Callable[[str], None], directory: int
) -> None:
    begin("fork")
    _assert_is_nowhere(directory)
    assert surroundings.open_now()[directory] == "/dev/null"


@pytest.mark.parametrize("fresh", FRESH)
def test_a_fresh_interpreter_has_closed_what_it_inherits_when_it_imports_the_context(
    begin: Callable[[str], None],
    directory: int,
    fresh: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keeping = functools.partial(subprocess.Popen, pass_fds=[directory])
    monkeypatch.setattr(subprocess, "Popen", keeping)
    begin(fresh)
    _assert_is_nowhere(directory)
    assert directory not in surroundings.open_when_imported()


@pytest.mark.skipif(not IS_ROOT, reason="the helper needs real privileges")
def test_the_command_that_sudo_runs_closes_them_too(
    public_python: PublicPython, tmp_path: Path
) -> None:
    lines = public_python.run(
        """
        import functools, os, subprocess, sys, surroundings
        directory = 200
        os.dup2(os.open(sys.argv[1], os.O_RDONLY), directory)
        subprocess.Popen = functools.partial(subprocess.Popen, pass_fds=[directory])
        surroundings.context.start("sudo", helper=["env"])
        print(directory in surroundings.open_when_imported())
        print(sys.argv[1] in surroundings.open_now().values())
        surroundings.context.stop()
        """,
        tmp_path,
    )
    assert lines == ["False", "False"]


def test_a_descriptor_beyond_the_limit_keeps_no_daemon_from_starting() -> None:
    lines = scripts.run(
        """
        import os, resource, surroundings
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        os.dup2(os.open("/usr", os.O_RDONLY), 300)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, most))
        surroundings.context.start("fork")
        print("/usr" in surroundings.open_now().values())
        surroundings.context.stop()
        """
    )
    assert lines == ["False"]


@pytest.mark.parametrize("closed", [(0,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_a_starter_without_standard_streams_starts_a_daemon(
    method: str, closed: tuple[int, ...], tmp_path: Path
) -> None:
    told = tmp_path / "told"
    scripts.run(
        """
        import os, sys
        told, method, *closed = sys.argv[1:]
        for descriptor in closed:
            os.close(int(descriptor))
        import surroundings
        surroundings.context.start(method)
        opened = surroundings.open_now()
        surroundings.context.stop()
        with open(told, "w") as file:
            print(opened[0], opened[1][:5], opened[2][:5], file=file)
        os._exit(0)
        """,
        told,
        method,
        *closed,
    )
    assert told.read_text() == "/dev/null pipe: pipe:\n"


# -- the rest ------------------------------------------------------------------


def test_umask_directory_session_and_core_dumps_are_its_own(
    begin: Callable[[str], None], method: str
) -> None:
    before = os.umask(0o077)
    try:
        begin(method)
    finally:
        os.umask(before)
    assert surroundings.look() == {
        "umask": 0o022,
        "directory": "/",
        "leads its session": True,
        "core": (0, 0),
    }


def test_writing_beyond_a_limit_fails_as_in_any_python(
    begin: Callable[[str], None], method: str, tmp_path: Path
) -> None:
    begin(method)
    with pytest.raises(OSError, match=f"Errno {errno.EFBIG}"):
        surroundings.write_beyond_a_limit(str(tmp_path / "file"))
