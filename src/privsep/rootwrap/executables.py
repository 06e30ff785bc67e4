"""The file that a command names, found, looked at and held open.

Runs in the privileged process.
"""

from __future__ import annotations

import os

from privsep._start import trust
from privsep._start.trust import Untrusted
from privsep.rootwrap.errors import Missing

_ANYBODY_EXECUTES = 0o111
_BINARY = b"\x7fELF"
_SCRIPT = b"#!"
_FIRST_LINE = 256  # as much of it as the kernel reads
_MOST_INTERPRETERS = 5  # one the other's, as many as the kernel allows


class Executable:
    """A program that nobody else can change.

    Attributes:
        path: as it was found: what the program is told that it is.  A program of
            many names (lvm, busybox) goes by it.
        resolved: the same without symbolic links.
        descriptor: holds the file, to execute it by.
        is_binary: whether it can be executed by `descriptor`.  A script cannot: its
            interpreter has to open it by name.

    """

    __slots__ = ("descriptor", "is_binary", "path", "resolved", "status")

    def __init__(self, path: str, place: trust.Place) -> None:
        self.path = path
        self.resolved = place.path
        self.status = place.status
        self.is_binary = _is_binary(place)
        self.descriptor = place.take()

    def is_at(self, path: str) -> bool:
        """Return whether `path` is this file, by whatever name."""
        try:
            return os.path.samestat(os.stat(path), self.status)
        except OSError:
            return False

    def close(self) -> None:
        """Let the file go."""
        os.close(self.descriptor)


def find(command: str, directories: tuple[str, ...]) -> Executable:
    """Return the executable that `command` names.

    Args:
        command: a path from the root, or what to look for in `directories`.
        directories: each a path from the root.

    Raises:
        Missing: there is none.
        Untrusted: somebody else could change it.

    """
    for path in paths(command, directories):
        if not os.path.isfile(path):
            continue
        try:
            place = trust.walk(path)
            try:
                if place.status.st_mode & _ANYBODY_EXECUTES:
                    return Executable(path, place)
            finally:
                place.close()
        except Untrusted:
            raise
        except OSError as error:
            raise Missing(f"{path} cannot be executed: {error}") from None
    raise Missing(f"there is no executable {command}")


def paths(command: str, directories: tuple[str, ...]) -> list[str]:
    """Return what `command` may name."""
    if command.startswith("/"):
        return [command]
    return [f"{directory}/{command}" for directory in directories]


def _is_binary(place: trust.Place, depth: int = 0) -> bool:
    """Return whether a program is a binary; its interpreter is looked at, if not.

    What may be executed and not read can be no script.
    """
    try:
        descriptor = place.open()
    except PermissionError:
        return True
    try:
        first = os.read(descriptor, _FIRST_LINE)
    finally:
        os.close(descriptor)
    if first.startswith(_SCRIPT) and depth < _MOST_INTERPRETERS:
        _check_interpreter(place, first, depth)
    return first.startswith(_BINARY)


def _check_interpreter(place: trust.Place, first: bytes, depth: int) -> None:
    """Accept the interpreter of a script, which is what is executed.

    Raises:
        Untrusted: somebody else could change it, or it is looked for where the caller
            is.
        OSError: it cannot be looked at.

    """
    line = first[len(_SCRIPT) :].partition(b"\n")[0].replace(b"\t", b" ")
    path = os.fsdecode(line.strip(b" ").partition(b" ")[0])
    if not path.startswith("/"):
        raise Untrusted(
            f"{place.path} is a script whose interpreter {path!r} is no absolute path"
        )
    interpreter = trust.walk(path)
    try:
        _is_binary(interpreter, depth + 1)
    finally:
        interpreter.close()
