"""Telling when a daemon has run no call for so long that it may end.

Runs in the supervisor, which hears of no single call: it looks at the slots now and
then.
"""

from __future__ import annotations

from time import monotonic

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from privsep._daemon.slots import Slots

_LOOKS = 4  #: within the timeout, by a fourth of which it may be exceeded


class Idleness:
    """How long nothing has run."""

    def __init__(self, slots: Slots, timeout: float) -> None:
        self._slots = slots
        self._timeout = timeout
        self._calls = 0
        self._since = monotonic()
        self.look_at = self._since + timeout / _LOOKS  #: on the monotonic clock

    def is_over(self) -> bool:
        """Return whether the timeout has passed without a call; look, if it is time."""
        now = monotonic()
        if now < self.look_at:
            return False
        calls = self._slots.calls()
        if calls != self._calls or self._slots.busy():
            self._calls = calls
            self._since = now
        self.look_at = now + self._timeout / _LOOKS
        return now >= self._since + self._timeout
