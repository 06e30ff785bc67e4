"""Attacks on the start through sudo: 0 of them may give anything.

Each is tried for real: an unprivileged user runs sudo with the rule that allows him
one context.  Whatever would run with privileges, but should not, leaves a mark where
only root can write; no row may end with one.  Beside the rule as it should be there
are others, as careless administrators write them, so that sudo is not all that stands
in the way.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgpack
import pytest
from generated_files import generate
from public_python import _need, _run

import scripts
from privsep._start import rules

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from public_python import PublicPython

READY, FAILED = 1, 2
#: Seconds.  A start ends within 10; whatever takes as long as this has hung.
HANGS = 60.0
_SUDOERS = Path("/etc/sudoers.d")

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
        import pwd

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
    _need("sudo", "visudo", "prlimit")
    with tempfile.TemporaryDirectory(prefix="attacks-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        field = Field(public_python, unprivileged_user, Path(name))
        honest = field.packages / f"{field.module}.py"
        honest.write_text(HONEST)
        yield field
        honest.unlink()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _child_of(pid: int) -> int:
    """Return the child of sudo: what it runs."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def _sudoers(field: Field, name: str, *lines: str) -> Iterator[None]:
    file = _SUDOERS / f"{field.user.pw_name}-{name}"
    with tempfile.NamedTemporaryFile("w") as draft:
        draft.write("".join(f"{line}\n" for line in lines))
        draft.flush()
        _run("visudo", "-c", "-f", draft.name)
        _run("install", "-m", "0440", draft.name, str(file))
    yield
    file.unlink()


@pytest.fixture(scope="module")
def exact_rule(field: Field) -> Iterator[None]:
    """The rule as it should be, and as it is generated: the context by name."""
    printed = generate(field.python, "sudoers", field.name, field.user.pw_name)
    yield from _sudoers(field, "exact", *printed.splitlines())


@pytest.fixture
def any_words(field: Field) -> Iterator[None]:
    """A rule that lets the caller choose the words."""
    rule = f"{field.user.pw_name} ALL=(root) NOPASSWD: {field.python.launcher}"
    yield from _sudoers(field, "words", rule)


@pytest.fixture
def any_variables(field: Field, exact_rule: None) -> Iterator[None]:
    """Settings that let the caller's variables, umask and descriptors through."""
    yield from _sudoers(
        field,
        "variables",
        f'Defaults:{field.user.pw_name} env_keep += "*", '
        "!secure_path, !umask, closefrom=2000",
    )


@pytest.fixture
def logged_input(field: Field, exact_rule: None, tmp_path: Path) -> Iterator[None]:
    """Settings by which the daemon's standard input is sudo's."""
    yield from _sudoers(
        field,
        "logged",
        f"Defaults:{field.user.pw_name} log_input, iolog_dir={tmp_path}/iolog",
    )


@pytest.fixture(autouse=True)
def gives_nothing(field: Field) -> Iterator[None]:
    """After each row, nothing of the attacker's has run as root."""
    yield
    field.check_unmarked()
    for path in field.home.iterdir():
        _remove(path)


@pytest.fixture
def rules_file(field: Field) -> Iterator[Path]:
    """The place of root's file for the context; what is made is removed."""
    path = Path(rules.path_of(field.name))
    made = [x for x in (path.parent.parent, path.parent) if not x.exists()]
    for directory in made:
        directory.mkdir(mode=0o755, exist_ok=True)
    yield path
    path.unlink(missing_ok=True)
    for directory in made[::-1]:
        with contextlib.suppress(OSError):  # another run's file is there
            directory.rmdir()


# -- what the rule is for, and that a mark would be seen ---------------------------


@pytest.mark.usefixtures("exact_rule")
def test_the_context_that_the_rule_names_starts(field: Field) -> None:
    assert field.attempt() == Outcome(True, "")


@pytest.mark.usefixtures("exact_rule")
def test_what_runs_as_root_leaves_a_mark(field: Field) -> None:
    module = field.packages / f"{field.module}.py"
    module.write_text(HONEST + field.evil)
    try:
        assert field.attempt().ready
        (mark,) = field.marks.iterdir()
        mark.unlink()
    finally:
        module.write_text(HONEST)


# -- other words -------------------------------------------------------------------

_OTHER_WORDS: dict[str, tuple[str | bytes, ...]] = {
    "another context": ("{module}:network",),
    "another module": ("os:system",),
    "the module of another package": ("service:plain",),
    "no words": ("",),
    "a config file": ("{module}:context", "--config-file", "{home}/evil.conf"),
    "a config file before": ("--config-file", "{home}/evil.conf", "{module}:context"),
    "an option of the interpreter": ("-c", "print(1)"),
    "an option in the name": ("-ic:context",),
    "a path": ("{home}/evil:context",),
    "a path upwards": ("../../../..{home}/evil:context",),
    "a relative module": (".evil:context",),
    "a name within the context": ("{module}:context.client",),
    "a dunder": ("{module}:__builtins__",),
    "the start itself": ("__main__:main",),
    "two colons": ("{module}:context:context",),
    "a line break": ("{module}:context\n",),
    "a blank": ("{module}:context ",),
    "bytes that are no text": (b"\xff\xfe:context",),
    "a letter that only looks alike": ("{module}:c\u043entext",),
    "a name of 60 KB": ("a" * 60_000 + ":context",),
    "a deep name": ("a." * 20_000 + "a:context",),
    "2,000 words": tuple("x" * 2000),
}


