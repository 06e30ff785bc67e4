"""What a client may send on the control socket: all that is looked at is here.

Runs in the supervisor.  A datagram is one of two constants; its descriptors are as
many as belong to it, and each is a connected AF_UNIX socket that the sender made.
"""

from __future__ import annotations

import socket

from privsep._wire import descriptors
from privsep._wire.control import CHANNEL_DESCRIPTORS, HELLO, LOG_DESCRIPTORS, REQUEST

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from privsep._wire.descriptors import Credentials, Datagram

_KINDS = {
    HELLO: (socket.SOCK_SEQPACKET,) * LOG_DESCRIPTORS,
    REQUEST: (socket.SOCK_STREAM,) * CHANNEL_DESCRIPTORS,
}


def sockets_of(datagram: Datagram) -> list[socket.socket]:
    """Return its descriptors as sockets, if they are what it must bring; else none."""
    wanted = _KINDS.get(datagram.data)
    sender = datagram.sender
    if (
        wanted is None
        or sender is None
        or datagram.truncated
        or len(datagram.descriptors) != len(wanted)
        or not all(map(_is_socket_of, datagram.descriptors, wanted, [sender] * 2))
    ):
        return []
    sockets = [socket.socket(fileno=fd) for fd in datagram.descriptors]
    for sock in sockets:
        # Not non-blocking, as a client with gevent or eventlet made it, nor with a
        # timeout, as socket.setdefaulttimeout() in the context's module has it.
        sock.settimeout(None)
    return sockets


def _is_socket_of(descriptor: int, kind: int, sender: Credentials) -> bool:
    """Return whether it is a connected AF_UNIX socket of `kind` made by `sender`."""
    try:
        # Not fstat(2) before it: a file system of the client's could refuse or
        # delay the answer (FUSE), and no socket has one behind it.
        # The kind is named, because Python would find it out by getsockname(2),
        # which fails on some sockets; the kernel is asked for it below.
        sock = socket.socket(socket.AF_UNIX, kind, 0, fileno=descriptor)
    except OSError:  # no socket
        return False
    try:
        return (
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_UNIX
            and sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == kind
            and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            and descriptors.peer_credentials(sock) == sender
        )
    finally:
        sock.detach()
