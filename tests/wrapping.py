"""Policies of rootwrap in a directory of their own, and the program that reads them."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import pytest

import privsep
from privsep._start import trust
from privsep.rootwrap import Untrusted, load
from privsep.rootwrap.judge import judge

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping

    from privsep.rootwrap import Policy, Verdict

#: As a user without privileges sees it, so that what runs as ourselves can be tried.
ME = getpass.getuser()
PROGRAM = str(Path(privsep.__file__).parent / "rootwrap" / "__main__.py")
ENDS_WITHIN = 60.0  # seconds: a command that hangs fails its test, not the suite

NO_EXECUTABLE, BAD_POLICY, NO_COMMAND, NOT_ALLOWED = 96, 97, 98, 99

#: A command that shows that it ran, and how.
SHOW = """#!/bin/sh
echo ran
for word; do printf '%s\\n' "$word"; done
"""


def trusted_python() -> str:
    """Return the path of this interpreter, if nobody else may write it; or skip."""
    path = os.path.realpath(sys.executable)
    try:
        trust.walk(path).close()
    except Untrusted as error:
        pytest.skip(str(error))
    return path


@contextmanager
def running(*words: str | Path) -> Generator[subprocess.Popen[bytes]]:
    """Run a command until the end of the ``with``."""
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


#: Variables that would sway a shell, Python or the loader: the name, and a value.
SWAYING = {
    "IFS": "/",
    "ENV": "/tmp/x",
    "BASH_ENV": "/tmp/x",
    "PYTHONPATH": "/tmp",
    "PYTHONHOME": "/tmp",
    "PYTHONUTF8": "0",
    "PYTHONINSPECT": "1",
    "PYTHONPLATLIBDIR": "x",
    "LC_ALL": "tr_TR.ISO-8859-9",
    "LD_LIBRARY_PATH": "/tmp",
    "BASH_FUNC_exec%%": "() { echo evil; }",
    "BASH_FUNC_open%%": "() { echo evil; }",
}


class Options(TypedDict, total=False):
    """How the program runs."""

    before: Iterable[str]  #: words before the command
    variables: Mapping[str, str]  #: added to its environment
    cwd: str | Path  #: the test's own directory if not given
    input: str  #: nothing can be read if not given
    timeout: float  #: seconds
    close_fds: bool
    group: int
    extra_groups: Iterable[int]


class Wrapped:
    """A policy that a test writes, with executables of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = directory / "bin"
        self.filters = directory / "rootwrap.d"
        self.config = directory / "rootwrap.conf"
        for each in (directory, self.bin, self.filters):
            each.mkdir(mode=0o755, exist_ok=True)
        self.configure()

    def configure(self, *lines: str, directories: Iterable[object] = ()) -> None:
        """Write rootwrap.conf; commands are looked for in `bin` and `directories`."""
        found = ",".join(map(str, (self.bin, *directories)))
        head = ("[DEFAULT]", f"filters_path = {self.filters}", f"exec_dirs = {found}")
        self.config.write_text("\n".join((*head, *lines)) + "\n")

    def allow(self, *lines: str, name: str = "test.filters") -> None:
        """Write a file of filters; ``@bin``, ``@dir`` and ``@me`` are replaced."""
        text = "\n".join(("[Filters]", *lines)) + "\n"
        (self.filters / name).write_text(self.filled(text))

    def filled(self, text: str) -> str:
        """Return a text with the places and the user of this test."""
        for word, value in (
            ("@bin", str(self.bin)),
            ("@dir", str(self.directory)),
            ("@me", ME),
        ):
            text = text.replace(word, value)
        return text

    def script(self, *names: str, text: str = SHOW) -> None:
        """Put executable scripts into `bin`."""
        for name in names:
            file = self.bin / name
            file.write_text(text)
            file.chmod(0o755)

    def copy(self, program: str, name: str | None = None) -> Path:
        """Put a copy of a program of the system into `bin`."""
        source = shutil.which(program)
        assert source is not None
        file = self.bin / (name or program)
        shutil.copy(source, file)
        return file

    def load(self) -> Policy:
        """Return the policy."""
        return load(str(self.config))

    def judge(self, *words: str) -> Verdict:
        """Return the verdict on a command; close it."""
        return judge([self.filled(word) for word in words], self.load())

    def decider(self, *words: str) -> str:
        """Return the name of the filter that decides on a command, if one does."""
        with self.judge(*words) as verdict:
            return verdict.filter.name if verdict.filter else ""

    def run(
        self, *words: str, **options: Unpack[Options]
    ) -> subprocess.CompletedProcess[str]:
        """Run the program with this policy and a command, and return how it ended."""
        return self.call(str(self.config), *map(self.filled, words), **options)

    def call(
        self, *arguments: str, **options: Unpack[Options]
    ) -> subprocess.CompletedProcess[str]:
        """Run the program with these arguments, and return how it ended."""
        program = (sys.executable, "-I", "-S", PROGRAM)
        stdin = None if "input" in options else subprocess.DEVNULL
        return subprocess.run(
            [*options.get("before", ()), *program, *arguments],
            env={"PATH": os.environ["PATH"], **options.get("variables", {})},
            cwd=options.get("cwd", self.directory),
            stdin=stdin,
            input=options.get("input"),
            capture_output=True,
            errors="surrogateescape",
            timeout=options.get("timeout", ENDS_WITHIN),
            close_fds=options.get("close_fds", True),
            group=options.get("group"),
            extra_groups=options.get("extra_groups"),
            check=False,
        )