#: what the rule that allows any words does allow: contexts of root's
_CONTEXTS = ("another context", "the module of another package")


def _filled(words: Sequence[str | bytes], field: Field) -> list[str | bytes]:
    return [
        word
        if isinstance(word, bytes)
        else word.format(module=field.module, home=field.home)
        for word in words
    ]


@pytest.mark.parametrize("words", _OTHER_WORDS.values(), ids=_OTHER_WORDS)
@pytest.mark.usefixtures("exact_rule")
def test_sudo_allows_no_other_words(field: Field, words: Sequence[str | bytes]) -> None:
    field.plant("evil.py")
    field.plant("evil.conf", "user = root\n")
    outcome = field.attempt(*_filled(words, field))
    assert not outcome.ready
    assert "sudo: " in outcome.said


_SAID_OF_NO_CONTEXT = (
    "is no name of a context: write MODULE:CONTEXT",
    "is not a privsep.Context",
    "usage: privsep-daemon MODULE:CONTEXT",
    "ModuleNotFoundError: No module named ",
)
_NO_CONTEXT = {
    name: words for name, words in _OTHER_WORDS.items() if name not in _CONTEXTS
}


@pytest.mark.parametrize("words", _NO_CONTEXT.values(), ids=_NO_CONTEXT)
@pytest.mark.usefixtures("any_words")
def test_words_that_are_no_context_give_nothing_if_sudo_lets_them_through(
    field: Field, words: Sequence[str | bytes]
) -> None:
    field.plant("evil.py")
    field.plant("evil.conf", "user = root\n")
    outcome = field.attempt(*_filled(words, field))
    assert not outcome.ready
    assert any(said in outcome.said for said in _SAID_OF_NO_CONTEXT), outcome.said[:300]


@pytest.mark.usefixtures("exact_rule")
def test_words_beyond_what_execve_takes_give_nothing(field: Field) -> None:
    assert "too long" in field.attempt("a" * 3_000_000).said


# -- the caller's surroundings -----------------------------------------------------

_VARIABLES: dict[str, Mapping[str, str]] = {
    "PYTHONPATH": {"PYTHONPATH": "{home}"},
    "PYTHONHOME": {"PYTHONHOME": "{home}"},
    "PYTHONSTARTUP": {"PYTHONSTARTUP": "{home}/evil.py"},
    "PYTHONINSPECT": {"PYTHONINSPECT": "1", "PYTHONSTARTUP": "{home}/evil.py"},
    "PYTHONUSERBASE": {"PYTHONUSERBASE": "{home}"},
    "PYTHONPYCACHEPREFIX": {"PYTHONPYCACHEPREFIX": "{home}"},
    "PYTHONWARNINGS": {"PYTHONWARNINGS": "error::evil.Category"},
    "PYTHONBREAKPOINT": {"PYTHONBREAKPOINT": "evil.run"},
    "PYTHONEXECUTABLE": {"PYTHONEXECUTABLE": "{home}/bin/python3"},
    "PYTHONPLATLIBDIR": {"PYTHONPLATLIBDIR": "{home}"},
    "PYTHONSAFEPATH off": {"PYTHONSAFEPATH": "", "PYTHONPATH": "."},
    "PYTHONNOUSERSITE off": {"PYTHONNOUSERSITE": ""},
    "__PYVENV_LAUNCHER__": {"__PYVENV_LAUNCHER__": "{home}/bin/python3"},
    "PATH": {"PATH": "{home}/bin:/usr/bin:/bin"},
    "ENV": {"ENV": "{home}/evil.sh"},
    "BASH_ENV": {"BASH_ENV": "{home}/evil.sh"},
    "a function of bash": {"BASH_FUNC_exec%%": "() {{ . {home}/evil.sh; }}"},
    "SHELLOPTS": {"SHELLOPTS": "xtrace", "PS4": "$(. {home}/evil.sh)"},
    "IFS": {"IFS": "/"},
    "LD_PRELOAD": {"LD_PRELOAD": "{home}/evil.so"},
    "LD_LIBRARY_PATH": {"LD_LIBRARY_PATH": "{home}"},
    "LD_AUDIT": {"LD_AUDIT": "{home}/evil.so"},
    "GCONV_PATH": {"GCONV_PATH": "{home}", "LC_ALL": "evil.EVIL"},
    "LOCPATH": {"LOCPATH": "{home}", "LC_ALL": "evil"},
    "TMPDIR": {"TMPDIR": "{home}"},
    "SUDO_UID": {"SUDO_UID": "0"},
}


def _plant_modules(field: Field, *directories: str) -> None:
    """Have code of the attacker's under the names of what a daemon imports."""
    for directory in directories:
        for name in (field.module, "evil", "msgpack", "struct", "usercustomize"):
            field.plant(f"{directory}/{name}.py")


