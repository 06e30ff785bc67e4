"""A control socket by way of a path, for a helper that keeps standard input to itself.

Runs in the client.  sudo that logs what is typed (``log_input``) gives the daemon's
process a pipe; that brings the path of a listening socket, in a directory that nobody
else can enter, and whoever connects is turned away unless it is root.  Before anything
else crosses, the name is gone.
"""

from __future__ import annotations

import os
import socket
import tempfile

from privsep._client import forking
from privsep._wire.descriptors import peer_credentials

#: what the daemon's process writes to stderr when standard input is a pipe
WANTED = b"privsep-daemon: waiting for the path of a socket"


class Meeting:
    """A listening socket; `close` it, whatever comes of it."""

    def __init__(self) -> None:
        self.path = ""
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.path = f"{tempfile.mkdtemp(prefix='privsep-')}/control"
            self.listener.bind(self.path)
            self.listener.listen()
            self.listener.setblocking(False)  # noqa: FBT003 - there is no keyword
        except BaseException:
            self.close()
            raise

    def accept(self) -> socket.socket | None:
        """Return the socket to root; None if somebody else, or nobody, connected."""
        try:
            with forking.undivided:
                control, _ = self.listener.accept()
                forking.own(control)
        except OSError:  # it has gone again
            return None
        if peer_credentials(control).uid != 0:
            control.close()
            return None
        control.setblocking(True)  # noqa: FBT003
        return control

    def close(self) -> None:
        """Listen no longer, and remove the name."""
        self.listener.close()
        if not self.path:
            return
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass
        os.rmdir(os.path.dirname(self.path))
