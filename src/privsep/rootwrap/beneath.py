"""A path that has to lie beneath a directory, and that nobody exchanges afterwards.

Runs in the privileged process.  The path is resolved, compared by components, and
then opened from the root without following anything: a symbolic link that comes in
between is refused.  If only root could exchange a name on the way, the command gets
the resolved path.  Otherwise a name is worth nothing by the time the command uses it,
and it gets ``/proc/self/fd/N``, which is the file that was judged.

Sources: path_resolution(7), proc_pid_fd(5), inode(7) on the sticky bit.
"""

from __future__ import annotations

import os
import stat

from privsep._start import trust
from privsep._start.trust import Untrusted
from privsep.rootwrap.errors import Differs

_PATH_MAX = 4096  # limits.h: no system call takes a longer one
_HOLD = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

#: Commands that act on a name, and never follow it: they get the directory held.
ACT_ON_NAMES = ("mkdir", "rm", "rmdir", "unlink")


class Beneath:
    """The word is a path that resolves to the directory or beneath it."""

    __slots__ = ("acts_on_name", "directory")

    def __init__(self, directory: str, *, acts_on_name: bool = False) -> None:
        self.directory = directory
        self.acts_on_name = acts_on_name

    def accept(self, word: str, held: list[int]) -> str:
        """Return the word to run; see `patterns.Exactly.accept`."""
        if not word or len(os.fsencode(word)) >= _PATH_MAX:
            raise Differs("an empty word is no path, nor is one that is too long")
        try:
            resolved = os.path.realpath(word)
        except OSError as error:  # where the caller is may be gone
            raise Differs(f"{word!r} cannot be resolved: {error.strerror}") from None
        directory = trust.resolve(self.directory)
        if directory == "/":
            return resolved
        if resolved != directory and not resolved.startswith(f"{directory}/"):
            # Not what it resolves to: the caller may not be able to see that.
            raise Differs(f"{word!r} resolves to nothing beneath {directory}")
        return self._hold(word, resolved, held)

    def _hold(self, word: str, path: str, held: list[int]) -> str:
        """Return `path` if it is fixed, else one by a descriptor, put in `held`.

        It is what `word` resolves to; what is wrong is told of the word.
        """
        trusted = trust.trusted_users()
        way = path.split("/")[1:]
        directory = os.open("/", _HOLD)
        status = os.fstat(directory)
        fixed = True
        try:
            while way:
                fixed = fixed and _is_trusted(status, path, trusted)
                name = way.pop(0)
                try:
                    found = os.open(name, _HOLD, dir_fd=directory)
                except FileNotFoundError:
                    if fixed and not status.st_mode & trust.OTHERS_WRITE:
                        return path
                    if self.acts_on_name and not way:
                        return _keep(directory, held) + name
                    raise
                entry = os.fstat(found)
                if stat.S_ISLNK(entry.st_mode):
                    os.close(found)
                    raise Differs(f"{word!r} was exchanged while it was judged")
                if status.st_mode & trust.OTHERS_WRITE:  # and sticky, else not fixed
                    fixed = fixed and entry.st_uid in trusted
                if not way and not fixed and self.acts_on_name:
                    os.close(found)
                    return _keep(directory, held) + name
                os.close(directory)
                directory, status = found, entry
            if fixed:
                return path
            kept = _keep(directory, held)
            return f"{kept}." if stat.S_ISDIR(status.st_mode) else kept.rstrip("/")
        except OSError as error:
            raise Differs(
                f"{word!r} cannot be held, and others may exchange it: {error.strerror}"
            ) from None
        finally:
            os.close(directory)

    def __repr__(self) -> str:
        return f"path beneath {self.directory}"


class File(Beneath):
    """The word is the path of this very file."""

    __slots__ = ()

    def accept(self, word: str, held: list[int]) -> str:
        """Return the word to run; see `patterns.Exactly.accept`."""
        if word != self.directory:
            raise Differs(f"{word!r} is not {self.directory!r}")
        return self._hold(word, trust.resolve(word), held)

    def __repr__(self) -> str:
        return repr(self.directory)


def _keep(descriptor: int, held: list[int]) -> str:
    held.append(os.dup(descriptor))
    return f"/proc/self/fd/{held[-1]}/"


def _is_trusted(status: os.stat_result, path: str, trusted: tuple[int, ...]) -> bool:
    try:
        trust.check(status, path, trusted)
    except Untrusted:
        return False
    return True