@pytest.mark.parametrize("variables", _VARIABLES.values(), ids=_VARIABLES)
@pytest.mark.usefixtures("any_variables")
def test_no_variable_brings_code_to_the_daemon(
    field: Field, variables: Mapping[str, str]
) -> None:
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    _plant_modules(field, ".", f"lib/{version}/site-packages", f"lib/{version}")
    shell = f'python3 -c "{field.evil}"\n'
    field.plant("evil.sh", shell)
    field.plant("evil.so", "no shared object")
    for name in ("python3", "sh", "env"):
        field.plant(f"bin/{name}", f"#!/bin/sh\n{shell}").chmod(0o755)
    filled = {key: value.format(home=field.home) for key, value in variables.items()}
    field.attempt(variables=filled, cwd=field.home)


@pytest.mark.usefixtures("exact_rule")
def test_the_current_directory_is_not_on_the_path(field: Field) -> None:
    _plant_modules(field, ".")
    assert field.attempt(cwd=field.home).ready


@pytest.mark.usefixtures("exact_rule")
def test_the_users_own_site_packages_are_not_on_the_path(field: Field) -> None:
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    _plant_modules(field, f".local/lib/{version}/site-packages")
    field.plant(f".local/lib/{version}/site-packages/evil.pth", "import evil\n")
    assert field.attempt().ready


@pytest.mark.usefixtures("exact_rule")
def test_a_directory_that_is_gone_is_no_place_to_hang(field: Field) -> None:
    gone = field.home / "gone"
    gone.mkdir()
    field.give(gone)
    assert field.attempt(cwd=gone, prepare=gone.rmdir).ready


@pytest.mark.parametrize("mask", [0o000, 0o777], ids=["none", "all"])
@pytest.mark.usefixtures("any_variables")
def test_what_is_compiled_is_written_with_the_helpers_own_umask(
    field: Field, mask: int
) -> None:
    package = field.packages / "privsep"
    for directory in [*package.rglob("__pycache__")]:
        shutil.rmtree(directory)
    assert field.attempt(umask=mask).ready
    made = [*package.rglob("__pycache__")]
    assert package / "_start" / "__pycache__" in made
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o755}


_LIMITS = [
    name
    for name in dir(resource)
    if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
]


@pytest.mark.parametrize("name", _LIMITS)
@pytest.mark.usefixtures("exact_rule")
def test_a_resource_limit_of_nothing_gives_nothing(field: Field, name: str) -> None:
    limit = getattr(resource, name)
    field.attempt(prepare=lambda: resource.setrlimit(limit, (0, 0)))


@pytest.mark.parametrize("count", [4, 8, 16])
@pytest.mark.usefixtures("exact_rule")
def test_few_descriptors_give_nothing(field: Field, count: int) -> None:
    limit = resource.RLIMIT_NOFILE
    field.attempt(prepare=lambda: resource.setrlimit(limit, (count, count)))


@pytest.mark.usefixtures("any_variables")
def test_descriptors_that_are_left_open_do_not_reach_the_daemon(field: Field) -> None:
    copies = [os.dup(0) for _ in range(500)]
    ours, daemons = field.pair()
    with ours:
        with daemons:
            process = field.launch(daemons, keep=copies)
        for copy in copies:
            os.close(copy)
        ours.settimeout(HANGS)
        assert msgpack.unpackb(ours.recv(1 << 17))[0] == READY
        held = os.listdir(f"/proc/{_child_of(process.pid)}/fd")
        ours.close()
        process.communicate(timeout=HANGS)
    assert len(held) < 50


@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2)], ids=str)
@pytest.mark.usefixtures("exact_rule")
def test_a_closed_stream_is_not_replaced_by_what_is_opened_next(
    field: Field, closed: tuple[int, ...]
) -> None:
    closing = "".join(f" {number}>&-" for number in closed)
    before = ["sh", "-c", f'exec "$@"{closing}', "sh"]
    assert field.attempt(before=before).ready


