"""Who calls, and whose the code is that is to run: looked at before it is loaded.

Runs in the privileged process, which was started without `site`, so that no .pth file
is read before it is looked at.
"""

from __future__ import annotations

import _socket
import os
import stat
import struct

from privsep._start.gate import Gate
from privsep.errors import PrivsepError

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Iterable
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


def named() -> tuple[int, int, str]:
    """Return uid and gid of who called, and what says so.

    That is what sudo (run0, too), doas or pkexec has set.  Without any, nobody else has
    called than whom this process is itself.  Where several are set, they must agree:
    the caller may have got one of them through.

    Raises:
        PrivsepError: they do not agree, or are no users.

    """
    found = []
    if "SUDO_UID" in os.environ:
        ids = os.environ["SUDO_UID"], os.environ.get("SUDO_GID", "")
        if not all(map(str.isdecimal, ids)):
            msg = f"SUDO_UID is {ids[0]!r} and SUDO_GID {ids[1]!r}: sudo sets numbers"
            raise PrivsepError(msg)
        found.append((int(ids[0]), int(ids[1]), f"SUDO_UID is {ids[0]}"))
    found += [
        _user_of(name, os.environ[name])
        for name in ("DOAS_USER", "PKEXEC_UID")
        if name in os.environ
    ]
    if not found:
        names = "SUDO_UID, DOAS_USER or PKEXEC_UID"
        says = f"no {names} is there: only uid {os.getuid()} may call"
        return os.getuid(), os.getgid(), says
    for other in found:
        if other[0] != found[0][0]:
            raise PrivsepError(f"{found[0][2]}, and {other[2]}: who has called?")
    return found[0]


def _user_of(variable: str, value: str) -> tuple[int, int, str]:
    """Return uid and gid of the user whose name or uid `value` is."""
    import pwd  # noqa: PLC0415 - not for sudo

    try:
        if variable == "PKEXEC_UID":
            entry = pwd.getpwuid(int(value))
        else:
            entry = pwd.getpwnam(value)
    except (KeyError, ValueError, OverflowError):
        raise PrivsepError(f"{variable} is {value}: there is no such user") from None
    return entry.pw_uid, entry.pw_gid, f"{variable} is {value} (uid {entry.pw_uid})"


class Rights:
    """Those of a user, for what is done in a ``with``."""

    def __init__(self, uid: int, gid: int, groups: Iterable[int]) -> None:
        self._wanted = uid, gid, list(groups)
        self._own = os.geteuid(), os.getegid(), os.getgroups()

    def __enter__(self) -> None:
        """Take them, unless this process is the user.

        Raises:
            PermissionError: it may not become another.

        """
        uid, gid, groups = self._wanted
        if uid == self._own[0]:
            return
        os.setgroups(groups)
        os.setegid(gid)
        os.seteuid(uid)

    def __exit__(self, *_: object) -> None:
        """Take back the own ones."""
        uid, gid, groups = self._own
        if uid == self._wanted[0]:
            return
        os.seteuid(uid)
        os.setegid(gid)
        os.setgroups(groups)


def connect(path: str | bytes) -> _socket.socket:
    """Return a socket that is connected to where the caller listens.

    The path is opened with his own rights, so that nothing is learnt by it that he
    could not learn anyway.  It is connected to with those of this process, as he
    expects, but only if he made the socket: whose it is otherwise is not even told that
    somebody came.  Who listens is `Caller`'s to judge.

    Raises:
        PrivsepError: it is no socket of his.
        OSError: as open(2) and connect(2).
        ValueError: a NUL in the path.

    """
    uid, gid, _ = named()
    with Rights(uid, gid, ()):
        held = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        status = os.fstat(held)
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != uid:
            raise PrivsepError(f"it is not a socket that uid {uid}, who called, made")
        control = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        control.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
        control.connect(f"/proc/self/fd/{held}")
    finally:
        os.close(held)
    return control


class Caller:
    """Who made the other end of the control socket, as the kernel says.

    Args:
        control: it.

    Raises:
        PrivsepError: that is not who called, see `named`.

    """

    def __init__(self, control: _socket.socket) -> None:
        self._control = control
        size = _CREDENTIALS.size
        option = control.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, size)
        _, self.uid, self.gid = _CREDENTIALS.unpack(option)
        uid, _, says = named()
        if uid != self.uid:
            raise PrivsepError(f"the control socket is uid {self.uid}'s, and {says}")

    def rights(self) -> Rights:
        """Return what it may."""
        return Rights(self.uid, self.gid, self.groups())

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


def judge(caller: Caller, said: rules.Rules, program: str) -> Gate:
    """Look at who calls, and at whose this program is, before more of it is loaded.

    Args:
        caller: who calls.
        said: what root says of the context.
        program: the path of the launcher.

    Returns:
        What looks at each import from now on.

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
    return gate


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
