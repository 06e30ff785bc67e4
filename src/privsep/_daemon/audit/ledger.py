"""The audit's records in their order: numbered, chained, given to all sinks.

Runs in the audit's writer.  What no sink has is no record: its number is the next
one's, and it is counted.
"""

from __future__ import annotations

import os
import time
from functools import lru_cache
from typing import TYPE_CHECKING, cast

from privsep._daemon.audit.file import File
from privsep._daemon.audit.logs import Journal, Syslog
from privsep._daemon.audit.messages import complain
from privsep.audit import SYSLOG, Chain

if TYPE_CHECKING:
    from privsep._daemon.audit.logs import LogSocket
    from privsep.audit import Audit

    Record = dict[str, object]

_MOST_PENDING = 1024


class Ledger:
    """Owns sinks, numbers and chain.

    Raises:
        OSError: the file cannot be opened.

    """

    def __init__(self, audit: Audit, context: str) -> None:
        self.trouble = ""  #: why records are missing
        self._said = ""
        self._context = context
        self._daemon = os.getppid()
        self._head_every = audit.head_every
        self._pending: list[Record] = []
        self._lost = 0
        self._file = File(audit.file) if audit.file is not None else None
        logs: list[LogSocket] = []
        if audit.syslog is not None:
            logs.append(Syslog(audit.syslog))
        if audit.journald is not None:
            logs.append(Journal(audit.journald, context))
        # The head goes elsewhere than the file, whoever else is there.
        self._witnesses = logs or [Syslog(SYSLOG)]
        self._sinks: list[File | LogSocket] = [*logs]
        if self._file is not None:
            self._sinks.insert(0, self._file)
        self._chain = Chain()
        self._missing = 0  #: that the file lacks since it was written last
        if self._file is not None:
            self._chain.number, self._chain.head, self._missing = self._file.restore()
            self._file.is_new = "start"
        else:
            self._pending.append(self._opening("start"))
        self._head_told = self._chain.number
        self.write([])
        self._said = ""  # what is said before the daemon is ready, nobody hears

    def reopen(self) -> None:
        """Open the file anew before the next record."""
        if self._file is not None:
            self._file.reopen()

    def tell_missing(self) -> None:
        """Say, once, what the file lacked when it was opened."""
        if self._missing:
            complain(f"the audit's file lacks its last {self._missing} records")
            self._missing = 0

    def record(self, event: str, at: int | None = None, **more: object) -> Record:
        """Return a record of what happened at a point in time; default: now."""
        when = time.time_ns() if at is None else at
        more.update(context=self._context, event=event, time=_time(when))
        return more

    def add(self, record: Record) -> None:
        """Have a record written with the next ones, or when there are many."""
        self._pending.append(record)
        if len(self._pending) >= _MOST_PENDING:
            self.write([])

    def lose(self, count: int, why: str) -> None:
        """Count records that did not come here."""
        if count:
            self._lost += count
            self.trouble = why

    def write(self, begun: list[Record]) -> tuple[int, int]:
        """Give all sinks what is pending, and then the beginnings in `begun`.

        Returns:
            How many of `begun` any sink has, and how many all have; the first ones.

        """
        records = [*self._pending, *begun]
        self._pending = []
        if self._file is not None:
            self._file.prepare()
            if self._file.is_new:
                records.insert(0, self._opening(self._file.is_new))
        if not records:
            return 0, 0
        most, least = self._give_to_sinks(records)
        self._count(records[least:])
        every = self._head_every
        if every and self._chain.number // every > self._head_told // every:
            self._tell_head()
        first = len(records) - len(begun)
        return max(0, most - first), max(0, least - first)

    def close(self, outcome: str) -> None:
        """Write the last record, which says how the daemon ended."""
        self.write([])
        self._record_lost()
        self._pending.append(self.record("close", outcome=outcome))
        self.write([])
        if self._lost:
            complain(f"the audit lacks {self._lost} records: {self.trouble}")
        if self._head_every:
            self._tell_head()

    def _opening(self, why: str) -> Record:
        ids = {"daemon": self._daemon, "writer": os.getpid()}
        return self.record("open", prev=self._chain.head, reason=why, **ids)

    def _give_to_sinks(self, records: list[Record]) -> tuple[int, int]:
        """Return how many of the records any sink has, and how many all have."""
        chain = self._chain
        heads = [(chain.number, chain.head)]
        lines: list[bytes] = []
        for record in records:
            lines.append(chain.seal(record))
            heads.append((chain.number, chain.head))
        taken = [sink.take(lines) for sink in self._sinks]
        most = max(taken)
        chain.number, chain.head = heads[most]
        if self._file is not None and taken[0]:
            self._file.is_new = ""
            self._file.keep_head(*heads[taken[0]])
        return most, min(taken)

    def _count(self, missed: list[Record]) -> None:
        """Count records that not all sinks have; say so once, and when it is over."""
        if not missed:
            if self._lost:
                complain(f"the audit is written again, without {self._lost} records")
                self._record_lost()
            self.trouble = self._said = ""
            return
        self.trouble = "; ".join(sink.trouble for sink in self._sinks if sink.trouble)
        for record in missed:
            if record["event"] == "lost":  # it stands for those that it counts
                self._lost += cast("int", record["count"])
            elif record["event"] not in ("open", "begin"):
                # "open" is made again; what begins has one at its end
                self._lost += 1
        if self._lost and self.trouble != self._said:
            complain(f"the audit cannot be written: {self.trouble}")
            self._said = self.trouble

    def _record_lost(self) -> None:
        """Have a record say how many are missing, if any are."""
        if self._lost:
            lost = self.record("lost", count=self._lost, reason=self.trouble)
            self._pending.append(lost)
            self._lost = 0

    def _tell_head(self) -> None:
        self._head_told = self._chain.number
        line = self._chain.witness(self._context)
        for witness in self._witnesses:
            witness.take_head(line)


def _time(nanoseconds: int) -> str:
    """Return a point in time as RFC 3339 has it, in UTC, with microseconds."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1000:06d}Z"


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