@pytest.mark.parametrize("closed", [(0,), (0, 1), (0, 1, 2)], ids=str)
def test_closed_streams_are_replaced_where_the_helper_does_not_do_it(
    field: Field, closed: tuple[int, ...]
) -> None:
    closing = "".join(f" {number}>&-" for number in closed)
    done = subprocess.run(
        ["sh", "-c", f'exec "$@"{closing}', "sh", field.python.launcher, field.name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    if 2 not in closed:
        assert "standard input is not a control socket" in done.stderr


def test_a_daemon_that_nobody_gave_a_stream_starts(field: Field) -> None:
    ours, daemons = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, daemons:
        process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", field.python.launcher, field.name],
            stdin=daemons.fileno(),
            stdout=subprocess.PIPE,
        )
        daemons.close()
        assert field.outcome(process, ours).ready


# -- other sockets -----------------------------------------------------------------


@pytest.mark.usefixtures("exact_rule")
@pytest.mark.parametrize(
    "kind", ["closed", "null", "file", "terminal", "stream", "datagram", "tcp"]
)
def test_what_is_no_control_socket_is_refused(
    field: Field, kind: str, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        before: list[str] = []
        given: int | socket.socket = subprocess.DEVNULL
        if kind == "closed":
            before = ["sh", "-c", 'exec "$@" <&-', "sh"]
        elif kind == "file":
            given = stack.enter_context((tmp_path / "file").open("w+")).fileno()
        elif kind == "terminal":
            outer, given = os.openpty()
            stack.callback(os.close, outer)
            stack.callback(os.close, given)
        elif kind in ("stream", "datagram"):
            which = socket.SOCK_STREAM if kind == "stream" else socket.SOCK_DGRAM
            with field.as_user():
                pair = socket.socketpair(socket.AF_UNIX, which)
            given = stack.enter_context(pair[0])
            stack.enter_context(pair[1])
        elif kind == "tcp":
            given = stack.enter_context(socket.socket())
        process = field.launch(given, before=before)
        output, _ = process.communicate(timeout=HANGS)
    assert b"standard input is not a control socket" in output


@pytest.mark.usefixtures("exact_rule")
def test_a_socket_that_root_made_is_not_written_to(field: Field) -> None:
    ours, daemons = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, daemons:
        process = field.launch(daemons)
        daemons.close()
        outcome = field.outcome(process, ours)
    assert not outcome.ready
    assert "is uid 0's, and SUDO_UID is " in outcome.said


@pytest.mark.usefixtures("exact_rule")
def test_the_listener_of_a_service_is_not_written_to(
    field: Field, tmp_path: Path
) -> None:
    """As if root could be had to say something to it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0{tmp_path}")
        listener.listen()
        with (
            field.as_user(),
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as ours,
        ):
            ours.connect(f"\0{tmp_path}")
            theirs, _ = listener.accept()
            os.seteuid(0)
            process = field.launch(ours)
            os.seteuid(field.user.pw_uid)
        with theirs:
            assert not field.outcome(process, theirs).ready


@pytest.mark.usefixtures("exact_rule")
def test_datagrams_that_wait_before_the_start_are_no_harm(field: Field) -> None:
    ours, daemons = field.pair()
    with ours, daemons, field.home.joinpath("x").open("w") as file:
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                socket.send_fds(ours, [b"x" * 512], [file.fileno()] * 8)
        ours.setblocking(True)
        process = field.launch(daemons)
        daemons.close()
        field.outcome(process, ours)


@pytest.mark.usefixtures("exact_rule")
def test_a_client_that_is_gone_before_the_start_leaves_no_daemon(field: Field) -> None:
    ours, daemons = field.pair()
    ours.close()
    with daemons:
        process = field.launch(daemons)
    process.communicate(timeout=HANGS)


# -- whose the files are -----------------------------------------------------------


class Placed(NamedTuple):
    """What an administrator's mistake has put where root's daemon looks."""

    path: Path  #: what the refusal has to name
    mode: int | None = None


def _owned_module(field: Field) -> Placed:
    path = field.packages / f"{field.module}.py"
    field.give(path)
    return Placed(path)


def _mode(mode: int) -> Callable[[Field], Placed]:
    def place(field: Field) -> Placed:
        path = field.packages / f"{field.module}.py"
        path.chmod(mode)
        return Placed(path, mode)

    return place


def _directory(mode: int) -> Callable[[Field], Placed]:
    def place(field: Field) -> Placed:
        field.packages.chmod(mode)
        return Placed(field.packages, mode)

    return place


def _owned(relative: str) -> Callable[[Field], Placed]:
    def place(field: Field) -> Placed:
        path = field.python.prefix / relative.format(packages=field.packages)
        field.give(path)
        return Placed(path)

    return place


def _linked_module(field: Field) -> Placed:
    target = field.plant("linked.py", HONEST + field.evil)
    path = field.packages / f"{field.module}.py"
    path.unlink()
    path.symlink_to(target)
    return Placed(field.home)


def _linked_by_another_link(field: Field) -> Placed:
    """The last link is root's, and leads to root's file, by a link of the user's."""
    link = field.home / "way"
    link.symlink_to(field.packages)
    field.give(link)
    real = field.packages / "real_module.py"
    real.write_text(HONEST)
    path = field.packages / f"{field.module}.py"
    path.unlink()
    path.symlink_to(link / "real_module.py")
    return Placed(field.home)


def _compiled(field: Field) -> Placed:
    """The compiled form of a module of root's, by somebody else."""
    import importlib.util
    import py_compile

    path = field.packages / f"{field.module}.py"
    cached = Path(importlib.util.cache_from_source(str(path)))
    source = field.home / "evil.py"
    source.write_text(HONEST + field.evil)
    py_compile.compile(str(source), str(cached))
    data = bytearray(cached.read_bytes())
    status = path.stat()
    data[8:16] = int(status.st_mtime).to_bytes(4, "little") + status.st_size.to_bytes(
        4, "little"
    )
    cached.write_bytes(data)
    field.give(cached)
    return Placed(cached)


def _package(field: Field) -> Placed:
    """A package of the user's that stands before the module."""
    package = field.packages / field.module
    package.mkdir()
    (package / "__init__.py").write_text(HONEST + field.evil)
    field.give(package)
    return Placed(package)


def _imported(field: Field) -> Placed:
    """A module that the context's module imports."""
    other = field.packages / f"{field.module}_other.py"
    other.write_text(field.evil)
    field.give(other)
    (field.packages / f"{field.module}.py").write_text(f"import {other.stem}\n{HONEST}")
    return Placed(other)


def _pth(text: str, *, owned: bool) -> Callable[[Field], Placed]:
    def place(field: Field) -> Placed:
        field.plant(f"{field.module}.py", HONEST + field.evil)
        (field.packages / f"{field.module}.py").unlink()
        path = field.packages / "evil.pth"
        evil = "; ".join(f"exec({line!r})" for line in [field.evil])
        path.write_text(text.format(home=field.home, evil=evil))
        if owned:
            field.give(path)
            return Placed(path)
        return Placed(field.home)

    return place


_HOOK = """
import sys, importlib.util
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            return importlib.util.spec_from_file_location(name, {file!r})
sys.meta_path.{how}
"""


def _hook(how: str) -> Callable[[Field], Placed]:
    """An editable installation by a finder, as setuptools makes it."""

    def place(field: Field) -> Placed:
        target = field.plant("hooked.py", HONEST + field.evil)
        (field.packages / f"{field.module}.py").unlink()
        finder = field.packages / f"{field.module}_finder.py"
        finder.write_text(_HOOK.format(module=field.module, file=str(target), how=how))
        (field.packages / "evil.pth").write_text(f"import {finder.stem}\n")
        return Placed(field.home)

    return place


def _archive(field: Field) -> Placed:
    import zipfile

    archive = field.packages / "evil.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(f"{field.module}.py", HONEST + field.evil)
    field.give(archive)
    (field.packages / f"{field.module}.py").unlink()
    (field.packages / "evil.pth").write_text(f"{archive}\n")
    return Placed(archive)


def _customized(field: Field) -> Placed:
    path = field.packages / "sitecustomize.py"
    path.write_text(field.evil)
    field.give(path)
    return Placed(path)


def _namespace(field: Field) -> Placed:
    """A part of a namespace package."""
    field.plant("parts/of/part.py")
    (field.packages / "evil.pth").write_text(f"{field.home}/parts\n")
    (field.packages / f"{field.module}.py").write_text(f"import of.part\n{HONEST}")
    return Placed(field.home)


_FILES: dict[str, Callable[[Field], Placed]] = {
    "the module": _owned_module,
    "a module that its group may write": _mode(0o664),
    "a module that all may write": _mode(0o646),
    "a directory that its group may write": _directory(0o775),
    "a directory that all may write": _directory(0o757),
    "a directory like /tmp": _directory(0o1777),
    "the environment": _owned("."),
    "the directory of the interpreter": _owned("bin"),
    "the link to the interpreter": _owned("bin/python3"),
    "the launcher": _owned("bin/privsep-daemon"),
    "pyvenv.cfg": _owned("pyvenv.cfg"),
    "site-packages": _owned("{packages}"),
    "a file of privsep that is loaded early": _owned(
        "{packages}/privsep/_start/trust.py"
    ),
    "a file of privsep that is loaded late": _owned(
        "{packages}/privsep/_daemon/supervisor.py"
    ),
    "a directory of privsep": _owned("{packages}/privsep/_lockdown"),
    "msgpack": _owned("{packages}/msgpack/__init__.py"),
    "the directory of msgpack": _owned("{packages}/msgpack"),
    "a link to a module of the user's": _linked_module,
    "a link by way of the user's": _linked_by_another_link,
    "a compiled module": _compiled,
    "a package before the module": _package,
    "what the module imports": _imported,
    "a .pth file with a path": _pth("{home}\n", owned=True),
    "a .pth file with code": _pth("import os; {evil}\n", owned=True),
    "a .pth file of root's with a path": _pth("{home}\n", owned=False),
    "a finder behind the others": _hook("append(Finder)"),
    "a finder before the others": _hook("insert(0, Finder)"),
    "an archive": _archive,
    "sitecustomize": _customized,
    "a part of a namespace package": _namespace,
}


@contextlib.contextmanager
def _restored(field: Field) -> Generator[None]:
    """Put the environment back as it was."""
    prefix = field.python.prefix
    before = {path: path.lstat() for path in (prefix, *prefix.rglob("*"))}
    try:
        yield
    finally:
        (field.packages / f"{field.module}.py").unlink(missing_ok=True)
        (field.packages / f"{field.module}.py").write_text(HONEST)
        for path in sorted(prefix.rglob("*"), reverse=True):
            if path not in before:
                _remove(path)
        for path, status in before.items():
            if path.exists():
                os.lchown(path, 0, 0)
                if not path.is_symlink():
                    path.chmod(stat.S_IMODE(status.st_mode))


@pytest.mark.parametrize("place", _FILES.values(), ids=_FILES)
@pytest.mark.usefixtures("exact_rule")
def test_a_file_that_is_not_roots_alone_is_refused_by_name(
    field: Field, place: Callable[[Field], Placed]
) -> None:
    with _restored(field):
        placed = place(field)
        outcome = field.attempt()
    assert not outcome.ready
    said = outcome.said.replace(str(field.python.prefix / "bin" / ".."), "")
    assert f"{placed.path} belongs to uid " in said
    if placed.mode is None:
        assert f"belongs to uid {field.user.pw_uid}, gid " in said
        assert f"owners = [{field.user.pw_uid}] in {rules.path_of(field.name)}" in said
    else:
        assert f"mode {placed.mode:04o}: " in said
        assert "take write permission from group and others" in said
    assert "\n" not in outcome.said.strip()


def test_developers_whom_root_names_start_what_is_theirs(
    field: Field, rules_file: Path, exact_rule: None
) -> None:
    """Their virtual environment, their module, their .pth file: by one line."""
    rules_file.write_text(f'owners = ["{field.user.pw_name}"]\n')
    with _restored(field):
        for path in (field.python.prefix, *field.python.prefix.rglob("*")):
            field.give(path)
        (field.packages / f"{field.module}.py").unlink()
        field.plant(f"{field.module}.py", HONEST)
        (field.packages / "own.pth").write_text(f"{field.home}\n")
        assert field.attempt() == Outcome(True, "")


# -- root's file -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("users = []", "does not let uid {uid} start it"),
        ('users = ["root"]\ngroups = ["root"]', "does not let uid {uid} start it"),
        ('groups = ["root"]', "does not let uid {uid} start it"),
        (
            'users = ["privsep-no-such-user"]',
            "users: there is no user 'privsep-no-such-user'",
        ),
        ("users = 0", "users: it is 0; it must be a list"),
        ("users = [true]", "True is neither a name nor a number"),
        ("owner = [0]", "no key 'owner'; there are: users, groups"),
        ("owners = [", "Invalid value (at end of document)"),
        ("deadline = 0", "it is 0; it may be up to 3600 seconds"),
        ("deadline = inf", "it is inf; it may be"),
        ('capabilities = ["CAP_SYS_ADMINN"]', "did you mean CAP_SYS_ADMIN?"),
    ],
)
@pytest.mark.usefixtures("exact_rule")
def test_roots_file_says_who_may_start_and_says_it_without_a_mistake(
    field: Field, rules_file: Path, text: str, words: str
) -> None:
    rules_file.write_text(f"{text}\n")
    outcome = field.attempt()
    assert not outcome.ready
    assert str(rules_file) in outcome.said
    assert words.format(uid=field.user.pw_uid) in outcome.said


