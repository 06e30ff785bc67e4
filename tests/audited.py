"""A service with an audit, and what tests see of its records.

A test makes a module of its own with a context of its own, so that a daemon that is
a new interpreter finds the same one.
"""

from __future__ import annotations

import ctypes
import datetime
import importlib
import json
import os
import re
import select
import signal
import socket
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from conftest import IS_ROOT, METHOD
from forks import fork
from observe import children
from service import Service

from privsep._lockdown import libc
from privsep.audit import main as audit_command

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    import compromised
    import secretive

    Start = Callable[..., "Audited"]
    Record = dict[str, Any]

_START_WITHIN = 600.0  # seconds: of the lowest priority, on a busy machine
_IN_MODIFY, _IN_CREATE = 0x2, 0x100
_CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000

_MODULE = """\
import compromised
import privsep
import secretive
from service import Service

context = privsep.Context(
    {name!r}, {capabilities}, timeout=120.0, prefix="service",
    audit=privsep.Audit({audit}), {options}
)
service = Service(context)
service.attacks = compromised.Attacks(context)
service.secretive = secretive.Secretive(context)
"""

only_root = pytest.mark.skipif(not IS_ROOT, reason="needs root: another uid")


class Audited(Service):
    """A started service whose context has an audit."""

    path: Path
    attacks: compromised.Attacks
    secretive: secretive.Secretive

    def records(self) -> list[Record]:
        """Stop the daemon, and return what was recorded."""
        self.context.stop()
        assert audit_command(["verify", str(self.path)]) == 0
        return read(self.path)

    def calls(self) -> list[Record]:
        return [x for x in self.records() if x["event"] in ("call", "refused")]


def read(path: Path) -> list[Record]:
    """Return the records in a file, of which the last may be half written."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def missing(records: list[Record], caplog: pytest.LogCaptureFixture) -> int:
    """Return how many records were reported to be missing."""
    said = re.findall(r"the audit lacks (\d+) ", caplog.text)
    counted = [x["count"] for x in records if x["event"] == "lost"]
    return sum(map(int, said)) + sum(map(int, counted))


def complete(records: list[Record]) -> list[Record]:
    """Return the calls of which begin and end are known."""
    calls = [x for x in records if x["event"] == "call"]
    return [x for x in calls if x["outcome"] in ("returned", "raised")]


@pytest.fixture
def audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return a function that starts a service with an audit."""
    monkeypatch.syspath_prepend(tmp_path)
    started: list[Audited] = []
    names: list[str] = []

    def start(
        path: Path | None = None, *, name: str = "audited", **options: object
    ) -> Audited:
        path = tmp_path / "log" / "audit.jsonl" if path is None else path
        path.parent.mkdir(exist_ok=True)
        audit: dict[str, object] = {"file": str(path)}
        for option in ("on_failure", "syslog", "journald", "head_every"):
            if option in options:
                audit[option] = options.pop(option)
        module_name = f"audited_{len(names)}"
        names.append(module_name)
        (tmp_path / f"{module_name}.py").write_text(
            _MODULE.format(
                name=name,
                capabilities=_keywords({"capabilities": options.pop("keep", [])}),
                audit=_keywords(audit),
                options=_keywords(options),
            )
        )
        importlib.invalidate_caches()
        module = importlib.import_module(module_name)
        service = object.__new__(Audited)
        service.__dict__.update(vars(module.service))
        service.path = path
        service.context.start(METHOD, deadline=_START_WITHIN)
        started.append(service)
        return service

    yield start
    for service in started:
        service.context.stop()
    for module_name in names:
        sys.modules.pop(module_name, None)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """A datagram socket as syslog and journald have it.

    As long as it is not read it holds eleven datagrams (net.unix.max_dgram_qlen).
    """
    with bound(tmp_path / "socket") as sock:
        yield sock


@contextmanager
def bound(path: Path) -> Generator[socket.socket, None, None]:
    """Give a datagram socket at a path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        yield sock


def hide_mounts() -> None:
    """Keep to this process, and its children, what it mounts from now on."""
    libc.unshare(_CLONE_NEWNS)
    libc.mount("none", "/", "none", _MS_REC | _MS_PRIVATE)


def _keywords(values: dict[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def now() -> str:
    """Return the time as the records have it."""
    when = datetime.datetime.now(datetime.UTC)
    return when.isoformat(timespec="microseconds").replace("+00:00", "Z")


def peer() -> dict[str, int]:
    """Whom the daemon sees: in a pid namespace it sees no pid of outside."""
    if METHOD == "userns":
        return {"gid": 0, "pid": 0, "uid": 0}
    return {"gid": os.getegid(), "pid": os.getpid(), "uid": os.geteuid()}


def wait_for(directory: Path, condition: Callable[[], bool]) -> None:
    """Wait, without a limit of its own, until what is in a directory meets it."""
    c_library = ctypes.CDLL(None, use_errno=True)
    watch = c_library.inotify_init1(os.O_CLOEXEC)
    try:
        c_library.inotify_add_watch(watch, bytes(directory), _IN_MODIFY | _IN_CREATE)
        while not condition():
            os.read(watch, 4096)
    finally:
        os.close(watch)


def wait_for_line(path: Path, event: str) -> None:
    """Wait until a record of that kind is in the file."""
    wait_for(
        path.parent,
        lambda: path.exists() and event in (x["event"] for x in read(path)),
    )


def writer_pid() -> int:
    """Return the pid of the only daemon's writer, as the outer namespace has it.

    It is a child of the daemon that, other than a worker, leads no process group.
    """
    (writer,) = (
        child
        for daemon in _below(os.getpid())
        for child in children(daemon)
        if not children(child) and os.getpgid(child) != child
    )
    return writer


def parent_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("PPid:")[1].split()[0])


def _below(pid: int) -> list[int]:
    return [x for child in children(pid) for x in (child, *_below(child))]


@contextmanager
def ended(pid: int) -> Generator[select.poll, None, None]:
    """Give a poll object that is ready when the process has ended."""
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    try:
        yield poll
    finally:
        os.close(pidfd)


@contextmanager
def stopped(pid: int) -> Generator[None, None, None]:
    """Have a process stand still meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class OtherClient:
    """A forked child of this process, which takes steps when it is told to."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self._ours, theirs = socket.socketpair()

        def take_steps() -> None:
            self._ours.close()
            for step in steps:
                if not theirs.recv(1):
                    return
                theirs.send(repr(step()).encode())
            theirs.recv(1)

        self.pid = fork(take_steps)
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        os.waitpid(self.pid, 0)

    def step(self) -> str:
        """Have it take the next step; return what came of it, as text."""
        self._ours.send(b".")
        done = self._ours.recv(4096).decode()
        assert done, "the other client failed"
        return done
