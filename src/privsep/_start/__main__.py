"""What privsep-daemon runs: it judges who calls, and what would run, then becomes that.

Runs in the privileged process, first of all.  The launcher has closed every
descriptor but 0, 1 and 2, has set the umask, and starts this without `site`, so that
no .pth file is read before it is looked at.  Until then nothing is imported but the
standard library and what stands beside this file.

The caller gives a name and a socket.  A word is written to that socket only if the
caller made its other end: else somebody could have root write to a service of his
choice.
"""

from __future__ import annotations

import _socket
import gc
import os
import stat
import sys

from privsep._start import rules
from privsep._start.judge import (
    Caller,
    connect,
    judge,
    replace_closed_streams,
    set_deadline,
)
from privsep.errors import PrivsepError

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from typing import NoReturn

_USAGE = "usage: privsep-daemon MODULE:CONTEXT (privsep starts it)"
_NO_SOCKET = "standard input is not a control socket"
_WAITING = b"privsep-daemon: waiting for the path of a socket\n"
_LONGEST_PATH = 4096


def main() -> NoReturn:
    """Be the daemon of the context that the only argument names."""
    _take_over()
    caller = None
    try:
        if not stat.S_ISFIFO(os.fstat(0).st_mode):
            caller = Caller(_control_socket())
        said = rules.read(sys.argv[2])
        set_deadline(said.deadline)
        if caller is None:
            caller = Caller(_socket_by_path())
        gate = judge(caller, said, sys.argv[1])
        from privsep._start import helper  # noqa: PLC0415 - now it is judged
    except (PrivsepError, OSError) as error:
        if caller is None:
            _end(str(error))
        caller.refuse(str(error))
    helper.serve_judged(sys.argv[2], said, gate)


def _take_over() -> None:
    """Set right what the caller could have set to do harm; begin the deadline."""
    gc.disable()  # until it serves: what is imported stays
    replace_closed_streams()
    set_deadline(rules.DEADLINE)
    if len(sys.argv) != 3:  # noqa: PLR2004 - the launcher, and its one argument
        _end(_USAGE)


def _control_socket() -> _socket.socket:
    try:
        control = _socket.socket(fileno=0)
    except OSError:
        _end(_NO_SOCKET)
    if (control.family, control.type) != (_socket.AF_UNIX, _socket.SOCK_SEQPACKET):
        _end(_NO_SOCKET)
    return control


def _socket_by_path() -> _socket.socket:
    """Connect to where the caller listens, as standard input says.

    That is a pipe where sudo logs what is typed.
    """
    if "SUDO_UID" not in os.environ:
        _end(_NO_SOCKET)
    os.write(2, _WAITING)
    path = b""
    while not path.endswith(b"\n"):
        piece = os.read(0, _LONGEST_PATH)
        path += piece
        if not piece or len(path) > _LONGEST_PATH:
            _end(f"{_NO_SOCKET}, and says no path of one")
    try:
        control = connect(path[:-1])
    except (OSError, PrivsepError, ValueError) as error:  # a NUL in the path
        _end(f"there is no control socket at the path that was said: {error}")
    os.dup2(control.fileno(), 0)
    return control


def _end(reason: str) -> NoReturn:
    """Write the reason to the terminal, perhaps, and end."""
    try:
        os.write(2, f"privsep-daemon: {reason}\n".encode())
    except OSError:
        pass
    os._exit(1)


main()
