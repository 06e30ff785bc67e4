"""The command line of ``privsep-helper``, all of which is the caller's.

Runs in the privileged process, first of all: nothing is imported here but what Python
has loaded anyway.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

#: oslo.log's, accepted as they always were; what is logged goes to the client, which
#: has said from which level on.  True: a value follows.
_LOG_OPTIONS = {
    "--debug": False,
    "-d": False,
    "--nodebug": False,
    "--use-journal": False,
    "--nouse-journal": False,
    "--use-json": False,
    "--nouse-json": False,
    "--use-syslog": False,
    "--nouse-syslog": False,
    "--log-config-append": True,
    "--log-config": True,
    "--log_config": True,
    "--log-date-format": True,
    "--log-dir": True,
    "--logdir": True,
    "--log-file": True,
    "--logfile": True,
    "--syslog-log-facility": True,
}
_USAGE = """\
usage: privsep-helper --privsep_context MODULE.VARIABLE --privsep_sock_path PATH
                      [--config-file PATH]... [--config-dir DIR]... [oslo.log's]

Becomes the daemon of a PrivContext; oslo_privsep starts it.

  --privsep_context MODULE.VARIABLE  the context
  --privsep_sock_path PATH           where its client listens
  --config-file PATH                 read the options of its section here
  --config-dir DIR                   and in each *.conf there
"""


class Words:
    """What the command line asks for.

    Attributes:
        context: MODULE.VARIABLE.
        sock_path: where the client listens.
        places: paths of configuration, and whether each is a directory.

    """

    def __init__(self, words: Sequence[str]) -> None:
        self.context = ""
        self.sock_path = ""
        self.places: list[tuple[str, bool]] = []
        rest = list(words)
        while rest:
            self._take(rest)
        if not self.context or not self.sock_path:
            missing = "sock_path" if self.context else "context"
            _refuse(f"--privsep_{missing} is required")

    def _take(self, rest: list[str]) -> None:
        word, equals, value = rest.pop(0).partition("=")
        if word in ("-h", "--help"):
            sys.stdout.write(_USAGE)
            sys.exit(0)
        if _LOG_OPTIONS.get(word) is False and not equals:
            return
        if not equals:
            if not rest:
                _refuse(f"{word}: a value is missing, or there is no such option")
            value = rest.pop(0)
        if word == "--privsep_context":
            self.context = value
        elif word == "--privsep_sock_path":
            self.sock_path = value
        elif word in ("--config-file", "--config-dir"):
            self.places.append((os.path.abspath(value), word == "--config-dir"))
        elif not _LOG_OPTIONS.get(word):
            _refuse(f"there is no option {word}")


def _refuse(why: str) -> NoReturn:
    sys.stderr.write(f"privsep-helper: {why}\n{_USAGE}")
    sys.exit(2)