@pytest.mark.parametrize(
    "text", ["users = [{uid}]", "groups = [{gid}]", "groups = []\nusers = ['{name}']"]
)
@pytest.mark.usefixtures("exact_rule")
def test_who_is_named_in_roots_file_may_start(
    field: Field, rules_file: Path, text: str
) -> None:
    user = field.user
    rules_file.write_text(
        text.format(uid=user.pw_uid, gid=user.pw_gid, name=user.pw_name)
    )
    assert field.attempt().ready


@pytest.mark.usefixtures("any_words")
def test_a_context_has_no_capability_that_roots_file_lacks(field: Field) -> None:
    path = Path(rules.path_of(f"{field.module}:network"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('capabilities = ["CAP_CHOWN"]\n')
    try:
        outcome = field.attempt(f"{field.module}:network")
    finally:
        path.unlink()
        for directory in (path.parent, path.parent.parent):
            with contextlib.suppress(OSError):
                directory.rmdir()
    assert not outcome.ready
    assert "asks for CAP_NET_ADMIN, which capabilities in" in outcome.said


def _own_rules(field: Field, path: Path) -> None:
    path.write_text("users = []\n")
    field.give(path)


def _open_rules(field: Field, path: Path) -> None:
    path.write_text("users = []\n")
    path.chmod(0o666)


def _linked_rules(field: Field, path: Path) -> None:
    path.symlink_to(field.plant("rules.toml", f"owners = [{field.user.pw_uid}]\n"))


def _open_directory(field: Field, path: Path) -> None:
    path.write_text("")
    path.parent.chmod(0o775)


def _directory_of_rules(field: Field, path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (_own_rules, "belongs to uid {uid}"),
        (_open_rules, "mode 0666"),
        (_linked_rules, "belongs to uid {uid}"),
        (_open_directory, "mode 0775"),
        (_directory_of_rules, "it is a directory"),
    ],
)
@pytest.mark.usefixtures("exact_rule")
def test_a_file_of_rules_that_is_not_roots_alone_is_refused(
    field: Field,
    rules_file: Path,
    place: Callable[[Field, Path], None],
    words: str,
) -> None:
    mode = stat.S_IMODE(rules_file.parent.stat().st_mode)
    place(field, rules_file)
    try:
        outcome = field.attempt()
    finally:
        rules_file.parent.chmod(mode)
        if rules_file.is_dir():
            rules_file.rmdir()
    assert not outcome.ready
    assert words.format(uid=field.user.pw_uid) in outcome.said


# -- time and signals --------------------------------------------------------------

_HANGS = """
import time
while True:
    try:
        time.sleep(1000)
    except BaseException:
        pass
"""


@contextlib.contextmanager
def _hanging(field: Field, rules_file: Path) -> Generator[None]:
    """The module does not end its import, and root allows the start half a second."""
    rules_file.write_text("deadline = 0.5\n")
    module = field.packages / f"{field.module}.py"
    module.write_text(_HANGS)
    try:
        yield
    finally:
        module.write_text(HONEST)


def _ignore_all() -> None:
    for number in range(1, 32):
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_IGN)


