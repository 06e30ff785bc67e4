"""Reading filters, finding the one that allows a command, and running that.

Runs wherever a program uses it as a library.  All that decides is the judge of
`privsep.rootwrap`.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any, cast

from oslo_rootwrap import filters
from privsep._start import trust
from privsep._start.trust import Untrusted
from privsep.rootwrap import config, ini, log
from privsep.rootwrap.errors import BadPolicy
from privsep.rootwrap.judge import NO_EXECUTABLE, Verdict, judge
from privsep.rootwrap.policy import SYSTEM_DIRECTORIES, Policy

if TYPE_CHECKING:
    import configparser
    from collections.abc import Sequence

LOG = logging.getLogger(__name__)

_BOOLEANS = {"1": True, "yes": True, "true": True, "on": True} | {
    "0": False,
    "no": False,
    "false": False,
    "off": False,
}


class NoFilterMatched(Exception):
    """No filter allows the command."""


class FilterMatchNotExecutable(Exception):
    """A filter allows the command, and there is no executable.

    Args:
        match: the filter.

    """

    def __init__(self, match: filters.CommandFilter | None = None) -> None:
        super().__init__()
        self.match = match


class RootwrapConfig:
    """What rootwrap.conf says.

    Args:
        config: it.

    Raises:
        ValueError: a value is none of its option's.
        configparser.NoOptionError: filters_path is missing.

    """

    def __init__(self, config: configparser.RawConfigParser) -> None:
        given = config.defaults()

        def words(name: str) -> list[str]:
            return [word.strip() for word in config.get("DEFAULT", name).split(",")]

        self.filters_path = words("filters_path")
        self.exec_dirs = (
            words("exec_dirs") if "exec_dirs" in given else list(SYSTEM_DIRECTORIES)
        )
        facility = given.get("syslog_log_facility", "syslog")
        self.syslog_log_facility = _choice("syslog_log_facility", facility, _FACILITIES)
        level = given.get("syslog_log_level", "ERROR")
        self.syslog_log_level = _choice("syslog_log_level", level, log.LEVELS)
        self.use_syslog = _boolean(given.get("use_syslog", "false"))
        self.daemon_timeout = int(given.get("daemon_timeout", 600))
        self.rlimit_nofile = int(given.get("rlimit_nofile", 1024))


_FACILITIES = {name.upper(): number for name, number in log.FACILITIES.items()}


def _choice(name: str, value: str, choices: dict[str, int]) -> int:
    try:
        return choices[value.upper().removeprefix("LOG_")]
    except KeyError:
        shown = repr(value) if choices is log.LEVELS else value
        msg = f"Unexpected {name}: {shown}"
        raise ValueError(msg) from None


def _boolean(value: str) -> bool:
    try:
        return _BOOLEANS[value.lower()]
    except KeyError:
        msg = f"Not a boolean: {value}"
        raise ValueError(msg) from None


def build_filter(class_name: str, *args: str) -> filters.CommandFilter | None:
    """Return a filter by the name of its class; None, with a warning, for another.

    Args:
        class_name: as a filters' file has it.
        args: what the class takes.

    Raises:
        TypeError, ValueError: they are not what it takes.

    """
    kind = getattr(filters, class_name, None)
    if not (isinstance(kind, type) and issubclass(kind, filters.CommandFilter)):
        LOG.warning(
            "Skipping unknown filter class (%s) specified in filter definitions",
            class_name,
        )
        return None
    return kind(*args)


def load_filters(filters_path: Sequence[str]) -> list[filters.CommandFilter]:
    """Return the filters of all files in directories, and that of privsep-helper.

    Args:
        filters_path: the directories; one that is not there is skipped.

    Raises:
        BadPolicy: a file cannot be understood, or others than root may write it.

    """
    found: list[filters.CommandFilter] = []
    for directory in filters_path:
        for path in _files_in(directory):
            document = ini.parse(path, config.read(path))
            for name, field in document.section("Filters").items():
                kind, *words = map(str.strip, field.value.split(","))
                try:
                    made = build_filter(kind, *words)
                except (TypeError, ValueError) as error:
                    place = f"{path}:{field.line}"
                    raise BadPolicy(place, f"{name}: {error}") from None
                if made is not None:
                    made.name = made.judged.name = name
                    found.append(made)
    helper = filters.CommandFilter("privsep-helper", "root")
    helper.name = helper.judged.name = "privsep-helper"
    return [*found, helper]


def _files_in(directory: str) -> list[str]:
    try:
        resolved, names = trust.list_directory(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except Untrusted as error:
        raise BadPolicy(directory, str(error)) from None
    paths = [f"{resolved}/{name}" for name in names if not name.startswith(".")]
    return [path for path in paths if os.path.isfile(path)]


def match_filter(
    filter_list: Sequence[filters.CommandFilter],
    userargs: Sequence[str],
    exec_dirs: Sequence[str] | None = None,
) -> filters.CommandFilter:
    """Return the first filter that allows a command and whose executable is there.

    Args:
        filter_list: in their order.
        userargs: the command.
        exec_dirs: where executables are looked for that are no paths.

    Raises:
        NoFilterMatched: none allows it.
        FilterMatchNotExecutable: one does, and there is no executable.

    """
    with _judge(filter_list, userargs, exec_dirs) as verdict:
        matched = next(each for each in filter_list if each.judged is verdict.filter)
        matched.get_exec(exec_dirs)
        return matched


def _judge(
    filter_list: Sequence[filters.CommandFilter],
    userargs: Sequence[str],
    exec_dirs: Sequence[str] | None,
) -> Verdict:
    policy = Policy([each.judged for each in filter_list], tuple(exec_dirs or ()))
    verdict = judge(userargs, policy)
    if verdict.allowed:
        return verdict
    if verdict.status == NO_EXECUTABLE:
        decided = (each for each in filter_list if each.judged is verdict.filter)
        raise FilterMatchNotExecutable(next(decided, None))
    raise NoFilterMatched(verdict.message)


def start_subprocess(
    filter_list: Sequence[filters.CommandFilter],
    userargs: Sequence[str],
    exec_dirs: Sequence[str] | None = None,
    log: bool = False,  # noqa: FBT001, FBT002 - as oslo.rootwrap has it
    **kwargs: Any,  # noqa: ANN401 - Popen's
) -> subprocess.Popen[bytes]:
    """Start a command that a filter allows, as the filter's user.

    Args:
        filter_list: in their order.
        userargs: the command.
        exec_dirs: where executables are looked for that are no paths.
        log: whether to log it.
        kwargs: as of subprocess.Popen.

    Raises:
        NoFilterMatched: none allows it.
        FilterMatchNotExecutable: one does, and there is no executable.
        OSError: as subprocess.Popen.

    """
    with _judge(filter_list, userargs, exec_dirs) as verdict:
        if log:
            LOG.info("%s", verdict.message)
        if verdict.target is not None:  # no program runs for a kill
            signal.pidfd_send_signal(verdict.target.pidfd, verdict.target.number)
            return _popen(["/bin/true"], env={}, **kwargs)
        program, user = verdict.executable, verdict.user
        if program is None or user is None:
            raise NoFilterMatched(verdict.message)
        held = [program.descriptor] if program.is_binary else []
        if user.uid != os.geteuid():
            kwargs |= {
                "user": user.uid,
                "group": user.gid,
                "extra_groups": user.groups,
            }
        return _popen(
            verdict.argv,
            executable=(
                f"/proc/self/fd/{program.descriptor}" if held else program.resolved
            ),
            env=verdict.environment,
            pass_fds=[*held, *verdict.held],
            **kwargs,
        )


def _popen(words: Sequence[str], **kwargs: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401
    process = subprocess.Popen(list(words), **kwargs)  # noqa: S603 - it is judged
    return cast("subprocess.Popen[bytes]", process)
