"""Fixtures that cross a real boundary between users: an interpreter that every
user may run, a user without privileges, and what allows that user a daemon.

All of them change the system, as root, and put it back when they are done.
"""

from __future__ import annotations

import fcntl
import inspect
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import msgpack
import pytest

import privsep
import scripts

if TYPE_CHECKING:
    import pwd
    from collections.abc import Callable, Generator, Iterator

_LAUNCHER_NAME = "privsep-daemon"
_COMMAND_NAME = "privsep"
_ROOTWRAP_NAME = "privsep-rootwrap-daemon"
#: what a pytest beside this one compiles: it is gone in a moment
BEING_COMPILED = "*.pyc.*"
_LEFT_OUT = ("site-packages", "test", "config-*", "ensurepip", "idlelib", "tkinter")
_SUDOERS = Path("/etc/sudoers.d")
_DOAS_CONF = Path("/etc/doas.conf")


class PublicPython:
    """The interpreter `executable`, the daemon's `launcher`, and `privsep` itself."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.executable = str(prefix / "bin" / "python3")
        self.launcher = str(prefix / "bin" / _LAUNCHER_NAME)
        self.command = str(prefix / "bin" / _COMMAND_NAME)
        self.rootwrap_daemon = str(prefix / "bin" / _ROOTWRAP_NAME)

    def begin(
        self, script: str, *arguments: object, **options: Unpack[scripts.Options]
    ) -> subprocess.Popen[str]:
        """Start a script with it; see `scripts.begin`."""
        return scripts.begin(script, *arguments, python=self.executable, **options)

    def run(
        self, script: str, *arguments: object, **options: Unpack[scripts.Options]
    ) -> list[str]:
        """Run a script with it and return the lines it wrote."""
        return scripts.finish(self.begin(script, *arguments, **options))


@pytest.fixture(scope="session")
def public_python() -> Iterator[PublicPython]:
    """An interpreter of this version that every user may run.

    It imports privsep, msgpack and the modules of the tests, and the launcher of
    the daemon stands beside it.  Where the base interpreter is out of other
    users' reach (below /root, say), it is copied, with hard links where they work.
    """
    with tempfile.TemporaryDirectory(prefix="privsep-python-", dir="/var/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        base = Path(sys.base_prefix)
        if not _is_public(base):
            base = _copy_of(base, directory / "base")
        yield _environment(directory / "env", base)


def _is_public(path: Path) -> bool:
    """Tell whether every user may run it, and a daemon that sudo starts, too."""
    found = [place.stat() for place in (path, *path.parents)]
    return all(x.st_mode & 0o001 and not (x.st_mode & 0o022 or x.st_uid) for x in found)


def _version() -> str:
    return f"python{sys.version_info.major}.{sys.version_info.minor}"


def _copy_of(base: Path, target: Path) -> Path:
    """Copy what an interpreter needs to start and to import its library."""
    library = Path("lib") / _version()
    shutil.copytree(
        base / library,
        target / library,
        copy_function=_link,
        ignore=shutil.ignore_patterns(*_LEFT_OUT, BEING_COMPILED),
    )
    for shared in (base / "lib").glob("libpython*.so*"):
        _link(str(shared), str(target / "lib" / shared.name))
    (target / "bin").mkdir()
    program = (base / "bin" / _version()).read_bytes()
    # The program names the directory of its libpython, which nobody else reaches.
    runpath = f"{base}/lib".encode() + b"\0"
    program = program.replace(runpath, b"$ORIGIN/../lib".ljust(len(runpath), b"\0"))
    copy = target / "bin" / _version()
    copy.write_bytes(program)
    copy.chmod(0o755)
    return target


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another filesystem
        shutil.copy2(source, target)


def _environment(prefix: Path, base: Path) -> PublicPython:
    """Make a virtual environment without calling pip: a link and a directory."""
    packages = prefix / "lib" / _version() / "site-packages"
    packages.mkdir(parents=True)
    (prefix / "bin").mkdir()
    python = PublicPython(prefix)
    Path(python.executable).symlink_to(base / "bin" / _version())
    (prefix / "pyvenv.cfg").write_text(f"home = {base / 'bin'}\n")
    for package in (privsep, msgpack):
        source = Path(inspect.getfile(package)).parent
        shutil.copytree(
            source,
            packages / source.name,
            ignore=shutil.ignore_patterns(BEING_COMPILED),
        )
    shutil.copytree(
        Path(__file__).parent,
        packages,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("__pycache__", ".*"),
    )
    for command in (python.launcher, python.command, python.rootwrap_daemon):
        script = Path(__file__).parent.parent / "scripts" / Path(command).name
        Path(command).write_text(script.read_text())
        Path(command).chmod(0o755)
    return python


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"


def need(*programs: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make another user and its rules")
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


@pytest.fixture(scope="session")
def unprivileged_user() -> Iterator[str]:
    """The name of a user that exists as long as the session."""
    need("useradd", "userdel")
    # Not by the pid: a run that was cut off has left its user.
    name = f"privsep-t{secrets.token_hex(4)}"
    options = ("--no-create-home", "--user-group", "--shell", "/bin/sh")
    _change_users("useradd", *options, name)
    yield name
    if rules := [*_SUDOERS.glob(f"{name}*")]:
        with etc_locked(fcntl.LOCK_EX):  # none starts by sudo meanwhile
            for rule in rules:
                rule.unlink()
    _change_users("userdel", name)


@pytest.fixture
def user_entry(unprivileged_user: str) -> pwd.struct_passwd:
    """The passwd entry of the unprivileged user."""
    import pwd

    return pwd.getpwnam(unprivileged_user)


def _change_users(*words: str) -> None:
    """Run a command when no other run does: it waits 15 s for others, no longer."""
    with _locked("/var", fcntl.LOCK_EX):
        _run(*words)


@contextmanager
def _locked(directory: str, how: int) -> Generator[None]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


_holds_etc: list[int] = []


@contextmanager
def etc_locked(how: int) -> Generator[None]:
    """Take /etc for oneself (LOCK_EX), or keep others from doing so (LOCK_SH).

    What it says holds for all that run beside this.  Who holds it already goes on.
    """
    if _holds_etc:
        assert how in (fcntl.LOCK_SH, *_holds_etc), "it is shared: wait for none"
        yield
        return
    with ExitStack() as stack:
        # In turn: or those who share it would keep out for ever who wants it alone.
        with _locked("/", fcntl.LOCK_EX):
            stack.enter_context(_locked("/etc", how))
        _holds_etc.append(how)
        stack.callback(_holds_etc.clear)
        yield


@pytest.fixture
def etc_as_it_is() -> Iterator[None]:
    """Keep others from trying meanwhile what /etc may say."""
    with etc_locked(fcntl.LOCK_SH):
        yield


@contextmanager
def sudoers(name: str, *lines: str) -> Generator[None]:
    """Have sudo read these lines.

    Args:
        name: of the file; it begins as the unprivileged user's.
        lines: the rules and settings.

    """
    _write_sudoers(name, *lines)
    try:
        yield
    finally:
        # It stays, empty, as long as the user: a sudo that reads the directory just
        # now would complain of a file that has gone.
        _write_sudoers(name)


def _write_sudoers(name: str, *lines: str) -> None:
    file = _SUDOERS / name
    draft = file.with_suffix(".draft")  # sudo reads no name with a dot
    try:
        draft.write_text("".join(f"{line}\n" for line in lines))
        draft.chmod(0o440)
        _run("visudo", "-c", "-f", str(draft))
        draft.rename(file)
    finally:
        draft.unlink(missing_ok=True)


@pytest.fixture
def sudoers_rule(
    unprivileged_user: str, public_python: PublicPython
) -> Iterator[Callable[[str | list[str]], None]]:
    """A function that lets the user start one daemon through sudo.

    Which is said by the variable of a context, or by the words of a command.
    """
    need("sudo", "visudo")
    with etc_locked(fcntl.LOCK_SH), ExitStack() as stack:

        def allow(daemon: str | list[str]) -> None:
            words = (
                [public_python.launcher, daemon] if isinstance(daemon, str) else daemon
            )
            command = " ".join(words).replace(":", r"\:")
            rule = f"{unprivileged_user} ALL=(root) NOPASSWD: {command}"
            stack.enter_context(sudoers(unprivileged_user, rule))

        yield allow


@pytest.fixture
def doas_rule(
    unprivileged_user: str, public_python: PublicPython
) -> Iterator[Callable[[str], None]]:
    """A function that lets the user start one context's daemon through doas."""
    need("doas")
    with etc_locked(fcntl.LOCK_EX):  # doas has one file for all
        before = _DOAS_CONF.read_bytes() if _DOAS_CONF.exists() else None

        def allow(variable: str, settings: str = "") -> None:
            rule = (
                f"permit nopass {settings}{unprivileged_user} as root "
                f"cmd {public_python.launcher} args {variable}\n"
            )
            _DOAS_CONF.write_text(rule)
            _DOAS_CONF.chmod(0o400)
            _run("doas", "-C", str(_DOAS_CONF))

        try:
            yield allow
        finally:
            if before is None:
                _DOAS_CONF.unlink(missing_ok=True)
            else:
                _DOAS_CONF.write_bytes(before)
