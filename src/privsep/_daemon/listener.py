"""The listening socket of a daemon that several client processes share.

Runs in the supervisor.  It accepts, asks whether the peer may connect, and says READY
or FAILED; it waits for nobody and reads nothing.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

from privsep._daemon.manager import READY, STOPPING
from privsep._wire.control import REPLY_SIZE, Reply
from privsep._wire.descriptors import peer_credentials
from privsep._wire.values import Encoder
from privsep.errors import PrivsepError

if TYPE_CHECKING:
    from collections.abc import Callable

    from privsep._daemon.admission import Admission
    from privsep._daemon.manager import Manager

MOST_OF_A_USER = 128  # connections
MOST = 1024


class Listener:
    """Where clients connect, who may, and the service manager that is told of it.

    Args:
        sock: it listens: AF_UNIX, SOCK_SEQPACKET.
        read_admission: returns who may connect, now and whenever it is reloaded.
        manager: as of `Manager`.

    Raises:
        OSError, PrivsepError: as `read_admission`.

    """

    def __init__(
        self,
        sock: socket.socket,
        read_admission: Callable[[], Admission],
        manager: Manager,
    ) -> None:
        self.sock = sock
        self.manager = manager
        self._read_admission = read_admission
        self._admission = read_admission()
        self._ready = b""
        sock.settimeout(0)  # another process that shares it may be first

    def open(self, missing: list[object]) -> None:
        """Say that connections are taken; `missing` goes to each client with READY."""
        self._ready = Encoder().encode([Reply.READY, missing])
        self.manager.tell(READY)

    def accept(self) -> socket.socket | None:
        """Return the next connection; None if there is none.

        Raises:
            OSError: there are no descriptors.

        """
        try:
            return self.sock.accept()[0]
        except (BlockingIOError, ConnectionError):
            return None

    def refusal(self, sock: socket.socket, of_its_user: int) -> str:
        """Return why the connection `sock` is not taken; "" if it is.

        Args:
            sock: was accepted.
            of_its_user: how many connections its user has.

        """
        if of_its_user >= MOST_OF_A_USER:
            uid = peer_credentials(sock).uid
            return f"uid {uid} has {MOST_OF_A_USER} connections already"
        return self._admission.refusal(sock)

    def welcome(self, sock: socket.socket) -> None:
        """Say READY to who was let in."""
        _send(sock, self._ready)

    @staticmethod
    def turn_away(sock: socket.socket, reason: str) -> None:
        """Say why not, and let go of the connection."""
        with sock:
            reply = [Reply.FAILED, reason[: REPLY_SIZE // 3], ""]
            _send(sock, Encoder().encode(reply))

    def reload(self) -> None:
        """Read anew who may connect; whoever is connected stays.

        What cannot be read changes nothing: a sandbox may hide the file by now.
        """
        self.manager.tell_reloading()
        try:
            self._admission = self._read_admission()
        except (OSError, PrivsepError) as error:
            sys.stderr.write(f"who may connect stays as it was: {error}\n")
        self.manager.tell(READY)

    def close(self) -> None:
        """Take no more connections: the daemon ends."""
        self.manager.tell(STOPPING)
        self.sock.close()


def _send(sock: socket.socket, data: bytes) -> None:
    try:
        sock.send(data, socket.MSG_DONTWAIT)
    except OSError:  # it is gone
        pass
