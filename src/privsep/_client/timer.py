"""How long one sending or receiving of a channel may wait.  Runs in the client.

A thing of its own, so that a channel's frames can renew it and do not hold the channel:
one that a call lost shall go at once, and give its place in the pool back.
"""

from __future__ import annotations

import _socket
import math
import socket
import struct
from time import monotonic

_TIMEVAL = struct.Struct("@ll")
_SLACK = 0.01  # seconds: less is not worth a system call
_LONGEST = 1e9  # seconds: what a timer takes; no call will see its end


class Timer:
    """The timer of a socket; `seconds` is what it is set to."""

    __slots__ = ("_sock", "deadline", "of_kernel", "seconds")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.settimeout(None)  # not socket.setdefaulttimeout()'s
        self.seconds = math.inf
        self.deadline = math.inf  #: on monotonic's clock, of the message under way
        # gevent and eventlet put sockets of their own in place; these never
        # block in the kernel, so its timer does not run.
        self.of_kernel = type(sock).recv is _socket.socket.recv

    def set(self, seconds: float) -> None:
        """Have each sending and receiving end after so long; infinite: never."""
        self.seconds = seconds
        # At least a microsecond: zero would mean for ever.
        most = min(max(seconds, 1e-6), _LONGEST)
        if seconds == math.inf:
            most = 0.0
        if not self.of_kernel:
            self._sock.settimeout(most or None)
            return
        whole = int(most)
        value = _TIMEVAL.pack(whole, int((most - whole) * 1e6))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def renew(self) -> None:
        """Have it count what is left, as it begins anew with each part of a message."""
        left = self.deadline - monotonic()
        if self.seconds - left > _SLACK:
            self.set(left)
