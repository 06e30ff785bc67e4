"""A daemon that listens, as systemd starts one: the test plays the service manager.

Its daemon sees an /etc of its own, by a mount namespace, where root's file on who may
connect is the test's; the machine's is left alone.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgpack
import pytest
from forks import Child
from hostile import PROMPTLY, Daemon
from own_etc import make_etc, need_own_mounts, own_mounts
from service import Service, services

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from public_python import PublicPython

    import privsep

needs_root = pytest.mark.skipif(
    os.geteuid() != 0,
    reason="needs root: a daemon does not let its own user in, and others it cannot be",
)

NET_ADMIN = 1 << 12
OTHERS = 4_000_000_001  # a uid, a gid, that nobody has

# The socket comes as standard input, and is passed on as systemd does.  A shell that
# becomes the daemon keeps the pid for which it is meant.
LISTENING = 'exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"'


class Manager:
    """The service manager of one daemon: its socket, what it hears, the restarts."""

    def __init__(
        self,
        python: PublicPython,
        variable: str,
        place: Path,
        admission: str,
        *,
        before: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        mounts: Mapping[str, Path] | None = None,
    ) -> None:
        self.variable = variable
        self.path = str(place / "daemon.sock")
        self._command = [
            *own_mounts(
                {"/etc": make_etc(place, variable, admission)} | dict(mounts or {})
            ),
            *("sh", "-c", LISTENING, "sh"),
            *before,
            *(python.command, "serve", variable),
        ]
        self._variables = {"LANG": "C.UTF-8"} | dict(variables or {})
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.bind(self.path)
        os.chmod(self.path, 0o666)  # noqa: S103 - as systemd has it
        self._sock.listen()
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.bind(str(place / "notify"))
        os.chmod(place / "notify", 0o666)  # noqa: S103 - likewise
        self._notices.settimeout(PROMPTLY)
        self._variables["NOTIFY_SOCKET"] = str(place / "notify")
        self.daemon: subprocess.Popen[str] | None = None

    def begin(self) -> subprocess.Popen[str]:
        """Start the daemon; it may not be ready yet."""
        self.daemon = subprocess.Popen(
            self._command,
            stdin=self._sock.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env={"PATH": os.environ["PATH"]} | self._variables,
        )
        return self.daemon

    def start(self) -> None:
        """Start the daemon; return when it is ready."""
        daemon = self.begin()
        heard = self._hear_or_end()
        assert heard == "READY=1", (heard, daemon.communicate())

    def _hear_or_end(self) -> str:
        assert self.daemon is not None
        pidfd = os.pidfd_open(self.daemon.pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(self._notices, select.POLLIN)
        ready = dict(poll.poll(PROMPTLY * 1000))
        os.close(pidfd)
        return self.hear() if self._notices.fileno() in ready else "the end"

    def hear(self) -> str:
        """Return the next thing that the daemon says to its manager."""
        return self._notices.recv(4096).decode()

    def send_signal(self, number: int) -> None:
        assert self.daemon is not None
        self.daemon.send_signal(number)

    def end(self, number: int = signal.SIGTERM) -> str:
        """End the daemon; return what it has written to stderr."""
        assert self.daemon is not None
        daemon, self.daemon = self.daemon, None
        daemon.send_signal(number)
        return daemon.communicate(timeout=PROMPTLY)[1]

    @property
    def pid(self) -> int:
        assert self.daemon is not None
        return self.daemon.pid

    def close(self) -> None:
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon.wait()
            assert self.daemon.stderr is not None
            self.daemon.stderr.close()
        self._sock.close()
        self._notices.close()


def connect(path: str) -> socket.socket:
    """Return a connection, on which nothing was said."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(PROMPTLY)
    sock.connect(path)
    return sock


def greeting(sock: socket.socket) -> str:
    """Return "ready", or why the daemon does not take the connection."""
    reply = sock.recv(1 << 16)
    kind, *said = msgpack.unpackb(reply, unicode_errors="surrogatepass")
    if kind == 1:
        return "ready"
    return str(said[0]).encode("ascii", "backslashreplace").decode()


def greeting_of(path: str, uid: int, gid: int, groups: Sequence[int] = ()) -> str:
    """Connect as a user; return what the daemon says to it."""

    def knock() -> str:
        os.setgroups(list(groups))
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        with connect(path) as sock:
            return greeting(sock)

    return Child(knock).result()


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A directory of root's that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)  # noqa: S103 - it is meant for everybody
        yield Path(name)


@pytest.fixture
def manage(
    public_python: PublicPython, unprivileged_user: str, public_path: Path
) -> Iterator[Callable[..., Manager]]:
    """Return a function that starts a daemon of root that listens."""
    need_own_mounts()
    managers: list[Manager] = []

    def begin(
        variable: str, admission: str = "", *, ready: bool = True, **options: object
    ) -> Manager:
        place = public_path / f"daemon{len(managers)}"
        place.mkdir(mode=0o755)
        manager = Manager(public_python, variable, place, admission, **options)  # type: ignore[arg-type]
        managers.append(manager)
        if ready:
            manager.start()
        return manager

    yield begin
    for manager in managers:
        manager.close()


@pytest.fixture
def reach() -> Iterator[Callable[..., Service]]:
    """Return a function that connects this process, which is root, to a daemon."""
    reached: list[Service] = []

    def connect_to(manager: Manager, name: str = "plain") -> Service:
        service = services[name]
        service.context.start("socket", path=manager.path, deadline=PROMPTLY)
        reached.append(service)
        return service

    yield connect_to
    for service in reached:
        service.context.stop()


class Peer(Daemon):
    """A hand-written client that has connected to a daemon, and was let in."""

    def __init__(self, manager: Manager, context: privsep.Context) -> None:
        self.context = context
        self.threaded = context.isolation == "thread"
        self._module = context.module
        self._lines = []
        self.pid = manager.pid
        self.control = connect(manager.path)
        assert greeting(self.control) == "ready"
        self._greet()

    def close(self) -> None:
        """Let go of all that it holds; the daemon stays."""
        self.close_lines()
        self.control.close()
        self.log.close()
