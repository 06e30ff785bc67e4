"""The client of one context: starts its daemon, and makes calls.

Runs in the unprivileged process; any thread may use it.  A daemon that is gone is
found by the next call that asks for a channel, which starts it again; a CALL of
which a byte was sent is never sent again.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from privsep import errors
from privsep._client import forking
from privsep._client.channel import NotStarted
from privsep._client.connection import Connection
from privsep._client.pending import PendingCall
from privsep._lockdown import capabilities
from privsep._lockdown.capability_names import describe
from privsep._start import exec as exec_
from privsep.context import StartOptions, status_entry
from privsep.status import DaemonStatus

if TYPE_CHECKING:
    from privsep._boundary.parameters import Crossing
    from privsep._client.channel import Channel, Received
    from privsep._client.pool import Pool
    from privsep.context import Context, Entry

STATUS = status_entry(dict)
_STOP_TIMEOUT = 10.0
_LOST_TIMEOUT = 1.0


class Client:
    """Starts, keeps and calls the daemon of `context`."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._options = context.start_options
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._prepared: Connection | None = None
        self._started_by = ""
        self._loggers = _lineage(context.logger or context.prefix)
        _clients.add(weakref.ref(self, _clients.discard))

    def start(self, options: StartOptions) -> None:
        """Start the daemon; see `Context.start`."""
        with self._lock:
            if self._connection is not None:
                msg = (
                    f"the daemon of context {self.context.name!r} is started "
                    f"already ({self._connection.method}); stop() it first"
                )
                raise errors.StartError(msg)
            self._options = options
            self._begin()

    def ensure_started(self) -> Connection:
        """Return the connection to the daemon; start it if it is not started."""
        connection = self._connection
        if connection is not None:
            return connection
        with self._lock:
            if self._connection is None:
                self._refuse_second_start()
                self._begin()
            return cast("Connection", self._connection)

    def connection(self) -> Connection | None:
        """Return the connection to the daemon, if there is one."""
        return self._connection

    def is_started(self) -> bool:
        """Return whether a daemon was started, and not found gone."""
        return self._connection is not None

    def _begin(self) -> None:
        """Start the daemon, which a child that is forked meanwhile has nothing of."""
        connection = self._launch()
        with forking.undivided:
            connection.share()
            self._connection = connection

    def _launch(self) -> Connection:
        launched, method = self.context.launch(self._options)
        self._started_by = method
        connection, self._prepared = self._prepared, None
        connection = connection or Connection(self.context)
        connection.use(launched, method)
        return connection

    def prepare(self) -> None:
        """Make what needs no daemon yet, while one starts."""
        self._prepared = Connection(self.context)

    def _refuse_second_start(self) -> None:
        """Raise if the daemon is gone and this process can start no other."""
        if self._started_by == "fork":
            msg = (
                f"the daemon of context {self.context.name!r} is gone; it was "
                "started by fork and cannot be started again by a call: restart the "
                "service; where it still has the privileges, stop() and start() do"
            )
            raise errors.DaemonGone(msg)
        if self._started_by == "exec":
            missing = exec_.needed(self.context) & ~capabilities.permitted()
            if missing:
                msg = (
                    f"the daemon of context {self.context.name!r} is gone; it was "
                    "started by exec before this process dropped its privileges "
                    f"({describe(missing)} is missing now): restart the service"
                )
                raise errors.StartError(msg)

    def stop(self, timeout: float = _STOP_TIMEOUT) -> None:
        """Let go of the daemon; see `Context.stop`.

        A child that another thread forks meanwhile shares the daemon, or has nothing
        of it: with a control socket of which it does not know it would keep it.
        """
        # Nothing in here takes a lock: whoever has the pool's may be waiting for this.
        with self._lock, forking.undivided:
            connection, self._connection = self._connection, None
            self._options = self.context.start_options
            self._started_by = ""
            if connection is not None:
                connection.let_go()
        if connection is not None:
            connection.close(timeout)

    def lost(self, connection: Connection) -> None:
        """Forget `connection`: its daemon is gone."""
        with self._lock:
            if self._connection is not connection:
                return
            self._connection = None
        connection.close(_LOST_TIMEOUT)

    def lost_with(self, pool: Pool) -> None:
        """Forget the connection that `pool` is of: its daemon is gone."""
        connection = self._connection
        if connection is not None and connection.pool is pool:
            self.lost(connection)

    def call(  # noqa: C901 - all the steps of a call: a function more costs each
        self, entry: Entry, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        """Call `entry` in the daemon; return its result or raise its exception."""
        timeout = entry.limit
        deadline = monotonic() + timeout
        level = logging.NOTSET
        for logger in self._loggers:
            if logger.level:
                level = logger.level
                break
        while True:
            connection = self._connection
            if connection is None:
                connection = self.ensure_started()
                deadline = monotonic() + timeout  # starting has one of its own
            pool = connection.pool
            try:
                channel = pool.idle.pop()
            except IndexError:
                other = self._take(connection, deadline, entry)
                if other is None:
                    continue
                channel = other
                timeout = deadline - monotonic()
            try:
                return channel.call(entry, args, kwargs, level, deadline, timeout)
            except NotStarted:
                timeout = deadline - monotonic()
                if timeout <= 0:
                    raise self.not_in_time(entry) from None
            except errors.DaemonGone:
                if channel.daemon_ended:  # the next call need not find it out, too
                    self.lost(connection)
                raise
            finally:
                pool.give_back(channel)

    def begin(
        self, entry: Entry, args: tuple[object, ...], deadline: float
    ) -> PendingCall:
        """Begin a call of `entry`, and return when a worker has taken it.

        Args:
            entry: of the context's table.
            args: its arguments.
            deadline: on the monotonic clock; inf: none.

        Raises:
            CallTimeout, StartError, DaemonGone: as a call.

        """
        while True:
            connection = self.ensure_started()
            pool = connection.pool
            try:
                found: Channel | None = pool.idle.pop()
            except IndexError:
                found = self._take(connection, deadline, entry)
            if found is None:
                continue
            left = deadline - monotonic()
            try:
                if found.fresh:  # now: whoever is interrupted in it has nothing to end
                    found.at_first()
                why = found.begin(entry, args, {}, logging.NOTSET, deadline, left)
                if why is not None:
                    found.finish(entry, deadline, why)
            except NotStarted:
                pool.give_back(found)
            except BaseException:
                pool.give_back(found)
                raise
            else:
                lost = partial(self.lost, connection)
                return PendingCall(found, pool, entry, deadline, lost)

    def call_crossing(
        self,
        crossing: Crossing,
        entry: Entry,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> object:
        """Call `entry`, of whose values some cross as other data than they are."""
        lowered = crossing.lower(args, kwargs)
        return crossing.rebuild(self.call(entry, *lowered))

    def begin_stream(
        self, entry: Entry, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[Pool, Channel, float, Received]:
        """Begin a stream of `entry`.

        Returns:
            The pool, and a channel of it for the caller to give back; the deadline of
            the whole; the first frame.

        """
        deadline = monotonic() + entry.limit
        while True:
            connection = self._connection
            if connection is None:
                connection = self.ensure_started()
                deadline = monotonic() + entry.limit
            pool = connection.pool
            try:
                channel = pool.idle.pop()
            except IndexError:
                other = self._take(connection, deadline, entry)
                if other is None:
                    continue
                channel = other
            try:
                left = deadline - monotonic()
                why = channel.begin(entry, args, kwargs, self.level(), deadline, left)
                frame = (*why, None) if why else channel.next_frame(entry, deadline)
            except NotStarted:
                pool.give_back(channel)
                if deadline <= monotonic():
                    raise self.not_in_time(entry) from None
            except BaseException:
                if channel.daemon_ended:
                    self.lost(connection)
                pool.give_back(channel)
                raise
            else:
                return pool, channel, deadline, frame

    def row_for(
        self, entry: Entry, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> Entry:
        """Return the row of a stream that begins, or a call that is awaited.

        It is `entry`, but in a test that wants another (`privsep.testing`).
        """
        del args, kwargs
        return entry

    def level(self) -> int:
        """Return the least level of records that the client handles."""
        return next(
            (logger.level for logger in self._loggers if logger.level), logging.NOTSET
        )

    def status(self) -> DaemonStatus:
        """Return what the daemon says of itself; see `Context.status`."""
        answer = cast("dict[str, Any]", self.call(STATUS, (), {}))
        connection = self.ensure_started()
        return DaemonStatus(
            context=self.context.name,
            method=connection.method,
            isolation=self.context.isolation,
            workers=self.context.workers,
            **answer,
        )

    def _take(
        self, connection: Connection, deadline: float, entry: Entry
    ) -> Channel | None:
        """Return a channel that is opened or waited for; None: the daemon is gone."""
        try:
            channel = connection.pool.take(deadline)
        except ConnectionError:
            self.lost(connection)
            return None
        if channel is None:
            raise self.not_in_time(entry)
        return channel

    def not_in_time(self, entry: Entry) -> errors.CallTimeout:
        """Return the error of a call that found no free worker."""
        return errors.CallTimeout(
            f"{entry.name}() did not start in time: all "
            f"{self.context.workers} workers were busy (workers=)"
        )

    def after_fork_in_child(self) -> None:
        """Share the daemon, but nothing that belongs to the parent's threads."""
        self._lock = threading.Lock()
        if self._connection is not None:
            self._connection.after_fork_in_child()


def _lineage(name: str) -> list[logging.Logger]:
    """Return the logger of `name` and all above it; the first level counts.

    Each is made here, so that none can come in between later, and a call need not
    ask logging for the effective level, which costs it a few percent.
    """
    names = name.split(".")
    dotted = [".".join(names[:count]) for count in range(len(names), 0, -1)]
    return [*map(logging.getLogger, dotted), logging.getLogger()]


_clients: set[weakref.ref[Client]] = set()  #: as in `forking`


def _all_clients() -> list[Client]:
    found = [reference() for reference in list(_clients)]
    return [client for client in found if client is not None]


def new_client(context: Context) -> Client:
    """Return the one client of `context`, made at its first use."""
    with forking.undivided:
        if context.client is None:
            context.client = Client(context)
        return context.client


def started_contexts() -> list[Context]:
    """Return the contexts that are started in this process."""
    return [client.context for client in _all_clients() if client.is_started()]


def _after_fork_in_child() -> None:
    for client in _all_clients():
        client.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
