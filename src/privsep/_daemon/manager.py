"""What the service manager is told: sd_notify(3), by its socket, without its library.

Runs in the supervisor.  The socket is connected before lockdown, which may take the way
to it; nothing is read from it, and what it does not take is not sent again.
"""

from __future__ import annotations

import os
import socket
from time import CLOCK_MONOTONIC, clock_gettime_ns, monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

READY = "READY=1"
STOPPING = "STOPPING=1"
_WATCHDOG = "WATCHDOG=1"


class Manager:
    """The service manager of this process, or none, to whom nothing is said.

    Args:
        variables: the environment that the process was started with.

    Raises:
        OSError: NOTIFY_SOCKET names no socket that can be reached.

    """

    def __init__(self, variables: Mapping[bytes, bytes]) -> None:
        self._sock: socket.socket | None = None
        self._interval = 0.0  #: seconds between signs of life; 0: none are asked for
        self.next_sign: float | None = None  #: when the next is due, monotonic
        address = variables.get(b"NOTIFY_SOCKET", b"")
        if not address:
            return
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.connect(b"\0" + address[1:] if address[:1] == b"@" else address)
        pid = variables.get(b"WATCHDOG_PID", b"%d" % os.getpid())
        if pid == b"%d" % os.getpid():
            # Half of what is allowed, as sd_watchdog_enabled(3) recommends.
            self._interval = int(variables.get(b"WATCHDOG_USEC", b"0")) / 2e6

    def tell(self, state: str) -> None:
        """Say that the service is in `state`, and begin to give signs of life."""
        if self._sock is None:
            return
        try:
            self._sock.send(state.encode(), socket.MSG_DONTWAIT)
        except OSError:  # it is restarted, or has too much to read
            pass
        if self._interval and self.next_sign is None:
            self.next_sign = monotonic()

    def tell_reloading(self) -> None:
        """Say that the configuration is read anew; READY is to follow."""
        now = clock_gettime_ns(CLOCK_MONOTONIC) // 1000
        self.tell(f"RELOADING=1\nMONOTONIC_USEC={now}")

    def give_sign_of_life(self) -> None:
        """Say that the event loop runs, if it is time."""
        if self.next_sign is not None and monotonic() >= self.next_sign:
            self.next_sign = monotonic() + self._interval
            self.tell(_WATCHDOG)

    def close(self) -> None:
        """Say no more: this process is a worker."""
        if self._sock is not None:
            self._sock.close()
