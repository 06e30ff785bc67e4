"""What privsep-daemon runs: it judges who calls, and what would run, then becomes that.

Runs in the privileged process, first of all.  The launcher has closed every
descriptor but 0, 1 and 2, and starts this without `site`, so that no .pth file is read
before it is looked at.  Until then nothing is imported but the standard library and
what stands beside this file.

The caller gives a name and a socket.  A word is written to that socket only if the
caller made its other end: else somebody could have root write to a service of his
choice.
"""

from __future__ import annotations

import _socket
import os
import struct
import sys

from privsep._start import rules
from privsep._start.gate import Gate
from privsep.errors import PrivsepError

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    import signal as _signal
    from typing import NoReturn
else:
    import _signal  # signal would load enum: that is 4 ms

_USAGE = "usage: privsep-daemon MODULE:CONTEXT (privsep starts it)"
_NO_SOCKET = "standard input is not a control socket"
_SO_PEERGROUPS = 59
_MOST_BYTES = 1024  # as many as getsockopt() takes
_CREDENTIALS = struct.Struct("iII")
_MOST_WORDS = 16 * 1024  # bytes


class _Caller:
    """Who made the other end of the control socket, as the kernel says."""

    def __init__(self, control: _socket.socket) -> None:
        self._control = control
        size = _CREDENTIALS.size
        option = control.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, size)
        _, self.uid, self.gid = _CREDENTIALS.unpack(option)

    def is_who_asked(self) -> bool:
        """Return whether the helper (sudo, doas) does not name somebody else."""
        return os.environ.get("SUDO_UID", str(self.uid)) == str(self.uid)

    def groups(self) -> frozenset[int]:
        """Return its groups, by number; of more than 256, the first alone."""
        try:
            option = self._control.getsockopt(
                _socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_BYTES
            )
        except OSError:
            return frozenset((self.gid,))
        return frozenset((self.gid, *struct.unpack(f"{len(option) // 4}I", option)))


def main() -> NoReturn:
    """Be the daemon of the context that the only argument names."""
    _take_over()
    control = _control_socket()
    if control is None:
        _end(_NO_SOCKET)
    caller = _Caller(control)
    if not caller.is_who_asked():
        _end(f"the control socket is uid {caller.uid}'s, and not SUDO_UID's")
    try:
        said = _judge(caller)
    except (PrivsepError, OSError) as error:
        _refuse(control, str(error))
    control.detach()
    from privsep._start import helper  # noqa: PLC0415 - now it is judged

    helper.serve_judged(sys.argv[2], said)


def _take_over() -> None:
    """Set right what the caller could have set to do harm; begin the deadline."""
    os.chdir("/")
    os.umask(0o022)  # what is compiled now is written, too
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # or the next file opened were the control socket
            os.open("/dev/null", os.O_RDWR)
    _signal.signal(_signal.SIGALRM, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGALRM,))
    _signal.setitimer(_signal.ITIMER_REAL, rules.DEADLINE)
    if len(sys.argv) != 3:  # noqa: PLR2004 - the launcher, and its one argument
        _end(_USAGE)


def _control_socket() -> _socket.socket | None:
    try:
        control = _socket.socket(fileno=0)
    except OSError:
        return None
    if (control.family, control.type) == (_socket.AF_UNIX, _socket.SOCK_SEQPACKET):
        return control
    control.detach()
    return None


def _judge(caller: _Caller) -> rules.Rules:
    """Return what root says of the context, after all has been looked at.

    Raises:
        PrivsepError: the start is refused.
        OSError: something cannot be looked at.

    """
    launcher, variable = sys.argv[1:]
    said = rules.read(variable)
    if not said.may_start(caller.uid, caller.groups()):
        raise PrivsepError(f"{said.path} does not let uid {caller.uid} start it")
    _signal.setitimer(_signal.ITIMER_REAL, said.deadline)
    gate = Gate(said.owners, said.path)
    gate.check(launcher)
    gate.check_loaded()
    gate.come_first()
    _read_site(gate)
    return said


def _read_site(gate: Gate) -> None:
    """Do what Python does at its start, if it is not told otherwise (``-S``)."""
    import site  # noqa: PLC0415 - after the gate

    add_package = site.addpackage

    def add_judged(directory: str, name: str, known: set[str] | None) -> object:
        gate.check(f"{directory}/{name}")
        return add_package(directory, name, known)

    site.addpackage = add_judged  # type: ignore[assignment]
    site.main()
    site.addpackage = add_package
    gate.come_first()


def _refuse(control: _socket.socket, reason: str) -> NoReturn:
    """Send the reason to the caller, as FAILED, and end.

    It is written by hand: what writes messages otherwise is not judged yet.
    """
    words = reason.encode("utf-8", "backslashreplace")[:_MOST_WORDS]
    try:
        control.send(b"\x93\x02\xda" + struct.pack("!H", len(words)) + words + b"\xa0")
    except OSError:
        pass
    os._exit(1)


def _end(reason: str) -> NoReturn:
    """Write the reason to the terminal, perhaps, and end."""
    try:
        os.write(2, f"privsep-daemon: {reason}\n".encode())
    except OSError:
        pass
    os._exit(1)


main()
