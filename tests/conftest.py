"""Fixtures of the whole suite, and the leak check that watches every test.

As root, daemons are started by fork; as an ordinary user, in a user namespace.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import tempfile
import threading
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Literal

import pytest

pytest.register_assert_rewrite("hostile", "observe")

# ruff: noqa: E402 - what is rewritten must not be imported before
import procfs
from public_python import (  # noqa: F401 - fixtures of the whole suite
    PublicPython,
    doas_rule,
    public_python,
    sudoers_rule,
    unprivileged_user,
    user_entry,
)
from service import Service, services

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PR_SET_CHILD_SUBREAPER = 36
_END_WITHIN = 60.0  # seconds: what hangs shall not block, and load shall not matter
_LOOK_AGAIN = 0.1  # seconds

Method = Literal["auto", "fork", "exec", "sudo", "userns"]

IS_ROOT = os.geteuid() == 0
METHOD: Method = "fork" if IS_ROOT else "userns"


def pytest_configure(config: pytest.Config) -> None:
    """Inherit every orphan, and have temporary files apart from other runs'.

    So the leak check sees what this run leaves, and nothing else; and pytest's own
    directories, beside, are not cleaned up by two runs at the same time.
    """
    place = tempfile.TemporaryDirectory(prefix="tests-", ignore_cleanup_errors=True)
    config.add_cleanup(place.cleanup)
    os.chmod(place.name, 0o711)  # noqa: S103 - a test may open what it makes to others
    for variable, name in (("PYTEST_DEBUG_TEMPROOT", "pytest"), ("TMPDIR", "tmp")):
        os.environ[variable] = f"{place.name}/{name}"
        os.mkdir(os.environ[variable], 0o711)
    tempfile.tempdir = os.environ["TMPDIR"]
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # A shell's & and nohup(1) have them ignored, which programs of tests would inherit.
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _temporary_names() -> set[str]:
    """Return what is in this run's directory, and what of privsep is elsewhere."""
    own = tempfile.gettempdir()
    places = (own, "/tmp", "/run/privsep", "/dev/shm")
    return {
        f"{place}/{name}"
        for place in places
        if os.path.isdir(place)
        for name in os.listdir(place)
        if place == own or "privsep" in name
    }


def _left_names(before: set[str]) -> set[str]:
    """Return the new names; what is not in this run's directory gets time to go.

    It may be that of another run, beside, which will take it away.
    """
    own = tempfile.gettempdir()
    end = monotonic() + _END_WITHIN
    names = _temporary_names() - before
    while names and monotonic() < end and not any(own in name for name in names):
        threading.Event().wait(_LOOK_AGAIN)
        names &= _temporary_names()
    return names


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return "gone"


def _leaked_processes(before: set[int]) -> list[str]:
    """Wait for new children to end, reap them, and return those that did not."""
    leaked = []
    for pid in procfs.children() - before:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(_END_WITHIN * 1000):
            leaked.append(f"process {pid}: {_command(pid)}")
            os.kill(pid, 9)
        os.close(pidfd)
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            continue
    return leaked


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fail a test after which something is left that was not there before."""
    children = procfs.children()
    threads = set(threading.enumerate())
    descriptors = procfs.open_files()
    names = _temporary_names()
    yield
    leaked = _leaked_processes(children)
    for thread in set(threading.enumerate()) - threads:
        thread.join(_END_WITHIN)
        if thread.is_alive():
            leaked.append(f"thread {thread.name}")
    now = procfs.open_files()
    leaked += [
        f"descriptor {number}: {now[number]}"
        for number in now.keys() - descriptors.keys()
    ]
    leaked += [f"file {name}" for name in _left_names(names)]
    if leaked:
        pytest.fail("left behind: " + "; ".join(leaked))


@pytest.fixture
def start() -> Iterator[Callable[..., Service]]:
    """Return a function that starts a service by name and returns it."""
    started: list[Service] = []

    def start_service(name: str, method: Method = METHOD) -> Service:
        service = services[name]
        service.context.start(method, deadline=_END_WITHIN)
        started.append(service)
        return service

    yield start_service
    for service in started:
        service.context.stop()


@pytest.fixture
def plain(start: Callable[..., Service]) -> Service:
    """A started service with process workers."""
    return start("plain")


@pytest.fixture(params=["plain", "threaded"])
def either(start: Callable[..., Service], request: pytest.FixtureRequest) -> Service:
    """A started service, once with process workers and once with threads."""
    return start(request.param)
