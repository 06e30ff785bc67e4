"""Looking for a reply for a moment, before waiting for it.

Runs in the client.  Whoever waits lets its processor fall asleep, and to wake one takes
10 to 40 µs, more than a short call does.  Whoever looks stays awake.  It takes no more
time than waking would, and pays only where another processor runs the worker meanwhile:
where looking was in vain, the next calls wait at once, each time twice as many.
"""

from __future__ import annotations

import errno
import socket
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sized

    from privsep._wire.frames import Frames

_MOMENT = 100e-6  # seconds: waking both sides, and a function that does little
_SWITCH = 5e-6  # seconds: two switches of a processor, and the least of a call
_MOST_SKIPPED = 1024
_READ = 8 * 1024
_DONTWAIT = int(socket.MSG_DONTWAIT)


class Lookout:
    """When the callers of one daemon look for their replies.

    Args:
        channels: all that are open.
        idle: those of them that no call has.

    Attributes:
        skipped: how many of the next calls do not look.

    """

    def __init__(self, channels: Sized, idle: Sized) -> None:
        self.skipped = 0
        self._in_vain = 0  #: times in a row
        self._channels = channels
        self._idle = idle

    def look(self, frames: Frames) -> None:
        """Take what comes within a moment, for `frames` to receive.

        Raises:
            OSError: a signal's handler raised it; of the socket's own the receiver
                learns.

        """
        looked_at = end = monotonic() + _MOMENT  # what is there at once came in time
        while len(self._channels) - len(self._idle) == 1:  # else others use the time
            try:
                frames.rest = frames.sock.recv(_READ, _DONTWAIT)
            except OSError as error:
                if error.errno is None:
                    raise
                if error.errno != errno.EAGAIN:
                    return
            else:
                # So late: the worker had this very processor in between.
                if monotonic() - looked_at > _SWITCH:
                    self._note_in_vain()
                else:
                    self._in_vain = 0
                return
            looked_at = monotonic()
            if looked_at > end:
                self._note_in_vain()
                return
        self.skipped = _MOST_SKIPPED

    def _note_in_vain(self) -> None:
        self._in_vain += 1
        self.skipped = min(2**self._in_vain, _MOST_SKIPPED)