def _block_all() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


@pytest.mark.parametrize("prepare", [None, _ignore_all, _block_all])
@pytest.mark.usefixtures("exact_rule")
def test_a_start_ends_at_the_deadline_though_its_client_waits(
    field: Field, rules_file: Path, prepare: Callable[[], None] | None
) -> None:
    ours, daemons = field.pair()
    with ours, daemons, _hanging(field, rules_file):
        process = field.launch(daemons, prepare=prepare)
        daemons.close()
        process.communicate(timeout=HANGS)  # and we do not let go of it


@pytest.mark.usefixtures("exact_rule")
def test_a_client_that_stops_does_not_keep_a_start(
    field: Field, rules_file: Path
) -> None:
    """The control socket is a stopped process's; nobody closes it."""
    ours, daemons = field.pair()
    holder = subprocess.Popen(
        ["sleep", "infinity"], stdin=ours.fileno(), user=field.user.pw_uid
    )
    ours.close()
    holder.send_signal(signal.SIGSTOP)
    with holder, daemons, _hanging(field, rules_file):
        try:
            process = field.launch(daemons)
            daemons.close()
            process.communicate(timeout=HANGS)
        finally:
            holder.kill()


@pytest.mark.parametrize("prepare", [_ignore_all, _block_all])
@pytest.mark.usefixtures("exact_rule")
def test_signals_that_are_ignored_or_blocked_do_not_hinder_a_start(
    field: Field, prepare: Callable[[], None]
) -> None:
    assert field.attempt(prepare=prepare).ready


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGKILL,
        signal.SIGSTOP,
        signal.SIGTSTP,
        signal.SIGALRM,
        signal.SIGIO,
        signal.SIGUSR1,
        signal.SIGTERM,
    ],
)
@pytest.mark.usefixtures("exact_rule")
def test_signals_during_the_start_are_not_the_users_to_send(
    field: Field, number: signal.Signals
) -> None:
    """He sends them to sudo without end, until it is not his any more.

    What he stops before that runs nothing; here root has it go on.
    """
    ours, daemons = field.pair()
    with ours, daemons:
        process = field.launch(daemons)
        daemons.close()
        kill = f"kill -{number:d} -{process.pid}"
        sender = subprocess.Popen(
            ["sh", "-c", f"for _ in $(seq 9999); do {kill} || exit; done"],
            stderr=subprocess.DEVNULL,
            user=field.user.pw_uid,
        )
        sender.wait(HANGS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)
        field.outcome(process, ours)


