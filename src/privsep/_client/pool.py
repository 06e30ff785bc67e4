"""The pool of channels to one daemon.

Runs in the client.  A caller takes an idle channel, or has one opened while there
are fewer than the daemon has workers, or waits in turn for one that is given back.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from privsep._client.channel import Channel
    from privsep._client.loops import LoopTurn


class Place:
    """The right to have one channel, for as long as anybody holds it."""


class Turn:
    """A caller that waits; it is handed a channel, or the place for one."""

    def __init__(self) -> None:
        self.channel: Channel | None = None
        self.place: Place | None = None
        self._come = threading.Lock()
        self._come.acquire()

    def hand(self, channel: Channel | None, place: Place | None = None) -> None:
        """Give it what it waits for."""
        self.channel = channel
        self.place = place
        self.come()

    def is_over(self) -> bool:
        """Return whether the caller will never come to know."""
        return False

    def can_go_on(self) -> bool:
        """Return whether the caller comes to know at once."""
        return True

    def come(self) -> None:
        """Wake the caller, from whichever thread this is."""
        self._come.release()

    def wait(self, seconds: float) -> bool:
        """Wait until the turn has come; return False if it has not in time."""
        if seconds >= threading.TIMEOUT_MAX:
            return self._come.acquire()
        return self._come.acquire(timeout=max(seconds, 0.0))


class Pool:
    """At most `size` channels, made by `open_channel`, shared by all threads.

    `open_channel` takes the deadline (monotonic clock) by which it must be done.

    Taking an idle channel and giving it back need no lock: list.pop and
    list.append are atomic.  Whoever waits first queues and then looks for an idle
    channel; whoever gives back first appends and then looks at the queue; so one
    of the two sees the other.

    A signal's handler that raises may do so between any two steps, and then the
    channel, or the place for one, is lost.  So nothing here holds on to what is
    not idle: what is lost is gone, and its place is free again.

    The garbage collector may drop a channel there, too, which is why the lock
    may be taken again by who has it.
    """

    def __init__(self, size: int, open_channel: Callable[[float], Channel]) -> None:
        self._size = size
        self._open_channel = open_channel
        self._lock = threading.RLock()
        self.idle: list[Channel] = []  #: take by pop(), bring by give_back()
        self._places: weakref.WeakSet[Place] = weakref.WeakSet()  #: that are taken
        self._turns: deque[Turn] = deque()
        self._closed = False

    def take(self, deadline: float) -> Channel | None:
        """Open a channel or wait for one; None if none came before `deadline`.

        For a caller that found none in `idle`, from which it may take by itself.

        Raises:
            CallTimeout, OSError: as `open_channel`.

        """
        turn = Turn()
        place = self._place_or_queue(turn)
        if place is not None:
            return self._open(deadline, place)
        return self._wait(turn, deadline)

    async def take_in_turn(self, turn: LoopTurn, deadline: float) -> Channel | None:
        """Do as `take`, and let the loop of `turn` go on meanwhile.

        Raises:
            CallTimeout: the daemon takes no request at the moment.
            OSError: as `open_channel`.

        """
        turn.look_again = self._settle
        place = self._place_or_queue(turn)
        if place is None:
            try:
                in_time = await turn.wait_in_loop(deadline - monotonic())
            except BaseException:  # the task is cancelled
                if not self._give_up(turn):
                    self._pass_on(turn)
                raise
            if not in_time and self._give_up(turn):
                return None
            if turn.channel is not None:
                return turn.channel
            place = cast("Place", turn.place)
        return self._open(0.0, place)

    def _place_or_queue(self, turn: Turn) -> Place | None:
        """Return a place for a channel, or queue `turn`."""
        with self._lock:
            if len(self._places) < self._size:
                place = Place()
                self._places.add(place)
                return place
            self._turns.append(turn)
        self._settle()
        return None

    def give_back(self, channel: Channel) -> None:
        """Return a channel after a call, usable or not."""
        if not channel.usable:
            channel.cancel()
            self.drop(channel)
            return
        if self._turns and self._hand_over(channel):
            return
        self.idle.append(channel)
        if self._turns or self._closed:
            self._settle()

    def _wait(self, turn: Turn, deadline: float) -> Channel | None:
        try:
            in_time = turn.wait(deadline - monotonic())
        except BaseException:  # a signal's handler raised
            if not self._give_up(turn):
                self._pass_on(turn)
            raise
        if not in_time and self._give_up(turn):
            return None
        return turn.channel or self._open(deadline, cast("Place", turn.place))

    def _give_up(self, turn: Turn) -> bool:
        """Leave the queue; return False if the turn had come already."""
        with self._lock:
            if turn in self._turns:
                self._turns.remove(turn)
                return True
            return False

    def _pass_on(self, turn: Turn) -> None:
        if turn.channel is not None:
            self.give_back(turn.channel)
        else:
            self._free(turn.place)

    def _open(self, deadline: float, place: Place) -> Channel:
        try:
            channel = self._open_channel(deadline)
        except BaseException:
            self._free(place)
            raise
        channel.place = place
        return channel

    def _hand_over(self, channel: Channel) -> bool:
        with self._lock:
            turn = self._next_turn()
            if turn is not None:
                turn.hand(channel)
            return turn is not None

    def drop(self, channel: Channel) -> None:
        """Close a channel, whatever its worker does, and free its place."""
        channel.close()
        place, channel.place = channel.place, None
        self._free(place)

    def _settle(self) -> None:
        """Bring idle channels, free places and waiting callers together.

        If it is closed, close the idle ones.
        """
        with self._lock:
            while self._turns and (channel := self._pop_idle()):
                turn = self._next_turn()
                if turn is None:
                    self.idle.append(channel)
                    break
                turn.hand(channel)
            while len(self._places) < self._size and (turn := self._next_turn()):
                place = Place()
                self._places.add(place)
                turn.hand(None, place)
            idle = self.idle[:] if self._closed else []
            del self.idle[: len(idle)]
        for channel in idle:
            channel.close()

    def _free(self, place: Place | None) -> None:
        """Let whoever waits first have the place of a channel."""
        with self._lock:
            turn = self._next_turn()
            if turn is not None:
                turn.hand(None, place)
            elif place is not None:
                self._places.discard(place)

    def _pop_idle(self) -> Channel | None:
        try:  # others take one without the lock
            return self.idle.pop()
        except IndexError:
            return None

    def _next_turn(self) -> Turn | None:
        """Return who has waited longest, now out of the queue; None: nobody waits.

        Who cannot go on now keeps its place in the queue, and looks again when it can.
        """
        for turn in tuple(self._turns):
            can_go_on = turn.can_go_on()
            if can_go_on or turn.is_over():
                self._turns.remove(turn)
            if can_go_on:
                return turn
        return None

    def close(self) -> None:
        """Close idle channels now and the others when they come back."""
        self._closed = True
        self._settle()
