"""Who calls, and whose the code is that is to run: looked at before it is loaded.

Runs in the privileged process, which was started without `site`, so that no .pth file
is read before it is looked at.
"""

from __future__ import annotations

import _socket
import os
import struct

from privsep._start.gate import Gate
from privsep.errors import PrivsepError

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    import signal as _signal
    from typing import NoReturn

    from privsep._start import rules
else:
    import _signal  # signal would load enum: that is 4 ms

_SO_PEERGROUPS = 59
_MOST_BYTES = 1024  # as many as getsockopt() takes
_CREDENTIALS = struct.Struct("iII")
_MOST_WORDS = 16 * 1024  # bytes


def set_deadline(seconds: float) -> None:
    """End this process after so long, whatever signals the caller blocks or ignores.

    Nor shall Ctrl-Z on his terminal hold it: what is stopped does not end.
    """
    for number in (_signal.SIGTSTP, _signal.SIGTTIN, _signal.SIGTTOU):
        _signal.signal(number, _signal.SIG_IGN)
    _signal.signal(_signal.SIGALRM, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGALRM,))
    _signal.setitimer(_signal.ITIMER_REAL, seconds)


def replace_closed_streams() -> None:
    """Open what of 0, 1 and 2 is closed, or the next file opened were one of them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open("/dev/null", os.O_RDWR)


class Caller:
    """Who made the other end of the control socket, as the kernel says.

    Args:
        control: it.

    Raises:
        PrivsepError: that is not whom sudo names.

    """

    def __init__(self, control: _socket.socket) -> None:
        self._control = control
        size = _CREDENTIALS.size
        option = control.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, size)
        _, self.uid, self.gid = _CREDENTIALS.unpack(option)
        named = os.environ.get("SUDO_UID", str(self.uid))
        if named != str(self.uid):
            msg = f"the control socket is uid {self.uid}'s, and SUDO_UID is {named}"
            raise PrivsepError(msg)

    def groups(self) -> frozenset[int]:
        """Return its groups, by number; of more than 256, the first alone."""
        try:
            option = self._control.getsockopt(
                _socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_BYTES
            )
        except OSError:
            return frozenset((self.gid,))
        return frozenset((self.gid, *struct.unpack(f"{len(option) // 4}I", option)))

    def refuse(self, reason: str) -> NoReturn:
        """Send the reason, as FAILED, and end.

        It is written by hand: what writes messages otherwise is not judged yet.
        """
        words = reason.encode("utf-8", "backslashreplace")[:_MOST_WORDS]
        size = struct.pack("!H", len(words))
        try:
            self._control.send(b"\x93\x02\xda" + size + words + b"\xa0")
        except OSError:
            pass
        os._exit(1)


def judge(caller: Caller, said: rules.Rules, program: str) -> None:
    """Look at who calls, and at whose this program is, before more of it is loaded.

    Args:
        caller: who calls.
        said: what root says of the context.
        program: the path of the launcher.

    Raises:
        PrivsepError: the start is refused.
        OSError: something cannot be looked at.

    """
    if not said.may_start(caller.uid, caller.groups()):
        raise PrivsepError(f"{said.path} does not let uid {caller.uid} start it")
    gate = Gate(said.owners, said.path)
    gate.check(program)
    gate.check_loaded()
    gate.come_first()
    _read_site(gate)
    if gate.refused is not None:  # and site went on
        raise gate.refused


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
