"""The filters as classes, each over the one of `privsep.rootwrap` of its name.

Runs wherever a program uses them.  What a filter allows, and what runs then, is the
engine's to say; here it gets oslo.rootwrap's names.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from privsep._start.trust import Untrusted
from privsep.rootwrap import definitions, executables
from privsep.rootwrap.errors import Differs, Missing
from privsep.rootwrap.policy import SYSTEM_DIRECTORIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privsep.rootwrap.filters import Filter, Match


class CommandFilter:
    """A command, with any words.

    Args:
        exec_path: the executable: a path, or a name to look for.
        run_as: the user.
        args: what the class takes beside.

    Attributes:
        name: as the filters' file has it.
        real_exec: the executable that was found, or None.

    Raises:
        ValueError: the arguments are not what the class takes.

    """

    def __init__(self, exec_path: str, run_as: str, *args: str) -> None:
        self.name = ""
        self.exec_path = exec_path
        self.run_as = run_as
        self.args = args
        self.real_exec: str | None = None
        self.judged: Filter = definitions.build(type(self).__name__, self._fields())

    def _fields(self) -> list[str]:
        """Return the words of a filters' file that make this filter."""
        return [self.exec_path, self.run_as, *self.args]

    def get_exec(self, exec_dirs: Sequence[str] | None = None) -> str | None:
        """Return the path of the executable; None if there is none.

        Args:
            exec_dirs: where it is looked for, unless it is a path.

        """
        places = tuple(exec_dirs or ())
        found = executables.paths(self.exec_path, places)
        executable = (path for path in found if os.access(path, os.X_OK))
        self.real_exec = next(executable, None)
        return self.real_exec

    def match(self, userargs: Sequence[str] | None) -> bool:
        """Return whether the words are allowed; of a chain, those before the inner.

        Args:
            userargs: the command.

        """
        return bool(userargs) and self._match(userargs or ()) is not None

    def _match(self, userargs: Sequence[str]) -> Match | None:
        held: list[int] = []
        try:
            found = self.judged.match(tuple(userargs), SYSTEM_DIRECTORIES, held)
        except (Differs, Missing):
            return None
        finally:
            for descriptor in held:
                os.close(descriptor)
        if found.spelled is not None and not self._is_executable(found.spelled):
            return None
        return found

    def _is_executable(self, path: str) -> bool:
        """Return whether `path` is the filter's own executable, by whatever name."""
        try:
            executable = executables.find(self.judged.command, SYSTEM_DIRECTORIES)
        except (Missing, Untrusted):
            return False
        try:
            return executable.is_at(path)
        finally:
            executable.close()

    def get_command(
        self, userargs: Sequence[str], exec_dirs: Sequence[str] | None = None
    ) -> list[str]:
        """Return the words that run.

        Args:
            userargs: the command, which matches.
            exec_dirs: as of `get_exec`.

        """
        executable = self.get_exec(exec_dirs) or self.exec_path
        return [executable, *self._arguments(userargs)]

    def _arguments(self, userargs: Sequence[str]) -> list[str]:
        return list(userargs[1:])

    def get_environment(self, userargs: Sequence[str]) -> dict[str, str] | None:
        """Return the environment of the command; None: this process's.

        Args:
            userargs: the command, which matches.

        """
        del userargs
        return None


class RegExpFilter(CommandFilter):
    """A command whose words match patterns, one each, the first its own."""


class PathFilter(CommandFilter):
    """A command whose words are as given, or paths beneath a directory."""

    def _arguments(self, userargs: Sequence[str]) -> list[str]:
        return [
            os.path.realpath(word) if allowed.startswith("/") else word
            for word, allowed in zip(userargs[1:], self.args, strict=False)
        ]


class EnvFilter(CommandFilter):
    """A command with variables before it."""

    def __init__(self, exec_path: str, run_as: str, *args: str) -> None:
        super().__init__(exec_path, run_as, *args)
        self.exec_path = self.judged.command

    def _split(self, userargs: Sequence[str]) -> tuple[list[str], list[str]]:
        words = list(userargs[1:] if userargs[:1] == ["env"] else userargs)
        count = sum("=" in word for word in self.args)
        return words[:count], words[count:]

    def exec_args(self, userargs: Sequence[str]) -> list[str]:
        """Return the command behind the variables.

        Args:
            userargs: the command, which matches.

        """
        return self._split(userargs)[1]

    def _arguments(self, userargs: Sequence[str]) -> list[str]:
        return self.exec_args(userargs)[1:]

    def get_environment(self, userargs: Sequence[str]) -> dict[str, str] | None:
        """Return this process's environment with the variables; see `CommandFilter`."""
        variables, _ = self._split(userargs)
        pairs = (word.partition("=") for word in variables)
        return {**os.environ, **{name: value for name, _, value in pairs}}


class ReadFileFilter(CommandFilter):
    """cat of one file, as root.

    Args:
        file_path: the file.
        args: not looked at.

    """

    def __init__(self, file_path: str, *args: str) -> None:
        self.file_path = file_path
        super().__init__("/bin/cat", "root", *args)

    def _fields(self) -> list[str]:
        return [self.file_path]


class KillFilter(CommandFilter):
    """A signal to a process that runs a certain program.

    Args:
        args: the user, the program, and the words that may say which signal.

    """

    def __init__(self, *args: str) -> None:
        super().__init__("/bin/kill", args[0], *args[1:])

    def _fields(self) -> list[str]:
        return [self.run_as, *self.args]


class IpFilter(CommandFilter):
    """Any ip command that runs no other command."""


class ChainingFilter(CommandFilter):
    """A command before another one, which has to be allowed, too."""

    def exec_args(self, userargs: Sequence[str]) -> list[str]:
        """Return the words of the other command; none if these do not match.

        Args:
            userargs: the command.

        """
        found = self._match(userargs) if userargs else None
        return list(found.inner or ()) if found is not None else []


class IpNetnsExecFilter(ChainingFilter):
    """``ip netns exec NAMESPACE``, and then a command that is allowed."""


class ChainingRegExpFilter(ChainingFilter):
    """Words that match patterns, and then a command that is allowed."""
