"""Clients of rootwrap's daemon, a policy for them, and what their commands say."""

from __future__ import annotations

import os
import select
import socket
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from observe import wait_for_end
from wrapping import ENDS_WITHIN, Wrapped

import privsep
from privsep.rootwrap import Client, Process
from privsep.rootwrap.client import _RUN

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


LAUNCHER = str(Path(sys.executable).with_name("privsep-rootwrap-daemon"))
#: From the first nothing can ever be read, nor an end: nobody closes the second.
NEVER, _WRITER = os.pipe()
#: Seconds: one after the other, until the command has come so far, under load.
TIMEOUTS = (0.1, 1.0, 10.0, ENDS_WITHIN)


def client_of(wrapped: Wrapped) -> Client:
    return Client([LAUNCHER, str(wrapped.config)])


def make_policy(directory: Path, *options: str) -> Wrapped:
    """Return a policy with commands of many kinds."""
    wrapped = Wrapped(directory)
    wrapped.configure(*options, directories=["/usr/bin", "/bin"])
    wrapped.script("show")
    wrapped.copy("sh", "forked")
    wrapped.copy("sleep", "nap")
    names = ("show", "sh", "cat", "true", "gone", "forked", "nap")
    wrapped.allow(
        *[f"{name}: CommandFilter, {name}, @me" for name in names],
        "nobodys: CommandFilter, nobodys, nobody-of-that-name",
        "other: CommandFilter, id, nobody",
        "slow: RegExpFilter, slow, @me, slow, (a+)+$",
        "tagged: EnvFilter, env, @me, TAG=, sh",
        "kill: KillFilter, @me, @bin/nap, -9",
        # What posix_spawn cannot do.
        *("[Options forked]", "no_new_privs = true"),
        *("[Options nap]", "timeout = 600"),
    )
    return wrapped


class Shared(NamedTuple):
    """A policy, and a daemon of it that many tests use."""

    wrapped: Wrapped
    client: Client


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    wrapped = make_policy(tmp_path_factory.mktemp("rootwrap"))
    with client_of(wrapped) as client:
        client.execute(["true"])
        yield Shared(wrapped, client)


@pytest.fixture
def client(shared: Shared) -> Client:
    return shared.client


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Shared]:
    """A daemon of the test's own, to be killed or to be given many calls at once."""
    wrapped = make_policy(tmp_path)
    with client_of(wrapped) as client:
        yield Shared(wrapped, client)


@pytest.fixture(params=["sh", "forked"])
def shell(request: pytest.FixtureRequest) -> str:
    """A shell that is spawned, and one that is forked."""
    name: str = request.param
    return name


class Fifo:
    """A fifo by which a command tells something, and a test waits for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        # Both ends: so that neither side's opening waits, nor its end is seen.
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def read(self) -> str:
        """Wait for a line and return it."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        assert poll.poll(ENDS_WITHIN * 1000), f"nobody writes to {self.path}"
        return os.read(self._descriptor, 4096).decode().strip()

    def has_come(self) -> bool:
        """Return whether there is something to read."""
        return bool(select.select([self._descriptor], [], [], 0)[0])

    def write(self) -> None:
        """Let one command that reads a line go on."""
        os.write(self._descriptor, b"go on\n")

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def said(tmp_path: Path) -> Iterator[Fifo]:
    fifo = Fifo(tmp_path / "said")
    yield fifo
    fifo.close()


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Fifo]:
    fifo = Fifo(tmp_path / "held")
    yield fifo
    fifo.close()


def wait_until_gone(pid: int) -> None:
    """Return when a process has ended that need not be a child of this one."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    wait_for_end(pidfd)


def daemon_of(client: Client) -> int:
    """Return the pid of the daemon: the parent of a command's worker.

    The command looks itself: afterwards a daemon that ends has no such worker.
    """
    shown = client.execute(["sh", "-c", "grep ^PPid: /proc/$PPID/status"]).stdout
    return int(shown.removeprefix("PPid:"))


def worker_of(client: Client) -> int:
    """Return the pid of the worker that runs the next command, if none runs now."""
    return int(client.execute(["sh", "-c", "echo $PPID"]).stdout)


@contextmanager
def reading(client: Client) -> Generator[Process]:
    """Run a command that ends with the ``with``."""
    reader, writer = os.pipe()
    try:
        with client.popen(["cat"], stdin=reader) as process:
            os.close(reader)
            yield process
            os.close(writer)
    except BaseException:
        os.close(writer)
        raise


def call_directly(client: Client, arguments: list[object]) -> object:
    """Call the entrypoint with arguments that `Client` would not send."""
    return client._client.call(_RUN, tuple(arguments), {})


def valid_arguments() -> list[object]:
    """Return arguments that would run a command."""
    started, ours = socket.socketpair()
    ours.close()
    numbers = [
        os.open("/", os.O_RDONLY),
        *(os.open("/dev/null", os.O_RDWR) for _ in "123"),
    ]
    return [[b"true"], *map(privsep.Fd, numbers), privsep.Fd(started.detach())]
