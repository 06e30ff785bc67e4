"""What each worker is doing, in memory that supervisor and workers share.

Runs in the supervisor and the workers.  A worker writes the deadline of the call
that it runs into its slot and clears it when the reply is sent; no system call.
The supervisor looks at a slot when the deadline that it was told of comes.  It is
told over a pipe, and only when it would not look in time anyway: about once per
deadline's length, not once per call.

Neither side relies on the order in which the other's stores become visible: what
is decided by a look is decided on values stored at least `_MARGIN` before.
"""

from __future__ import annotations

import mmap
import os
import struct
from time import monotonic

from privsep._wire.frames import FOREVER, Interrupted
from privsep._wire.typed import NamedTuple

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from privsep._daemon.audit.recorder import Recorder

_NOTICE = struct.Struct("Id")
_MARGIN = 0.01

_NEW = -FOREVER

LOOK_AGAIN = _MARGIN
READ_WITHIN = 60.0  # seconds for all of a CALL, if others wait for a worker
ENDED = -1.0


class Notice(NamedTuple):
    """What a worker tells the supervisor: look at my slot then, or I `ENDED`."""

    slot: int
    at: float


class Slots:
    """The slots of `count` workers, and the pipe for notices."""

    def __init__(self, count: int) -> None:
        memory = memoryview(mmap.mmap(-1, count * 18))
        # On the monotonic clock: when the call must end; negative: since when the
        # worker reads one; 0: idle.
        self._deadlines = memory[: count * 8].cast("d")
        self._calls = memory[count * 8 : count * 16].cast("Q")  #: that have ended
        self._retire = memory[count * 16 : count * 17]
        self._detached = memory[count * 17 : count * 18]
        self.free = list(range(count))
        self.reader, self._writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.reader, False)

    def take(self) -> int:
        """Return the number of a slot, made anew."""
        number = self.free.pop()
        self._deadlines[number] = _NEW
        self._retire[number] = self._detached[number] = 0
        return number

    def deadline(self, number: int) -> float | None:
        """Return when the running call must end (monotonic clock); None: idle."""
        value = self._deadlines[number]
        return value if value > 0 else None

    def reading_since(self, number: int) -> float | None:
        """Return when the worker began to read a CALL that is not there yet."""
        value = self._deadlines[number]
        return -value if _NEW < value < 0 else None

    def is_new(self, number: int) -> bool:
        """Return whether the worker has not begun its first call."""
        return self._deadlines[number] == _NEW

    def busy(self) -> int:
        """Return how many workers run a call."""
        return sum(deadline > 0 for deadline in self._deadlines)

    def calls(self) -> int:
        """Return how many calls have ended."""
        return sum(self._calls)

    def ask_to_retire(self, number: int) -> None:
        """Have the worker end after the call that it runs."""
        self._retire[number] = 1

    def is_detached(self, number: int) -> bool:
        """Return whether the worker ran a call that may leave children behind."""
        return bool(self._detached[number])

    def notices(self) -> list[Notice]:
        """Return the notices that have arrived."""
        try:
            data = os.read(self.reader, _NOTICE.size * 256)
        except BlockingIOError:
            return []
        return [Notice(*notice) for notice in _NOTICE.iter_unpack(data)]

    def slot(self, number: int, audit: Recorder | None = None) -> Slot:
        """Return the worker's side of a slot."""
        kind = Slot if audit is None else AuditedSlot
        slot = kind(
            number,
            self._deadlines,
            self._calls,
            self._retire,
            self._detached,
            self._writer,
        )
        slot.audit = audit
        return slot

    def close_reader(self) -> None:
        """Close what only the supervisor needs."""
        os.close(self.reader)


class Slot:
    """A worker's side of its slot."""

    def __init__(
        self,
        number: int,
        deadlines: memoryview[float],
        calls: memoryview[int],
        retire: memoryview,
        detached: memoryview,
        writer: int,
    ) -> None:
        self._number = number
        self._deadlines = deadlines
        self._calls = calls
        self._retire = retire
        self._detached = detached
        self._writer: int | None = writer
        self._looked_at = 0.0
        self._read = -1  #: after how many calls it began to read one
        self._reads_since = 0.0
        self.audit: Recorder | None = None  #: where its calls are recorded
        self.loop: AbstractEventLoop | None = None  #: in which its coroutines run

    def begin(self, timeout: float) -> bool:
        """Begin a call that must end within `timeout` seconds (may be inf).

        Return whether the worker shall retire.
        """
        deadline = monotonic() + timeout
        self._deadlines[self._number] = deadline
        if not monotonic() + _MARGIN < self._looked_at <= deadline:
            self._looked_at = deadline
            if deadline != FOREVER and self._writer is not None:
                os.write(self._writer, _NOTICE.pack(self._number, deadline))
        return bool(self._retire[self._number])

    def begin_reading(self) -> None:
        """Say that a part of a CALL is there, and the rest is being read.

        Raises:
            Interrupted: it takes too long, and others wait.

        """
        now = monotonic()
        if self._read != self._calls[self._number]:
            self._read = self._calls[self._number]
            self._reads_since = now
        self._deadlines[self._number] = -now
        if self._retire[self._number] and self._reads_since + READ_WITHIN < now:
            raise Interrupted

    def end(self) -> bool:
        """End a call, its reply being sent; return whether the worker shall retire."""
        self._deadlines[self._number] = 0.0
        self._calls[self._number] += 1
        return bool(self._retire[self._number])

    def detach(self) -> None:
        """Let children of this worker survive it; it serves no other call."""
        self._detached[self._number] = self._retire[self._number] = 1

    def ended(self) -> None:
        """Tell the supervisor that the worker, a thread, ends."""
        if self._writer is not None:
            os.write(self._writer, _NOTICE.pack(self._number, ENDED))

    def disown(self) -> None:
        """Leave the slot alone from now on: this process is not its worker."""
        self._deadlines = memoryview(bytearray(8 * (self._number + 1))).cast("d")
        self._calls = memoryview(bytearray(8 * (self._number + 1))).cast("Q")
        self._writer = None
        if self.audit is not None:
            self.audit.close()


class AuditedSlot(Slot):
    """The side of a worker whose calls are recorded."""

    def end(self) -> bool:
        """End a call and have that recorded, now that the reply is sent."""
        retire = Slot.end(self)  # sooner than by super()
        if self.audit is not None:
            self.audit.end()
        return retire
