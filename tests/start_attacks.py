"""An unprivileged user who starts a daemon through sudo as he should not.

Whatever would run with privileges, but should not, leaves a mark where only root can
write.  Beside the rule as it should be there are others, as careless administrators
write them, so that sudo is not all that stands in the way.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgpack
import pytest
from generated_files import generate
from public_python import etc_locked, need, sudoers

from privsep._start import rules

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from public_python import PublicPython


#: Seconds.  A start ends within 10; whatever takes as long as this has hung.
HANGS = 60.0
READY = 1
HONEST = """
import os, privsep
context = privsep.Context("context", capabilities=[])
network = privsep.Context("network", capabilities=["CAP_NET_ADMIN"])
@context.entrypoint
def who():
    return os.getuid()
"""


class Outcome(NamedTuple):
    """How a start ended."""

    ready: bool
    said: str  #: in the daemon's words, or sudo's


class Field:
    """Where attacks take place: who attacks, by which rules, and where marks show."""

    def __init__(self, python: PublicPython, user: str, place: Path) -> None:
        self.python = python
        self.sudo = shutil.which("sudo") or "sudo"
        self.user = pwd.getpwnam(user)
        self.packages = next((python.prefix / "lib").glob("python*/site-packages"))
        self.module = f"attacked_{os.getpid()}"
        self.name = f"{self.module}:context"
        self.marks = place / "marks"
        self.marks.mkdir(mode=0o700)
        self.home = place / "home"
        self.home.mkdir()
        self.give(self.home)

    @property
    def evil(self) -> str:
        """Code that leaves a mark if it runs as root."""
        return (
            f"import os, tempfile\n"
            f"try: tempfile.mkstemp(dir={str(self.marks)!r})\n"
            f"except PermissionError: pass\n"
        )

    def give(self, path: Path) -> None:
        os.chown(path, self.user.pw_uid, self.user.pw_gid, follow_symlinks=False)

    def plant(self, name: str, text: str | None = None) -> Path:
        """Write a file of the attacker's, in his home."""
        path = self.home / name
        for directory in [*path.parents][::-1]:
            if not directory.exists():
                directory.mkdir()
                self.give(directory)
        path.write_text(self.evil if text is None else text)
        self.give(path)
        return path

    @contextlib.contextmanager
    def as_user(self, uid: int | None = None) -> Generator[None]:
        """Make what the kernel shall note as the attacker's, or another user's."""
        os.setegid(self.user.pw_gid)
        os.seteuid(self.user.pw_uid if uid is None else uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)

    def pair(self) -> tuple[socket.socket, socket.socket]:
        with self.as_user():
            return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def command(self, *words: str | bytes, before: Sequence[str] = ()) -> list[bytes]:
        command = [*before, self.sudo, "-n", self.python.launcher, *words]
        return [os.fsencode(word) for word in command]

    def launch(
        self,
        stdin: int | socket.socket,
        *words: str | bytes,
        before: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        cwd: str | Path = "/",
        umask: int = -1,
        prepare: Callable[[], object] | None = None,
        keep: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command(*(words or (self.name,)), before=before),
            stdin=stdin if isinstance(stdin, int) else stdin.fileno(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                **(variables or {}),
            },
            cwd=cwd,
            user=self.user.pw_uid,
            group=self.user.pw_gid,
            extra_groups=[],
            umask=umask,
            preexec_fn=prepare,  # noqa: PLW1509 - there is one thread
            pass_fds=keep,
            start_new_session=True,
        )

    def attempt(self, *words: str | bytes, **options: object) -> Outcome:
        """Start the daemon as the attacker; wait for its answer, or its end."""
        ours, daemons = self.pair()
        with ours, daemons:
            try:
                process = self.launch(daemons, *words, **options)  # type: ignore[arg-type]
            except OSError as error:  # execve(2) itself
                return Outcome(False, str(error))
            daemons.close()
            return self.outcome(process, ours)

    def outcome(
        self, process: subprocess.Popen[bytes], control: socket.socket
    ) -> Outcome:
        """Wait for the daemon's answer; then let go of it, and see it end."""
        control.settimeout(HANGS)
        ready, said = False, ""
        try:
            answer = control.recv(1 << 17)
        except ConnectionError:
            answer = b""
        if answer:
            kind, *rest = msgpack.unpackb(answer)
            ready = kind == READY
            said = "" if ready else "\n".join(filter(None, map(str, rest)))
        control.close()
        output, _ = process.communicate(timeout=HANGS)
        return Outcome(ready, said or output.decode(errors="replace"))

    def check_unmarked(self) -> None:
        assert os.listdir(self.marks) == []


@pytest.fixture(scope="module")
def field(public_python: PublicPython, unprivileged_user: str) -> Iterator[Field]:
    need("sudo", "visudo", "prlimit")
    with tempfile.TemporaryDirectory(prefix="attacks-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        field = Field(public_python, unprivileged_user, Path(name))
        honest = field.packages / f"{field.module}.py"
        honest.write_text(HONEST)
        yield field
        honest.unlink()


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def child_of(pid: int) -> int:
    """Return the child of sudo: what it runs."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


@pytest.fixture(scope="module")
def exact_rule(field: Field) -> Iterator[None]:
    """The rule as it should be, and as it is generated: the context by name."""
    user = field.user.pw_name
    printed = generate(field.python, "sudoers", field.name, user)
    with sudoers(f"{user}-exact", *printed.splitlines()):
        yield


@pytest.fixture
def any_words(field: Field) -> Iterator[None]:
    """A rule that lets the caller choose the words."""
    user = field.user.pw_name
    rule = f"{user} ALL=(root) NOPASSWD: {field.python.launcher}"
    with sudoers(f"{user}-words", rule):
        yield


@pytest.fixture
def any_variables(field: Field, exact_rule: None) -> Iterator[None]:
    """Settings that let the caller's variables, umask and descriptors through."""
    user = field.user.pw_name
    settings = 'env_keep += "*", !secure_path, !umask, closefrom=2000'
    with sudoers(f"{user}-variables", f"Defaults:{user} {settings}"):
        yield


@pytest.fixture
def logged_input(field: Field, exact_rule: None, tmp_path: Path) -> Iterator[None]:
    """Settings by which the daemon's standard input is sudo's."""
    user = field.user.pw_name
    settings = f"log_input, iolog_dir={tmp_path}/iolog"
    with sudoers(f"{user}-logged", f"Defaults:{user} {settings}"):
        yield


@pytest.fixture(autouse=True)
def gives_nothing(field: Field, request: pytest.FixtureRequest) -> Iterator[None]:
    """After each row, nothing of the attacker's has run as root."""
    changes_etc = "rules_file" in request.fixturenames
    with contextlib.ExitStack() as stack:
        if "doas_rule" not in request.fixturenames:  # which locks it itself
            stack.enter_context(
                etc_locked(fcntl.LOCK_EX if changes_etc else fcntl.LOCK_SH)
            )
        yield
    field.check_unmarked()
    for path in field.home.iterdir():
        remove(path)


@pytest.fixture
def rules_file(field: Field) -> Iterator[Path]:
    """The place of root's file for the context; what is made is removed."""
    path = Path(rules.path_of(field.name))
    made = [x for x in (path.parent.parent, path.parent) if not x.exists()]
    for directory in made:
        directory.mkdir(mode=0o755)
    yield path
    path.unlink(missing_ok=True)
    for directory in made[::-1]:
        directory.rmdir()


def ignore_all() -> None:
    for number in range(1, 32):
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_IGN)


def block_all() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
