"""What is said of a verdict: on standard error, and in the system's log.

Runs in the privileged process; the system's log is for where ``use_syslog`` is set.
Levels are those of logging, by name; the module is not loaded for them.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from privsep.rootwrap.errors import BadPolicy
    from privsep.rootwrap.judge import Verdict
    from privsep.rootwrap.policy import Policy

_PROGRAM = "privsep-rootwrap"

#: Numbers of syslog(3), by their names in rootwrap.conf.
FACILITIES = {
    "kern": 0,
    "user": 1,
    "mail": 2,
    "daemon": 3,
    "auth": 4,
    "security": 4,
    "syslog": 5,
    "lpr": 6,
    "news": 7,
    "uucp": 8,
    "cron": 9,
    "authpriv": 10,
    "ftp": 11,
    **{f"local{number}": 16 + number for number in range(8)},
}
LEVELS = {
    "CRITICAL": 50,
    "FATAL": 50,
    "ERROR": 40,
    "WARNING": 30,
    "WARN": 30,
    "INFO": 20,
    "DEBUG": 10,
    "NOTSET": 0,
}
ERROR, WARNING, INFO = LEVELS["ERROR"], LEVELS["WARNING"], LEVELS["INFO"]
_PRIORITIES = {ERROR: 3, WARNING: 4, INFO: 6}


class Syslog:
    """The system's log, from a level on."""

    def __init__(self, facility: int, level: int) -> None:
        # Where it is asked for, and before another user may not be able to read it.
        import syslog  # noqa: PLC0415

        syslog.openlog(_PROGRAM, syslog.LOG_PID, facility << 3)
        self._write = syslog.syslog
        self._level = level

    def write(self, level: int, text: str) -> None:
        """Write a line, if `level` is high enough; a log that is not there is none."""
        if level >= self._level:
            printable = text.encode("utf-8", "backslashreplace").decode()
            self._write(_PRIORITIES[level], printable)


def say(text: str) -> None:
    """Write a message to the caller, who may not listen."""
    printable = f"{_PROGRAM}: {text}\n".encode("utf-8", "backslashreplace")
    try:
        os.write(2, printable)
    except OSError:
        pass


def record_verdict(policy: Policy, verdict: Verdict) -> None:
    """Write a verdict to the system's log, and to the caller if nothing runs."""
    if policy.syslog is not None:
        level = INFO if verdict.allowed else ERROR
        policy.syslog.write(level, f"uid {os.getuid()}: {verdict.message}")
    if not verdict.allowed:
        say(verdict.message)


def record_failure(policy: Policy, error: BadPolicy) -> None:
    """Write to both why no verdict could be given."""
    if policy.syslog is not None:
        policy.syslog.write(ERROR, f"uid {os.getuid()}: {error}")
    say(str(error))
