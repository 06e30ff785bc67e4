"""The client of a context in a test: it takes notes, and lets daemons die.

Runs in a test's process, in the place of the context's own client.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

from privsep import errors
from privsep._client.client import STATUS, Client
from privsep._client.connection import Connection
from privsep._start import methods, userns
from privsep._start.handshake import wait_until_ready
from privsep._testing import faults
from privsep._testing.call import Call
from privsep._testing.in_process import InProcess, here
from privsep.context import StartOptions, other_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from privsep._boundary.parameters import Crossing
    from privsep._testing.faults import Fault
    from privsep.context import Context, Entry
    from privsep.status import DaemonStatus

# Without pids: there the supervisor would be an init, which its workers cannot kill.
_NAMESPACES = ("net", "mount", "uts", "ipc")
_SERVE_USERNS = "from privsep._testing import faults; faults.serve_userns()"
_END_WITHIN = 10.0  # seconds


class _Mortal(Connection):
    """A connection to a daemon that a test may kill."""

    def kill(self) -> None:
        """Kill the daemon, unless it is dead, and wait until it is."""
        if self._process is None or self._process.wait(0):
            return
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait(_END_WITHIN)


class RecordingClient(Client):
    """Makes the calls of `context` as a test wants them.

    Args:
        context: whose calls.
        mode: how its daemon runs, however the service starts it.

    """

    def __init__(
        self, context: Context, mode: Literal["in-process", "fork", "userns"]
    ) -> None:
        super().__init__(context)
        self.calls: list[Call] = []
        self.faults: dict[int, Literal["before"] | Fault] = {}
        self._mode = mode
        self._noting = threading.Lock()

    # -- the daemon ------------------------------------------------------------

    def _launch(self) -> InProcess | _Mortal:
        methods.check(self._options)
        # What a dead daemon means is what it would mean to the service.
        self._started_by = "fork" if self._options.method == "fork" else ""
        if self._mode == "in-process":
            return InProcess(self.context)
        deadline = self._options.deadline
        if self._mode == "fork":
            with faults.served():
                options = StartOptions("fork", deadline=deadline)
                launched, _ = methods.launch(self.context, options)
        else:
            launched = userns.launch(self.context, _NAMESPACES, _SERVE_USERNS)
            what = f"context {self.context.name!r} could not be started by userns"
            _, launched = wait_until_ready(launched, what, "", deadline)
        connection = _Mortal(self.context)
        connection.use(launched, self._mode)
        return connection

    def _kill(self, connection: Connection) -> None:
        """Have the daemon dead, and forget it."""
        if isinstance(connection, (InProcess, _Mortal)):
            connection.kill()
        self.lost(connection)

    def status(self) -> DaemonStatus:
        """Return what the daemon says of itself; see `Context.status`."""
        if self._mode == "in-process":
            raise errors.StartError("in-process there is no daemon to have a status")
        return super().status()

    # -- calls -----------------------------------------------------------------

    def call(
        self, entry: Entry, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        """Make a call, on record."""
        if here.serving is not None:
            return self._call_in_place(here.serving, entry, args, kwargs)
        if entry.name == STATUS.name:
            return super().call(entry, args, kwargs)

        def make(row: Entry) -> object:
            return super(RecordingClient, self).call(row, args, kwargs)

        return self._record(Call(entry.name, *args, **kwargs), entry, make)

    def call_crossing(
        self,
        crossing: Crossing,
        entry: Entry,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> object:
        """Make a call, on record, with what the service has given and gets."""
        if here.serving is not None:
            return self._call_in_place(here.serving, entry, args, kwargs)

        def make(row: Entry) -> object:
            lowered = crossing.lower(args, kwargs)
            return crossing.rebuild(super(RecordingClient, self).call(row, *lowered))

        return self._record(Call(entry.name, *args, **kwargs), entry, make)

    def row_for(
        self, entry: Entry, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> Entry:
        """Put a stream, or an awaited call, on record; how it ends is not noted."""
        return self._note(Call(entry.name, *args, **kwargs), entry)[0]

    def _note(
        self, call: Call, entry: Entry
    ) -> tuple[Entry, Literal["before"] | Fault | None]:
        """Put a call on record; return the row to call, and the fault to come."""
        with self._noting:
            self.calls.append(call)
            fault = self.faults.pop(len(self.calls), None)
        if fault == "before":
            self._kill(self.ensure_started())
        elif fault is not None:
            entry = faults.fatal(entry, fault)
        return entry, fault

    def _record(
        self, call: Call, entry: Entry, make: Callable[[Entry], object]
    ) -> object:
        row, fault = self._note(call, entry)
        try:
            call.result = make(row)
        except BaseException as error:
            call.error = error
            connection = self.connection()
            if fault in ("during", "after") and connection is not None:
                self._kill(connection)
            raise
        return call.result

    def _call_in_place(
        self,
        serving: Context,
        entry: Entry,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> object:
        """Do as a daemon would in which an entrypoint calls one."""
        if serving is not self.context:
            raise errors.Refused(other_context(entry, self.context, serving))
        return entry.function(*args, **kwargs)
