"""Whose a file is, and who else could change it: a walk from the root, by descriptor.

Runs in the privileged process.  Each component of a path is opened in the directory
before it, without following it, and looked at by its descriptor: so what is used is
what was looked at, however the names change meanwhile.  Symbolic links are followed
here, one by one, and the link itself and the way to it are looked at, too.

Sources: path_resolution(7), open(2) on O_PATH, symlink(7), inode(7) on the sticky bit.
"""

from __future__ import annotations

import errno
import os
import stat

from privsep.errors import PrivsepError

_HOLD = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_MOST_LINKS = 40  # as many as the kernel follows


class Untrusted(PrivsepError, PermissionError):
    """Somebody else than root could change what is to be read or run.

    The message has the path, the owner and the mode.

    Attributes:
        owner: uid of whom it belongs to.

    """

    owner: int


class Place:
    """A file that a walk found.  It is held open, without access to its contents.

    Attributes:
        path: the resolved path, which has no symbolic link.
        status: what fstat(2) says of it.

    """

    __slots__ = ("_held", "path", "status")

    def __init__(self, held: int, path: str, status: os.stat_result) -> None:
        self._held = held
        self.path = path
        self.status = status

    def close(self) -> None:
        """Let it go, unless it was taken."""
        if self._held >= 0:
            os.close(self._held)

    def open(self) -> int:
        """Return a descriptor to read this very file by, whatever its name is now.

        Raises:
            OSError: as open(2).

        """
        return os.open(f"/proc/self/fd/{self._held}", _READ)

    def take(self) -> int:
        """Return the descriptor that holds it, for execve(2); it is the caller's."""
        held, self._held = self._held, -1
        return held


def walk(path: str, trusted: tuple[int, ...] | None = None) -> Place:
    """Find `path` and return it; every component is trusted.

    Args:
        path: the file; one that is not absolute begins in the current directory.
        trusted: the uids whose files are; None: those of `trusted_users`.

    Raises:
        Untrusted: a component belongs to somebody else, or somebody else may write
            it; a sticky directory on the way is let pass, as its entries are looked
            at themselves.
        OSError: as open(2); ELOOP for too many symbolic links.

    """
    absolute = path if path[:1] == "/" else f"{os.getcwd()}/{path}"
    here = _Walk(absolute, trusted_users() if trusted is None else trusted)
    try:
        while here.todo:
            here.step()
        return Place(here.held, here.path, here.status)
    except BaseException:
        os.close(here.held)
        raise


def resolve(path: str) -> str:
    """Return `path` with its symbolic links resolved, as far as they are trusted.

    From the first component on that somebody else may exchange, or that is not there,
    it is taken as it is written.
    """
    here = _Walk(path, trusted_users())
    try:
        while here.todo:
            here.step()
    except OSError:  # Untrusted is one of them
        return os.path.normpath("/".join((here.path, *here.todo[::-1])))
    finally:
        os.close(here.held)
    return here.path


class _Walk:
    """Where a walk is: a file that is held, and what is to come."""

    def __init__(self, path: str, trusted: tuple[int, ...]) -> None:
        self.todo = path.split("/")[::-1]
        self._trusted = trusted
        self._names: list[str] = []
        self._links = 0
        self.held = os.open("/", _HOLD)
        self.status = os.fstat(self.held)

    @property
    def path(self) -> str:
        return "/" + "/".join(self._names)

    def step(self) -> None:
        """Go on by one component, or along a symbolic link."""
        if not self._names:
            check(self.status, "/", self._trusted)
        name = self.todo[-1]
        if name in ("", "."):
            self.todo.pop()
            return
        found = os.open(name, _HOLD, dir_fd=self.held)
        if name == "..":
            self.todo.pop()
            self._names[-1:] = []
            self._hold(found, os.fstat(found))
            return
        try:
            status = os.fstat(found)
            check(status, f"{self.path.rstrip('/')}/{name}", self._trusted)
            if stat.S_ISLNK(status.st_mode):
                self._follow(os.readlink("", dir_fd=found))
                os.close(found)
                return
        except BaseException:
            os.close(found)
            raise
        self._names.append(self.todo.pop())
        self._hold(found, status)

    def _hold(self, found: int, status: os.stat_result) -> None:
        os.close(self.held)
        self.held = found
        self.status = status

    def _follow(self, target: str) -> None:
        self._links += 1
        if self._links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), target)
        self.todo[-1:] = target.split("/")[::-1]
        if target[:1] == "/":
            self._names.clear()
            root = os.open("/", _HOLD)
            self._hold(root, os.fstat(root))


