"""The supervisor's event loop: whose turn it is when a descriptor has something.

Runs in the supervisor.  It has no timers: who wants to be woken says until when, at
each turn.
"""

from __future__ import annotations

import select

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST_POLL = 3600.0  # seconds: epoll takes neither infinity nor a month


class Loop:
    """Descriptors, and who is called when one of them is ready."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}

    def watch(
        self,
        descriptor: int,
        handler: Callable[[], None],
        events: int = select.EPOLLIN,
    ) -> None:
        """Call `handler` at `events`, and when the other end is closed."""
        self._epoll.register(descriptor, events)
        self._handlers[descriptor] = handler

    def change(self, descriptor: int, events: int) -> None:
        """Call the handler of `descriptor` at `events` instead."""
        self._epoll.modify(descriptor, events)

    def unwatch(self, descriptor: int) -> None:
        """Call nobody any more, if anybody was."""
        if self._handlers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def wait(self, seconds: float | None) -> list[int]:
        """Return which descriptors are ready, at the latest after `seconds`."""
        if seconds is not None:
            seconds = min(max(0.0, seconds), _LONGEST_POLL)
        return [descriptor for descriptor, _ in self._epoll.poll(seconds)]

    def handle(self, ready: list[int]) -> None:
        """Call the handlers of the descriptors that are `ready`."""
        for descriptor in ready:
            handler = self._handlers.get(descriptor)
            if handler is not None:  # an earlier one may have removed it
                handler()

    def close(self) -> None:
        """Close it, in a worker."""
        self._epoll.close()
