"""Whose the code of a daemon is that sudo starts: each file, before it is read.

Runs in the privileged process, before the daemon's own modules are loaded.  From then
on each import goes through here.

A directory that nobody else can write keeps its entries, so a file in it may be looked
at by its name; and since the directories above are looked at first, one look at each
name is enough.  Only what a symbolic link leads to is walked to by descriptor.

Sources: symlink(7), inode(7) on the sticky bit; importlib on finders and specs.
"""

from __future__ import annotations

import os
import stat
import sys

from privsep._start import trust

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


class Gate:
    """Finds modules as before, and refuses those that others could change.

    Args:
        owners: uids whose files are trusted as root's are.
        rules: the path of root's file for the context, for the remedy.

    Attributes:
        refused: what was refused last, be it that whoever imported it went on.

    """

    refused: trust.Untrusted | None = None

    def __init__(self, owners: Iterable[int], rules: str) -> None:
        self._trusted = (*trust.trusted_users(), *owners)
        self._rules = rules
        self._seen: dict[str, os.stat_result] = {}

    def come_first(self) -> None:
        """Look at each import from now on, whichever finder finds the module."""
        others = [finder for finder in sys.meta_path if finder is not self]
        sys.meta_path[:] = [self, *others]

    def check_loaded(self) -> None:
        """Look at what this process was made of until now.

        Raises:
            Untrusted: somebody else than root could change a file of it.
            OSError: as lstat(2).

        """
        self.check(sys.executable)
        program = os.path.dirname(sys.executable)
        for directory in (program, os.path.dirname(program)):
            self._check_if_there(f"{directory}/pyvenv.cfg")
        for directory in sys.path:
            self._check_if_there(directory)
        for module in list(sys.modules.values()):
            origin = getattr(module, "__file__", None)
            if isinstance(origin, str):
                self._check_if_there(origin)
        self.check_mapped()

    def check_mapped(self) -> None:
        """Look at what is in memory of files: shared libraries, too.

        Raises:
            Untrusted, OSError: as `check_loaded`.

        """
        with open("/proc/self/maps", "rb") as file:
            lines = file.read().splitlines()
        # What no file has is named by no path; proc_pid_maps(5).
        paths = {line[line.index(b"/") :] for line in lines if b" /" in line}
        for path in paths:
            self._check_if_there(os.fsdecode(path))

    def check(self, path: str) -> None:
        """Look at a file, and at whether somebody could put another in its place.

        Raises:
            Untrusted: as `check_loaded`; the message has the remedy.
            OSError: as lstat(2).

        """
        directory = path.rpartition("/")[0] or "/"
        try:
            self._look_at(directory)
            status = self._seen[directory]
            if status.st_mode & trust.OTHERS_WRITE:  # sticky, but open to new files
                raise trust.refusal(status, directory)
            self._look_at(path)
        except trust.Untrusted as error:
            self.refused = self._explained(error)
            raise self.refused from None

    def _check_if_there(self, path: str) -> None:
        try:
            self.check(path)
        except (FileNotFoundError, NotADirectoryError):
            pass

    def _look_at(self, path: str) -> None:
        """Look at a path and all above it, each once."""
        if path in self._seen:
            return
        if path != "/":
            self._look_at(path.rpartition("/")[0] or "/")
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            place = trust.walk(path, self._trusted)
            place.close()
            status = place.status
        trust.check(status, path, self._trusted)
        self._seen[path] = status

    def _explained(self, error: trust.Untrusted) -> trust.Untrusted:
        remedy = "take write permission from group and others"
        if error.owner not in self._trusted:
            remedy = (
                "install it as root; or, if whoever is that uid may be root, too, "
                f"write owners = [{error.owner}] in {self._rules}"
            )
        explained = trust.Untrusted(f"{error}: {remedy}")
        explained.owner = error.owner
        return explained

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return the spec of a module whose files only root could change.

        Raises:
            Untrusted: as `check_loaded`.

        """
        for finder in sys.meta_path:
            spec = None
            if finder is not self:
                spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.has_location and spec.origin is not None:
                    # Below an archive there is nothing; but it has been looked at.
                    self._check_if_there(spec.origin)
                if spec.cached is not None:
                    self._check_if_there(spec.cached)
                return spec
        return None
