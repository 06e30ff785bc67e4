"""A call that has begun, and whose reply is waited for later.

Runs in the client.  It has the channel until then; one thread at a time may use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from privsep._client.channel import NotStarted
from privsep._wire.frames import Kind
from privsep.errors import DaemonGone

if TYPE_CHECKING:
    from collections.abc import Callable

    from privsep._client.channel import Channel
    from privsep._client.pool import Pool
    from privsep.context import Entry

__all__ = ["NotStarted", "PendingCall"]


class PendingCall:
    """A call that a worker has taken; `Client.begin` makes it."""

    def __init__(
        self,
        channel: Channel,
        pool: Pool,
        entry: Entry,
        deadline: float,
        lost: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._pool = pool
        self._entry = entry
        self._deadline = deadline
        self._lost = lost  #: to be called when the daemon is found gone
        self._signalled = False

    def fileno(self) -> int:
        """Return the descriptor that can be read when the reply begins to come."""
        return self._channel.fileno()

    def signal(self, number: bytes) -> None:
        """Have what runs signalled; not any more once the result is asked for."""
        self._signalled = True
        try:
            self._channel.frames.send(Kind.SIGNAL, number)
        except OSError:  # it has ended, or the daemon has
            pass

    def result(self) -> object:
        """Wait for the reply, and return what it holds; once.

        Raises:
            NotStarted: nothing of the call ran; it may be begun once more.
            BaseException: the function's own, or one of privsep's.

        """
        try:
            return self._channel.finish(self._entry, self._deadline)
        except DaemonGone:
            if self._channel.daemon_ended:
                self._lost()
            raise
        finally:
            if self._signalled:  # it may be late, and would be read before a call
                self._channel.usable = False
            self._pool.give_back(self._channel)

    def abandon(self) -> None:
        """Have the worker killed, and never read the reply."""
        self._pool.give_back(self._channel)

    def drop(self) -> None:
        """Never read the reply; the worker goes on until the call has ended."""
        self._pool.drop(self._channel)