def test_the_deadline_holds_where_the_helper_leaves_signals_blocked(
    field: Field, rules_file: Path
) -> None:
    """As sudo does not; the daemon waits for a path that nobody says."""
    rules_file.write_text("deadline = 0.5\n")
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [field.python.launcher, field.name],
        stdin=reader,
        env={"SUDO_UID": "0", "SUDO_GID": "0"},
        preexec_fn=_block_all,  # noqa: PLW1509 - there is one thread
    )
    os.close(reader)
    try:
        assert process.wait(HANGS) == -signal.SIGALRM
    finally:
        process.kill()
        os.close(writer)


# -- the socket by its path --------------------------------------------------------

_BY_PATH = """
    import importlib, os, sys, tempfile
    module = importlib.import_module(sys.argv[1])
    before = set(os.listdir(tempfile.gettempdir()))
    module.context.start("sudo")
    print(module.who())
    print(set(os.listdir(tempfile.gettempdir())) - before)
    module.context.stop()
"""


@pytest.mark.usefixtures("logged_input")
def test_sudo_that_logs_its_input_starts_a_daemon_by_a_path(field: Field) -> None:
    lines = field.python.run(
        _BY_PATH,
        field.module,
        user=field.user.pw_name,
        variables={"TMPDIR": str(field.home)},
    )
    assert lines == ["0", "set()"]
    assert list(field.home.iterdir()) == []


def _answer(field: Field, said: bytes) -> Outcome:
    """Start by a path that the attacker says; nothing of privsep's client is here."""
    reader, writer = os.pipe()
    process = field.launch(reader)
    os.close(reader)
    os.write(writer, said)
    os.close(writer)
    output, _ = process.communicate(timeout=HANGS)
    return Outcome(process.returncode == 0, output.decode(errors="replace"))


_PATHS = {
    "nothing": b"",
    "no line": b"/nowhere",
    "a name that is not there": b"/nowhere/control\n",
    "a file of root's": b"/etc/shadow\n",
    "a directory of root's": b"/root/.ssh\n",
    "a device": b"/dev/zero\n",
    "itself": b"/proc/self/fd/0\n",
    "a NUL": b"/tmp/\0control\n",
    "an abstract name": b"\0control\n",
    "a long name": b"/" + b"a" * 4000 + b"\n",
}


@pytest.mark.parametrize("said", _PATHS.values(), ids=_PATHS)
@pytest.mark.usefixtures("exact_rule")
def test_a_path_without_a_socket_of_the_callers_is_refused(
    field: Field, said: bytes
) -> None:
    outcome = _answer(field, said)
    assert not outcome.ready
    assert "control socket" in outcome.said


@pytest.mark.usefixtures("exact_rule")
def test_a_path_without_end_is_not_read_to_its_end(field: Field) -> None:
    with subprocess.Popen(["cat", "/dev/zero"], stdout=subprocess.PIPE) as endless:
        assert endless.stdout is not None
        process = field.launch(endless.stdout.fileno())
        endless.stdout.close()
        output, _ = process.communicate(timeout=HANGS)
    assert b"says no path of one" in output