def trusted_users() -> tuple[int, ...]:
    """Return whose files are trusted: root's, and our own user's."""
    user = os.geteuid()
    return (0, user) if user else (0,)


def check(status: os.stat_result, path: str, trusted: tuple[int, ...]) -> None:
    """Refuse what somebody else owns or may write, but for a sticky directory.

    Raises:
        Untrusted: the message has the path, the owner and the mode.

    """
    mode = status.st_mode
    writable = mode & OTHERS_WRITE and not stat.S_ISLNK(mode)
    if status.st_uid in trusted and (
        not writable or (stat.S_ISDIR(mode) and mode & stat.S_ISVTX)
    ):
        return
    raise refusal(status, path)


def refusal(status: os.stat_result, path: str) -> Untrusted:
    """Return the error that says whose `path` is and who may write it."""
    whose = "root's" if os.geteuid() == 0 else "root's or the running user's"
    error = Untrusted(
        f"{path} belongs to uid {status.st_uid}, gid {status.st_gid}, mode "
        f"{stat.S_IMODE(status.st_mode):04o}: it must be {whose}, and writable by "
        "nobody else"
    )
    error.owner = status.st_uid
    return error


def list_directory(path: str) -> tuple[str, list[str]]:
    """Return the resolved path of a directory, and the names in it, sorted.

    Raises:
        Untrusted: as `walk`; here the sticky bit is no excuse: others could put
            their files beside.
        OSError: as open(2); ENOTDIR.

    """
    place = walk_to_directory(path)
    try:
        descriptor = place.open()
        try:
            return place.path, sorted(os.listdir(descriptor))
        finally:
            os.close(descriptor)
    finally:
        place.close()


def walk_to_directory(path: str) -> Place:
    """Find a directory in which nobody else can put a file.

    Raises:
        Untrusted: as `list_directory`.
        OSError: as open(2); ENOTDIR.

    """
    place = walk(path)
    mode = place.status.st_mode
    if stat.S_ISDIR(mode) and not mode & OTHERS_WRITE:
        return place
    place.close()
    if not stat.S_ISDIR(mode):
        raise NotADirectoryError(errno.ENOTDIR, "it is no directory", path)
    raise refusal(place.status, place.path)


def read_file(path: str) -> bytes:
    """Return the contents of a file, all of one moment.

    Raises:
        Untrusted: as `walk`.
        OSError: as open(2) and read(2); EISDIR or EINVAL for what is no file;
            ESTALE if it changed while it was read.

    """
    place = walk(path)
    try:
        mode = place.status.st_mode
        if not stat.S_ISREG(mode):
            kind = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
            raise OSError(kind, f"it is {_kind(mode)}, and no file", path)
        descriptor = place.open()
    finally:
        place.close()
    try:
        before = os.fstat(descriptor)
        pieces = []
        while piece := os.read(descriptor, max(4096, before.st_size + 1)):
            pieces.append(piece)
        data = b"".join(pieces)
        after = os.fstat(descriptor)
        if len(data) != before.st_size or _moment(before) != _moment(after):
            raise OSError(errno.ESTALE, "it changed while it was read", path)
        return data
    finally:
        os.close(descriptor)


def _moment(status: os.stat_result) -> tuple[int, int]:
    # Not st_ctime: it changes, too, when another file takes the name.
    return status.st_size, status.st_mtime_ns


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a fifo",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")
