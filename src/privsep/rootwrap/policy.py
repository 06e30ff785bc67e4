"""A policy: the filters in their order, and what holds for all of them.

Runs in the privileged process.
"""

from __future__ import annotations

from privsep.rootwrap.filters import Options, base_name

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from privsep.rootwrap.filters import Filter
    from privsep.rootwrap.log import Syslog

#: Never the caller's PATH.
SYSTEM_DIRECTORIES = (
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
)
_Numbered = tuple[int, "Filter"]


class Policy:
    """The filters, and the options that are no filter's own.

    Attributes:
        filters: in the order in which they are tried.
        directories: where commands are looked for, each a path from the root.
        options: what every command gives up.
        syslog: where verdicts are recorded, or None.
        descriptors: the soft limit of open files that commands have at most.
        daemon_timeout: seconds after which an idle daemon ends.
        warnings: what was skipped, and where.

    """

    def __init__(
        self,
        filters: Iterable[Filter],
        directories: tuple[str, ...] = SYSTEM_DIRECTORIES,
        *,
        options: Options | None = None,
        syslog: Syslog | None = None,
        descriptors: int = 1024,
        daemon_timeout: int = 600,
        warnings: tuple[str, ...] = (),
    ) -> None:
        self.filters = tuple(filters)
        self.directories = directories
        self.options = options or Options()
        self.syslog = syslog
        self.descriptors = descriptors
        self.daemon_timeout = daemon_timeout
        self.warnings = warnings
        self._named: dict[str, list[_Numbered]] = {}
        self._walked: list[_Numbered] = []
        for numbered in enumerate(self.filters):
            word = numbered[1].word
            if word is None:
                self._walked.append(numbered)
            else:
                self._named.setdefault(word, []).append(numbered)

    def candidates(self, words: tuple[str, ...]) -> Iterator[Filter]:
        """Yield the filters that may allow `words`, in their order.

        These are the filters of that name, and those whose first word is a pattern.
        """
        found = self._named.get(base_name(words[0]), ())
        others = self._walked
        command = _after_variables(words)
        if command is not None:
            named = self._named.get(base_name(command), ())
            others = others + [each for each in named if each[1].sets_variables]
        if others:
            both = dict((*found, *others))
            return iter([both[number] for number in sorted(both)])
        return (each for _, each in found)


def _after_variables(words: tuple[str, ...]) -> str | None:
    """Return the command that follows ``env`` or a NAME=VALUE, if there is one."""
    if words[0] != "env" and "=" not in words[0]:
        return None
    begin = 1 if words[0] == "env" else 0
    return next((word for word in words[begin:] if "=" not in word), None)
