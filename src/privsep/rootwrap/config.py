"""From the files of a policy to the policy.

Runs in the privileged process.  Every file, and every directory above it, is root's,
or the policy is refused: whoever could write one of them could run anything.
"""

from __future__ import annotations

import os

from privsep._start import trust
from privsep._start.trust import Untrusted
from privsep.rootwrap import definitions, ini, log
from privsep.rootwrap.errors import BadPolicy
from privsep.rootwrap.filters import WordsFilter
from privsep.rootwrap.policy import SYSTEM_DIRECTORIES, Policy

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from privsep.rootwrap.filters import Filter
    from privsep.rootwrap.ini import Field

_MOST_DESCRIPTORS = 1 << 30


def load(path: str) -> Policy:
    """Read rootwrap.conf, and the filters of all the directories that it names.

    Args:
        path: the file.

    Raises:
        BadPolicy: it, or a file that it names, is not there, is not root's, or
            cannot be understood; the message has the file and the line.

    """
    document = ini.parse(path, read(path))
    options = _Options(path, document.section("DEFAULT"))
    filters, warnings = _filters(options.directories("filters_path"))
    if "exec_dirs" in options.fields:
        found = options.directories("exec_dirs")
        for directory in found:
            _check_directory(directory)
    else:
        found = tuple(filter(_is_trusted, SYSTEM_DIRECTORIES))
    return Policy(
        [*filters, _helper()],
        found,
        options=definitions.options(path, options.fields),
        syslog=options.syslog(),
        descriptors=options.number("rlimit_nofile", 1024, _MOST_DESCRIPTORS),
        daemon_timeout=options.number("daemon_timeout", 600, _MOST_DESCRIPTORS),
        warnings=tuple(warnings),
    )


def read(path: str) -> str:
    """Return the text of a file of a policy.

    Raises:
        BadPolicy: it cannot be read, or is not root's.

    """
    try:
        return os.fsdecode(trust.read_file(path))
    except Untrusted as error:
        raise BadPolicy(path, str(error)) from None
    except OSError as error:
        raise BadPolicy(path, f"it cannot be read: {error.strerror}") from None


def _filters(directories: tuple[str, ...]) -> tuple[list[Filter], list[str]]:
    """Return the filters of all files in directories, and what was skipped."""
    filters: list[Filter] = []
    warnings: list[str] = []
    for directory in directories:
        try:
            resolved, names = trust.list_directory(directory)
        except FileNotFoundError:
            continue
        except Untrusted as error:
            raise BadPolicy(directory, str(error)) from None
        except OSError as error:
            raise BadPolicy(
                directory, f"it cannot be listed: {error.strerror}"
            ) from None
        for name in names:
            path = f"{resolved}/{name}"
            if name.startswith(".") or os.path.isdir(path):
                continue
            if name.endswith(".toml"):
                from privsep.rootwrap import tables  # noqa: PLC0415 - tomllib is 12 ms

                filters += tables.parse(path, read(path))
            else:
                found, skipped = definitions.parse(path, read(path))
                filters += found
                warnings += skipped
    return filters, warnings


def _check_directory(path: str) -> None:
    """Accept a directory of executables; one that is not there does no harm.

    Raises:
        BadPolicy: somebody else could put a file there.

    """
    try:
        trust.walk_to_directory(path).close()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise BadPolicy(path, str(error)) from None


def _is_trusted(directory: str) -> bool:
    """Return whether nobody else could put a file in a directory of the system.

    Many let a group write /usr/local.
    """
    try:
        _check_directory(directory)
    except BadPolicy:
        return False
    return True


def _helper() -> Filter:
    """Return the filter that every policy ends with.

    It gives nothing away where root alone can write the code on privsep-helper's path,
    or has said that only such code may run: it trusts nothing else of its caller's.
    """
    helper = WordsFilter("privsep-helper", "root", rest="any")
    helper.name = "privsep-helper"
    helper.kind = "CommandFilter"
    helper.place = "built in"
    return helper


class _Options:
    """The section DEFAULT of rootwrap.conf."""

    def __init__(self, path: str, fields: dict[str, Field]) -> None:
        self.path = path
        self.fields = fields

    def directories(self, name: str) -> tuple[str, ...]:
        """Return the directories of a list with commas.

        Raises:
            BadPolicy: there is none, or one is relative.

        """
        if name not in self.fields:
            raise BadPolicy(self.path, f"{name} is missing in [DEFAULT]")
        field = self.fields[name]
        paths = tuple(filter(None, map(str.strip, field.value.split(","))))
        for path in paths:
            if not path.startswith("/"):
                raise self._wrong(field, f"{path!r} in {name} is no absolute path")
        return paths

    def number(self, name: str, default: int, most: int) -> int:
        """Return a number.

        Raises:
            BadPolicy: it is none, or too great.

        """
        if name not in self.fields:
            return default
        field = self.fields[name]
        if not (field.value.isascii() and field.value.isdigit()):
            raise self._wrong(field, f"{name} is {field.value!r}, and no number")
        if len(field.value) > len(str(most)) or int(field.value) > most:
            raise self._wrong(field, f"{name} is {field.value}, at most {most} will do")
        return int(field.value)

    def syslog(self) -> log.Syslog | None:
        """Return the log that the options ask for.

        Raises:
            BadPolicy: there is no such facility or level.

        """
        asked = "use_syslog" in self.fields and definitions.boolean(
            self.path, "use_syslog", self.fields["use_syslog"]
        )
        facility = self._choice("syslog_log_facility", "syslog", log.FACILITIES)
        level = self._choice("syslog_log_level", "ERROR", log.LEVELS)
        return log.Syslog(facility, level) if asked else None

    def _choice(self, name: str, default: str, choices: dict[str, int]) -> int:
        if name not in self.fields:
            return choices[default]
        field = self.fields[name]
        value = field.value.upper().removeprefix("LOG_")
        for choice, number in choices.items():
            if choice.upper() == value:
                return number
        near = ", ".join(choices)
        raise self._wrong(field, f"{name} is {field.value!r}, which is none of {near}")

    def _wrong(self, field: Field, reason: str) -> BadPolicy:
        return BadPolicy(f"{self.path}:{field.line}", reason)
