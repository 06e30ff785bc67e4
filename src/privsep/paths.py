"""Paths beneath a root, judged by opening them: openat2(2).

Runs on both sides; it is the daemon that needs it, for what its entrypoints open.
Whoever may write a directory can put a link where a name was checked, before the
name is used.  So nothing here compares: the kernel opens the path and refuses to
leave the root on the way, and what is used afterwards is the descriptor.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from privsep._lockdown import libc

# linux/openat2.h; the numbers are the same on every architecture of Python
_SYS_OPENAT2 = 437
_OPEN_HOW = struct.Struct("=QQQ")  # flags, mode, resolve
_RESOLVE_NO_MAGICLINKS, _RESOLVE_BENEATH = 0x02, 0x08

_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_PATH_MAX = 4096  # bytes, with the NUL at the end: path_resolution(7)
_MOST_TRIES = 100

_LEAVES = "The path leaves the root"
_WHY = {
    errno.EAGAIN: f"Tried {_MOST_TRIES} times, but directories are renamed or mounted "
    "all the time; a path without '..' needs no second try",
    errno.ELOOP: "Too many symbolic links, or a magic one of /proc",
    errno.EXDEV: _LEAVES,
}
_NO_LINKS = (
    "it may be a symbolic link or '..', and both are refused because the kernel "
    "has no openat2(2) or a filter of system calls refuses it"
)


def open_beneath(
    root: str | os.PathLike[str] | int,
    path: str | bytes | os.PathLike[str],
    flags: int = os.O_RDONLY,
    mode: int = 0o600,
) -> int:
    """Open a file that is beneath a directory, whatever others rename meanwhile.

    Symbolic links are followed as long as they are relative and never leave the
    root, and ``..`` may not leave it either; mount points are crossed.  Where
    there is no openat2(2) (before Linux 5.6, or a filter of system calls refuses
    it), any symbolic link and any ``..`` is an error.

    Args:
        root: the directory; or a descriptor of it.  It is trusted: symbolic links
            in its own path are followed.
        path: of the file, relative to the root; or absolute, if it begins with
            the very components of `root`.
        flags: as of open(2), checked as openat2(2) does; O_CLOEXEC is added.
        mode: permissions of a file that this makes (O_CREAT, O_TMPFILE), less the
            umask.

    Returns:
        A descriptor, for the caller to close.

    Raises:
        OSError: as open(2); EXDEV: the path leaves the root; ELOOP: it leads over
            a magic link of proc(5), such as /proc/self/root; EAGAIN: it has
            ``..`` and others rename directories faster than it can be followed.
        ValueError: no file can have this name.

    Example:
        >>> opener = functools.partial(open_beneath, "/var/lib/images")
        >>> with open("a/disk.img", "rb", opener=opener) as file: ...

    """
    if not isinstance(root, int):
        root = os.fspath(root)
    name = _encode(root, path)
    try:
        if isinstance(root, int):
            return _open(root, name, flags, mode)
        name = _relative(os.fsencode(root), name)
        directory = _open_root(root)
        try:
            return _open(directory, name, flags, mode)
        finally:
            os.close(directory)
    except OSError as error:
        why = f"{error.strerror} (root: {root!r})"
        raise OSError(error.errno, why, os.fspath(path)) from None


class Beneath:
    """Marks a parameter as a path beneath a directory: ``Annotated[Path, Beneath(…)]``.

    The function gets ``/proc/self/fd/N`` of a descriptor that was opened as
    `open_beneath` does, and is held until the function returns.  To open that
    name is to open the file that was judged, wherever it has been moved to.  It
    is judged by its place, not by what it is: it may be a FIFO, a device, or a
    hard link to what also stands elsewhere.

    Args:
        root: absolute path of the directory.  It is opened for each call.
        parent: the file need not be there: its directory is held, and the
            function gets ``/proc/self/fd/N/name``.  No change of any directory
            takes `name` elsewhere, but what stands there may be, or become, a
            symbolic link to anywhere.  Calls that do not follow it are safe:
            mkdir, rename, unlink, and open with O_EXCL or O_NOFOLLOW.

    Raises:
        ValueError: `root` is not absolute.

    """

    def __init__(self, root: str | os.PathLike[str], *, parent: bool = False) -> None:
        self.root = os.fspath(root)
        self.parent = parent
        if not os.path.isabs(self.root):
            msg = f"{self.root!r} is not absolute: the daemon's directory is /"
            raise ValueError(msg)

    def hold(self, value: object) -> tuple[object, int]:
        """Open the path `value` (str, bytes or os.PathLike) beneath the root.

        Returns:
            The name of what was opened, in the type of `value` (`pathlib.Path`
            for any os.PathLike), and the descriptor for the caller to close.

        Raises:
            OSError: as `open_beneath`, with path and root.
            ValueError: `value` is no path.

        """
        if not isinstance(value, (str, bytes, os.PathLike)):
            msg = f"a path beneath {self.root!r} is not of type {type(value).__name__}"
            raise ValueError(msg)  # noqa: TRY004 - any value that is refused is one
        path, name = os.fspath(value), ""
        if self.parent:
            path, last = os.path.split(_encode(self.root, value))
            if last in (b"", b".", b".."):
                msg = f"{value!r} beneath {self.root!r}: the last part is no file name"
                raise ValueError(msg)
            name = f"/{os.fsdecode(last)}"
            path = path or b"."
        flags = _DIRECTORY if self.parent else os.O_PATH
        descriptor = open_beneath(self.root, path, flags)
        return _as_type_of(value, f"/proc/self/fd/{descriptor}{name}"), descriptor


def _as_type_of(value: str | bytes | os.PathLike[str], path: str) -> object:
    if isinstance(value, str):
        return path
    if isinstance(value, bytes):
        return os.fsencode(path)
    from pathlib import Path  # noqa: PLC0415 - it is loaded, if value is one

    return Path(path)


def _encode(root: str | int, path: str | bytes | os.PathLike[str]) -> bytes:
    """Return the bytes of `path`, of which ctypes would pass those before a NUL."""
    try:
        name = os.fsencode(path)
    except UnicodeEncodeError:
        name = b"\0"
    if b"\0" in name:
        msg = f"{path!r}: no file can have this name (root: {root!r})"
        raise ValueError(msg)
    return name


def _relative(root: bytes, path: bytes) -> bytes:
    """Return what `path`, if it is absolute, has beyond the names of `root`."""
    if not path.startswith(b"/"):
        return path
    if not root.startswith(b"/"):
        raise OSError(errno.EXDEV, _LEAVES)
    rest = path.lstrip(b"/")
    for name in filter(None, root.split(b"/")):
        first, _, rest = rest.partition(b"/")
        rest = rest.lstrip(b"/")
        if first != name:
            raise OSError(errno.EXDEV, _LEAVES)
    return rest or b"."


def _open_root(root: str) -> int:
    try:
        return os.open(root, _DIRECTORY)
    except OSError as error:
        why = f"The root cannot be opened: {error.strerror}"
        raise OSError(error.errno, why) from None


def _open(directory: int, path: bytes, flags: int, mode: int) -> int:
    try:
        return _openat2(directory, path, flags, mode)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM) or _has_openat2(directory):
            raise
    return _walk(directory, path, flags, mode)


def _has_openat2(directory: int) -> bool:
    """Return whether openat2 does here what needs no permission."""
    try:
        os.close(_openat2(directory, b".", os.O_PATH, 0))
    except OSError:
        return False
    return True


def _openat2(directory: int, path: bytes, flags: int, mode: int) -> int:
    makes = flags & os.O_CREAT or flags & os.O_TMPFILE == os.O_TMPFILE
    how = _OPEN_HOW.pack(
        flags | os.O_CLOEXEC,
        mode if makes else 0,  # openat2 refuses any other
        _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS,
    )
    tries = 0
    while True:
        try:
            return libc.syscall(_SYS_OPENAT2, directory, path, how, len(how))
        except InterruptedError:
            continue  # its handler has run: as os.open does
        except OSError as error:
            tries += 1
            if error.errno != errno.EAGAIN or tries == _MOST_TRIES:
                number = error.errno or 0
                why = _WHY.get(number, os.strerror(number))
                raise OSError(number, why) from None


def _walk(directory: int, path: bytes, flags: int, mode: int) -> int:
    """Open `path` name by name, and follow no link: what openat(2) can do."""
    if path.startswith(b"/"):
        raise OSError(errno.EXDEV, _LEAVES)
    if len(path) >= _PATH_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    *parents, last = path.split(b"/")
    if parents and not last:
        last = b"."
    here = os.dup(directory)
    try:
        for name in parents:
            deeper = _step(here, name or b".", _DIRECTORY, 0)
            os.close(here)
            here = deeper
        return _step(here, last, flags, mode)
    finally:
        os.close(here)


def _step(directory: int, name: bytes, flags: int, mode: int) -> int:
    if name == b"..":
        raise OSError(errno.ELOOP, f"'..': {_NO_LINKS}")
    try:
        descriptor = os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            why = f"{error.strerror}: {_NO_LINKS}"
            raise OSError(error.errno, why) from None
        raise
    if flags & os.O_PATH and stat.S_ISLNK(os.fstat(descriptor).st_mode):
        os.close(descriptor)  # O_PATH opens the link itself
        raise OSError(errno.ELOOP, f"{os.strerror(errno.ELOOP)}: {_NO_LINKS}")
    return descriptor
