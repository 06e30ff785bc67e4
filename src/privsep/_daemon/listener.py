"""The listening socket of a daemon that several client processes share.

Runs in the supervisor.  It accepts, asks whether the peer may connect, and says READY
or FAILED; it waits for nobody and reads nothing.
"""

from __future__ import annotations

import socket
import sys
from time import monotonic
from typing import TYPE_CHECKING

from privsep._daemon.manager import READY, STOPPING
from privsep._wire.control import REPLY_SIZE, Reply
from privsep._wire.descriptors import peer_credentials
from privsep._wire.values import Encoder
from privsep.errors import PrivsepError

if TYPE_CHECKING:
    from collections.abc import Callable

    from privsep._daemon.admission import Admission
    from privsep._daemon.clients import Clients
    from privsep._daemon.loop import Loop
    from privsep._daemon.manager import Manager
    from privsep._wire.descriptors import Credentials

_MOST_OF_A_USER = 128  # connections
_MOST = 1024
_LISTEN_AGAIN = 1.0  # seconds


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
        self._sock = sock
        self.manager = manager
        self._read_admission = read_admission
        self._admission = read_admission()
        self._ready = b""
        self._listens = False  #: it is watched
        self._listen_at: float | None = None  #: again, although nothing is let go
        sock.settimeout(0)  # another process that shares it may be first

    def open(self, missing: list[object]) -> None:
        """Say that connections are taken; `missing` goes to each client with READY."""
        self._ready = Encoder().encode([Reply.READY, missing])
        self.manager.tell(READY)

    def serve(
        self,
        loop: Loop,
        clients: Clients,
        record_refusal: Callable[[Credentials | None, str], None],
    ) -> None:
        """Let whoever connects, and may, be one of `clients`."""
        self._loop = loop
        self._clients = clients
        self._record_refusal = record_refusal
        self.resume()

    def resume(self) -> None:
        """Take connections if there is room: something may have been let go."""
        if not self._listens and len(self._clients) < _MOST:
            self._listens = True
            self._listen_at = None
            self._loop.watch(self._sock.fileno(), self._accept)

    def _pause(self) -> None:
        """Leave connections in the socket's queue until something is let go."""
        if self._listens:
            self._listens = False
            self._loop.unwatch(self._sock.fileno())

    def looks(self) -> list[float]:
        """Return when `look` has something to do, on the monotonic clock."""
        looks = (self.manager.next_sign, self._listen_at)
        return [at for at in looks if at is not None]

    def look(self) -> None:
        """Do what is due."""
        self.manager.give_sign_of_life()
        if self._listen_at is not None and self._listen_at <= monotonic():
            self.resume()

    def _accept(self) -> None:
        try:
            sock = self._sock.accept()[0]
        except (BlockingIOError, ConnectionError):  # another was first, or it is gone
            return
        except OSError:  # no descriptors, here or in the system
            self._pause()
            self._listen_at = monotonic() + _LISTEN_AGAIN
            return
        peer = peer_credentials(sock)
        reason = self._refusal(sock, peer.uid)
        try:
            if not reason:
                self._clients.add(sock)
        except OSError as error:  # fs.epoll.max_user_watches
            reason = f"the connection cannot be served: {error}"
        if reason:
            with sock:
                reply = [Reply.FAILED, reason[: REPLY_SIZE // 3], ""]
                _send(sock, Encoder().encode(reply))
            self._record_refusal(peer, reason)
            return
        _send(sock, self._ready)
        if len(self._clients) >= _MOST:
            self._pause()

    def _refusal(self, sock: socket.socket, uid: int) -> str:
        """Return why a user's connection is not taken; "" if it is."""
        if self._clients.count(uid) >= _MOST_OF_A_USER:
            return f"uid {uid} has {_MOST_OF_A_USER} connections already"
        return self._admission.refusal(sock)

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
        self._pause()
        self.manager.tell(STOPPING)
        self._sock.close()

    def close_in_worker(self) -> None:
        """Close, in a worker, what is the supervisor's."""
        self._sock.close()
        self.manager.close()


def _send(sock: socket.socket, data: bytes) -> None:
    try:
        sock.send(data, socket.MSG_DONTWAIT)
    except OSError:  # it is gone
        pass
