"""The file that a command names, found, looked at and held open.

Runs in the privileged process.
"""

from __future__ import annotations

import os

from privsep.rootwrap import trust
from privsep.rootwrap.errors import Missing, Untrusted

_ANYBODY_EXECUTES = 0o111
_BINARY = b"\x7fELF"


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
        self.descriptor = place.take()
        self.is_binary = _begins_with(place, _BINARY)

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
        except Untrusted:
            raise
        except OSError as error:
            raise Missing(f"{path} cannot be looked at: {error}") from None
        try:
            if place.status.st_mode & _ANYBODY_EXECUTES:
                return Executable(path, place)
        finally:
            place.close()
    raise Missing(f"there is no executable {command}")


def paths(command: str, directories: tuple[str, ...]) -> list[str]:
    """Return what `command` may name."""
    if command.startswith("/"):
        return [command]
    return [f"{directory}/{command}" for directory in directories]


def _begins_with(place: trust.Place, magic: bytes) -> bool:
    """Say so, too, of what may be executed and not read: that can be no script."""
    try:
        descriptor = place.open()
    except PermissionError:
        return True
    try:
        return os.read(descriptor, len(magic)) == magic
    finally:
        os.close(descriptor)