@contextlib.contextmanager
def _listening(path: Path, uid: int) -> Generator[socket.socket]:
    """Listen as `uid` at a path; the directory may be anybody's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        path.chmod(0o777)
        os.seteuid(uid)
        try:
            listener.listen()
        finally:
            os.seteuid(0)
        listener.settimeout(HANGS)
        yield listener
    path.unlink()


@pytest.mark.parametrize("way", ["it itself", "a link"])
@pytest.mark.parametrize("whose", ["root", "nobody"])
@pytest.mark.usefixtures("exact_rule")
def test_a_socket_where_somebody_else_listens_is_not_spoken_to(
    field: Field, way: str, whose: str, tmp_path: Path
) -> None:
    import pwd

    place = field.home / "control"
    with _listening(place, pwd.getpwnam(whose).pw_uid) as listener:
        link = field.home / "link"
        link.symlink_to(place)
        said = place if way == "it itself" else link
        outcome = _answer(field, f"{said}\n".encode())
        assert not outcome.ready
        listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(1) == b""


@contextlib.contextmanager
def _flipping(place: Path, targets: Sequence[Path]) -> Generator[None]:
    """Have a name lead to one target after the other, as fast as that goes."""
    draft = place.with_suffix(".draft")
    over = threading.Event()

    def flip() -> None:
        for target in itertools.cycle(targets):
            draft.symlink_to(target)
            draft.replace(place)
            if over.is_set():
                return

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def _hanging_up(listener: socket.socket) -> Generator[None]:
    """Accept and, when the daemon is ready or has ended, let go of it."""
    over = threading.Event()

    def hang_up() -> None:
        while not over.is_set():
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(HANGS)
                connection.recv(1 << 17)

    thread = threading.Thread(target=hang_up)
    thread.start()
    try:
        yield
    finally:
        over.set()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as last:
            last.connect(listener.getsockname())
        thread.join()


@pytest.mark.usefixtures("exact_rule")
def test_a_race_for_the_path_gets_no_word_said_to_another_s_listener(
    field: Field,
) -> None:
    own, others, place = (field.home / name for name in ("own", "others", "control"))
    with (
        _listening(others, 0) as victim,
        _listening(own, field.user.pw_uid) as listener,
        _hanging_up(listener),
        _flipping(place, [own, others]),
    ):
        outcomes = [_answer(field, f"{place}\n".encode()) for _ in range(20)]
        print([outcome.said or "ready" for outcome in outcomes])
        victim.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = victim.accept()
                with connection:
                    assert connection.recv(1) == b""


@pytest.mark.usefixtures("exact_rule")
def test_a_path_that_only_root_could_open_is_not_opened(
    field: Field, tmp_path: Path
) -> None:
    """Though the attacker listens there: it is not his to reach."""
    hidden = field.marks.parent / "hidden"
    hidden.mkdir(mode=0o700)
    try:
        with _listening(hidden / "control", field.user.pw_uid):
            outcome = _answer(field, f"{hidden}/control\n".encode())
    finally:
        hidden.rmdir()
    assert "Permission denied" in outcome.said


@pytest.mark.parametrize("prepare", [None, _ignore_all, _block_all])
@pytest.mark.usefixtures("any_variables")
def test_a_path_that_is_never_said_is_waited_for_until_the_deadline(
    field: Field, rules_file: Path, prepare: Callable[[], None] | None
) -> None:
    rules_file.write_text("deadline = 0.5\n")
    reader, writer = os.pipe()
    process = field.launch(reader, prepare=prepare)
    os.close(reader)
    output, _ = process.communicate(timeout=HANGS)
    os.close(writer)
    assert b"waiting for the path of a socket" in output


_FIRST = """
    import os, socket, sys
    from privsep._start import meeting
    place = meeting.Meeting()
    os.chmod(os.path.dirname(place.path), 0o755)
    os.chmod(place.path, 0o777)
    print(place.path, flush=True)
    sys.stdin.readline()
    print(place.accept())
    place.close()
    print(os.path.exists(os.path.dirname(place.path)))
"""


def test_whoever_is_not_root_is_turned_away_though_he_comes_first(
    field: Field,
) -> None:
    import pwd

    with field.python.begin(
        _FIRST,
        user=field.user.pw_name,
        stdin=subprocess.PIPE,
        variables={"TMPDIR": str(field.home)},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        path = process.stdout.readline().strip()
        nobody = pwd.getpwnam("nobody").pw_uid
        with (
            field.as_user(nobody),
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as ours,
        ):
            ours.connect(path)
            process.stdin.write("\n")
            process.stdin.flush()
            ours.settimeout(HANGS)
            assert ours.recv(1) == b""
        assert scripts.finish(process) == ["None", "False"]


def test_nobody_else_can_enter_where_the_client_listens(tmp_path: Path) -> None:
    from privsep._start.meeting import Meeting

    place = Meeting()
    try:
        directory = os.stat(os.path.dirname(place.path))
        assert (stat.S_IMODE(directory.st_mode), directory.st_uid) == (0o700, 0)
    finally:
        place.close()
