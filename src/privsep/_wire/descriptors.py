"""Datagrams with descriptors and the sender's credentials (unix(7), SCM_*).

Runs in both processes.  The receiver takes exactly the number of descriptors
that it expects; whatever else comes is closed before anybody looks at it.
"""

from __future__ import annotations

import os
import struct

from privsep._wire.typed import NamedTuple

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    import socket
else:
    import _socket as socket  # without enum and selectors: 4 ms

_CREDENTIALS = struct.Struct("iII")
_INT_SIZE = struct.calcsize("i")
_SO_PEERGROUPS = 59
_MOST_BYTES = 1024  # as much as Python asks for: 256 groups
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
    credentials = _CREDENTIALS.pack(os.getpid(), os.geteuid(), os.getegid())
    sock.sendmsg(
        [data],
        [
            (socket.SOL_SOCKET, socket.SCM_RIGHTS, packed(descriptors)),
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
    space = socket.CMSG_SPACE(_CREDENTIALS.size) + control_size(most)
    data, ancillary, result, _ = sock.recvmsg(size, space, int(flags) | _CLOSE_ON_EXEC)
    descriptors: list[int] = []
    sender = None
    for level, kind, payload in ancillary:
        if level != socket.SOL_SOCKET:
            continue
        if kind in (socket.SCM_RIGHTS, _SCM_PIDFD):
            # A pidfd comes if whoever shares the socket asked for it; it counts
            # as a descriptor too many.
            descriptors += unpacked(payload)
        elif kind == socket.SCM_CREDENTIALS:
            sender = Credentials(*_CREDENTIALS.unpack(payload))
    return Datagram(data, descriptors, sender, bool(result & _TRUNCATED))


def packed(descriptors: list[int]) -> bytes:
    """Return what carries `descriptors` in a message of the kernel's (SCM_RIGHTS)."""
    return struct.pack(f"{len(descriptors)}i", *descriptors)


def unpacked(payload: bytes) -> tuple[int, ...]:
    """Return the whole numbers in what carries descriptors."""
    return struct.unpack_from(f"{len(payload) // _INT_SIZE}i", payload)


def control_size(most: int) -> int:
    """Return the room that so many descriptors need beside a message."""
    return int(socket.CMSG_SPACE(most * _INT_SIZE))


def close_all(descriptors: list[int]) -> None:
    """Close each of `descriptors`, which are gone from the list then; -1 is none.

    One whose file system reports an error then (close(2)) is closed all the same.
    """
    while descriptors:
        descriptor = descriptors.pop()
        if descriptor >= 0:
            try:
                os.close(descriptor)
            except OSError:
                pass


def peer_credentials(sock: socket.socket) -> Credentials:
    """Return who made the other end of `sock` (SO_PEERCRED).

    Raises:
        OSError: as getsockopt(2).

    """
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return Credentials(*_CREDENTIALS.unpack(data))


def peer_groups(sock: socket.socket) -> set[int]:
    """Return the groups of who made the other end; of more than 256, the first alone.

    Raises:
        OSError: as getsockopt(2), of `peer_credentials`.

    """
    try:
        option = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_BYTES)
    except OSError:
        option = b""
    groups = struct.unpack(f"{len(option) // 4}I", option)
    return {peer_credentials(sock).gid, *groups}
