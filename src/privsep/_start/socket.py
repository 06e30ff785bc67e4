"""Start method ``socket``: a daemon that systemd, or an administrator, has started.

Runs in the client.  It trusts a path: the socket and every directory on the way are
root's, or its own user's, and nobody else can put another there.  What it has looked
at it holds, and connects to that.  Who listens cannot be asked: SO_PEERCRED shows who
made the socket, and that is systemd.  Sources: unix(7), proc_pid_fd(5).
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from time import monotonic
from typing import TYPE_CHECKING, cast

from privsep._client import forking
from privsep._start import trust
from privsep._wire.control import REPLY_SIZE, Reply
from privsep._wire.values import decode
from privsep.errors import StartError

if TYPE_CHECKING:
    from privsep.context import Context

_DIRECTORY = "/run/privsep"


def path_of(context: Context) -> str:
    """Return where the daemon of `context` listens, if nothing else is said.

    Raises:
        StartError: the context is in no importable variable.

    """
    return f"{_DIRECTORY}/{context.variable}.sock"


def is_there(context: Context) -> bool:
    """Return whether there is a socket, or whatever it is, at the default path."""
    try:
        return os.path.lexists(path_of(context))
    except StartError:  # no daemon but a forked one can have it
        return False


def connect(
    context: Context, path: str | None, deadline: float
) -> tuple[socket.socket, list[object]]:
    """Return a control socket of the daemon that listens at `path`.

    Args:
        context: whose daemon it is.
        path: of the listening socket; None: the default.
        deadline: seconds within which the daemon must have let this process in.

    Returns:
        The control socket, and what came with READY.

    Raises:
        StartError: the path is not there or not trusted, nobody listens, or the
            daemon does not let this process in; in its own words.

    """
    path = path_of(context) if path is None else path
    what = f"context {context.name!r} could not be reached by socket"
    until = monotonic() + deadline
    try:
        held = _hold(path)
        try:
            control = _connect(held, deadline)
        finally:
            os.close(held)
        try:
            kind, *said = _receive(control, until)
        except BaseException:
            control.close()
            raise
    except (BlockingIOError, TimeoutError):
        msg = f"{what}: {path}: the daemon did not answer within {deadline:g} s"
        raise StartError(msg) from None
    except OSError as error:
        raise StartError(f"{what}: {_why(error, path)}") from error
    if kind != Reply.READY:
        control.close()
        raise StartError(f"{what}: {said[0]}")
    control.settimeout(None)
    return control, cast("list[object]", said[0])


def _hold(path: str) -> int:
    """Return a descriptor of the socket at `path`, which nobody else can exchange.

    Raises:
        OSError: as open(2); Untrusted: it, or a directory on the way, is not root's.

    """
    directory, name = os.path.split(path)
    above = trust.walk_to_directory(directory).take()
    try:
        held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    finally:
        os.close(above)
    try:
        _check(os.fstat(held), path)
    except BaseException:
        os.close(held)
        raise
    return held


def _check(status: os.stat_result, path: str) -> None:
    # Not its mode: that says who may connect, and is root's to choose.
    if status.st_uid not in trust.trusted_users():
        raise trust.refusal(status, path)
    if not stat.S_ISSOCK(status.st_mode):
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK), path)


def _connect(held: int, seconds: float) -> socket.socket:
    """Connect to the socket `held`; while its queue is full, that waits.

    Raises:
        OSError: as connect(2).

    """
    with forking.undivided:
        control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        forking.own(control)
    try:
        control.settimeout(None)  # not socket.setdefaulttimeout()'s
        # A timeout of Python's makes it non-blocking, which does not wait here.
        control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(seconds))
        control.connect(f"/proc/self/fd/{held}")
        control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(0))
    except BaseException:
        control.close()
        raise
    return control


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))


def _receive(control: socket.socket, until: float) -> list[object]:
    """Return what the daemon says to a new connection: READY or FAILED, and more.

    Raises:
        OSError: it says nothing in time, or is gone.

    """
    control.settimeout(max(until - monotonic(), 0.001))
    data = control.recv(REPLY_SIZE)
    if not data:
        raise ConnectionResetError(errno.ECONNRESET, "the daemon has ended")
    return cast("list[object]", decode(data))


def _why(error: OSError, path: str) -> str:
    """Return what an error means, and what to do."""
    if isinstance(error, trust.Untrusted):
        return str(error)
    remedy = {
        errno.ENOENT: "is its socket unit installed and started (privsep generate "
        "systemd prints one)?",
        errno.ECONNREFUSED: "nobody listens there: start its unit",
        errno.EACCES: "the socket's mode, or that of a directory, does not let this "
        "user in (SocketMode=, SocketGroup= of its unit)",
    }.get(error.errno or 0, "")
    return f"{path}: {error.strerror or error}" + (f"; {remedy}" if remedy else "")
