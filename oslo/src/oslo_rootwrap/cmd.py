"""The commands: ``nova-rootwrap`` and ``nova-rootwrap-daemon`` point here.

Runs in the privileged process.  A command is judged and run by `privsep.rootwrap`, in a
child; this process waits, to say by 128 and more which signal ended it.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from privsep.rootwrap import main as rootwrap
from privsep.rootwrap.judge import (
    BAD_POLICY,
    NO_COMMAND,
    NO_EXECUTABLE,
    NOT_ALLOWED,
)

RC_UNAUTHORIZED = NOT_ALLOWED
RC_NOCOMMAND = NO_COMMAND
RC_BADCONFIG = BAD_POLICY
RC_NOEXECFOUND = NO_EXECUTABLE
SIGNAL_BASE = 128

_PASSED_ON = (signal.SIGTERM, signal.SIGHUP)


def main(run_daemon: bool = False) -> NoReturn:  # noqa: FBT001, FBT002 - as oslo has it
    """Run the command that follows the configuration file in ``sys.argv``.

    Args:
        run_daemon: be the daemon instead.

    The process ends as the command does, with 128 and the signal's number if one
    ended it; or with 96: no executable, 97: a bad configuration, 98: no command, 99:
    not allowed.

    """
    if run_daemon:
        daemon()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = rootwrap.main(sys.argv[1:])
        finally:
            os._exit(status)
    held = os.pidfd_open(child)  # its pid may be another's once it was waited for
    for number in _PASSED_ON:
        signal.signal(number, lambda got, _: _send(held, got))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.exit(status if status >= 0 else SIGNAL_BASE - status)


def _send(held: int, number: int) -> None:
    try:
        signal.pidfd_send_signal(held, number)
    except ProcessLookupError:  # it has ended
        pass


def daemon() -> NoReturn:
    """Serve commands by the configuration file in ``sys.argv``, for a `client`."""
    from privsep.rootwrap import daemon as server  # noqa: PLC0415 - not for one command

    server.main()
