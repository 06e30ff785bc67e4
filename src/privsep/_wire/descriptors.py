"""Datagrams with descriptors and the sender's credentials (unix(7), SCM_*).

Runs in both processes.  The receiver takes exactly the number of descriptors
that it expects; whatever else comes is closed before anybody looks at it.
"""

from __future__ import annotations

import array
import os
import socket
import struct

from privsep._wire.typed import NamedTuple

_CREDENTIALS = struct.Struct("iII")
_INT_SIZE = array.array("i").itemsize
_SCM_PIDFD = 4
# Numbers: what socket has are enums, whose operators are Python code.
_CLOSE_ON_EXEC = int(socket.MSG_CMSG_CLOEXEC)
_TRUNCATED = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)


class Credentials(NamedTuple):
    """Who sent a datagram, or made a socket, as the kernel says."""

    pid: int
    uid: int
    gid: int


class Datagram(NamedTuple):
    """What was received; `descriptors` belong to the caller, who closes them."""

    data: bytes
    descriptors: list[int]
    sender: Credentials | None
    truncated: bool

    @property
    def is_end(self) -> bool:
        """Whether the other end is closed: an empty datagram has a sender."""
        return not self.data and self.sender is None and not self.descriptors


def send(
    sock: socket.socket, data: bytes, descriptors: list[int], flags: int = 0
) -> None:
    """Send one datagram with `descriptors`, which stay open here.

    The credentials are those that sockets made now show (SO_PEERCRED): of the
    effective ids, where the kernel itself would add the real ones.

    Raises:
        OSError: as sendmsg(2).

    """
    rights = array.array("i", descriptors)
    credentials = _CREDENTIALS.pack(os.getpid(), os.geteuid(), os.getegid())
    sock.sendmsg(
        [data],
        [
            (socket.SOL_SOCKET, socket.SCM_RIGHTS, rights),
            (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials),
        ],
        flags,
    )


def receive(sock: socket.socket, size: int, most: int, flags: int = 0) -> Datagram:
    """Receive one datagram of at most `size` bytes and `most` descriptors.

    More of either sets `truncated`; the kernel has closed what did not fit.

    Raises:
        OSError: as recvmsg(2).

    """
    space = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(most * _INT_SIZE)
    data, ancillary, result, _ = sock.recvmsg(size, space, int(flags) | _CLOSE_ON_EXEC)
    descriptors = array.array("i")
    sender = None
    for level, kind, payload in ancillary:
        if level != socket.SOL_SOCKET:
            continue
        if kind in (socket.SCM_RIGHTS, _SCM_PIDFD):
            # A pidfd comes if whoever shares the socket asked for it; it counts
            # as a descriptor too many.
            usable = len(payload) - len(payload) % _INT_SIZE
            descriptors.frombytes(payload[:usable])
        elif kind == socket.SCM_CREDENTIALS:
            sender = Credentials(*_CREDENTIALS.unpack(payload))
    return Datagram(data, descriptors.tolist(), sender, bool(result & _TRUNCATED))


def close_all(descriptors: list[int]) -> None:
    """Close each of `descriptors`, which are gone from the list then; -1 is none."""
    while descriptors:
        descriptor = descriptors.pop()
        if descriptor >= 0:
            os.close(descriptor)


def peer_credentials(sock: socket.socket) -> Credentials:
    """Return who made the other end of `sock` (SO_PEERCRED).

    Raises:
        OSError: as getsockopt(2).

    """
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return Credentials(*_CREDENTIALS.unpack(data))
