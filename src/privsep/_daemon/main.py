"""The daemon's life: clean up, load, lock down, serve, end.

Runs in the privileged process, after a start method has made it.
"""

from __future__ import annotations

import gc
import os
import sys
from time import monotonic

from privsep._daemon import environment, starter
from privsep._daemon.serve import Service
from privsep._daemon.slots import Slots
from privsep._daemon.supervisor import Supervisor
from privsep._daemon.workers import ProcessWorker
from privsep._lockdown import limits
from privsep._lockdown.ids import Ids
from privsep._lockdown.order import Kept, Lockdown, LockdownError, lock_down
from privsep._lockdown.status import Status, own
from privsep._wire.control import REPLY_SIZE, Reply
from privsep._wire.descriptors import peer_credentials
from privsep._wire.frames import FOREVER
from privsep._wire.messagepack import Packer
from privsep._wire.typed import NamedTuple
from privsep._wire.values import Encoder
from privsep.errors import PrivsepError

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from privsep._daemon.admission import Admission
    from privsep._daemon.audit.auditor import Auditor
    from privsep._daemon.listener import Listener
    from privsep.context import Context, Entry
else:
    import _socket as socket  # without enum and selectors: 4 ms


def run(
    control: socket.socket,
    load: Callable[[], Context],
    *,
    forked: bool = False,
    shared: bool = False,
    drop: bool = True,
    idle_timeout: float = FOREVER,
) -> NoReturn:
    """Be the daemon of the context that `load` returns; never return.

    Every failure before READY goes to the starter in the daemon's own words.

    Args:
        control: the daemon's end of the first client's control socket.
        load: called when the surroundings are clean; imports what is needed.
        forked: as of `environment.clean`.
        shared: the caller, who has fewer privileges, has that very socket, too; a
            deadline has begun.
        drop: give up what the context does not need.  Not so for rootwrap, whose
            commands are to have all that the daemon was started with.
        idle_timeout: seconds after which a daemon ends that runs no call.

    """
    try:
        inherited = environment.clean(control.fileno(), forked=forked, limits=drop)
        if not shared:
            starter.end_with(control)
        loaded = _load(load, inherited)
        if loaded.context.bounds_programs:
            _refuse_clients_uid(loaded.ids.uid, control)
        locked = _lock_down(loaded, drop=drop)
        starter.outlive(control)
        control.send(_ready(locked), socket.MSG_DONTWAIT)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is told
        fail(control, error)

    def serve() -> None:
        served = _served(locked)
        spare = _spare(served, control)
        supervisor = _supervisor(served, idle_timeout=idle_timeout)
        if spare is not None:
            supervisor.adopt(spare)
        supervisor.clients.add(control)
        supervisor.run()

    _end_with(serve)


def listen(
    sock: socket.socket,
    load: Callable[[], Context],
    read_admission: Callable[[], Admission],
) -> NoReturn:
    """Be the daemon of the context that `load` returns, for whoever may connect.

    Every failure before it is ready goes to stderr, in the daemon's own words.

    Args:
        sock: it listens; AF_UNIX, SOCK_SEQPACKET.
        load: as of `run`.
        read_admission: returns who may connect; called again by SIGHUP.

    """
    # A daemon that does not listen need not load them.
    from privsep._daemon.listener import Listener  # noqa: PLC0415
    from privsep._daemon.manager import Manager  # noqa: PLC0415

    try:
        inherited = environment.clean(sock.fileno(), forked=False, limits=True)
        manager = Manager(inherited)
        loaded = _load(load, inherited)
        listener = Listener(sock, read_admission, manager)
        locked = _lock_down(loaded)
    except BaseException as error:  # noqa: BLE001 - as above
        sys.stderr.write("\n".join(filter(None, _words(error))) + "\n")
        os._exit(1)

    def serve() -> None:
        supervisor = _supervisor(_served(locked), listener)
        listener.open(locked.missing)
        supervisor.run()

    _end_with(serve)


def _end_with(serve: Callable[[], None]) -> NoReturn:
    """End this process when `serve` returns, or by its exception."""
    status = 1
    try:
        serve()
        status = 0
    except BaseException:  # noqa: BLE001 - nothing may unwind into the starter
        import traceback  # noqa: PLC0415

        traceback.print_exc()
    finally:
        os._exit(status)


class _Loaded(NamedTuple):
    """A context that is loaded, in a process that has its privileges still."""

    context: Context
    table: dict[bytes, Entry]
    ids: Ids  #: whom the daemon is to run as


class _Locked(NamedTuple):
    """A daemon that is locked down and may serve."""

    context: Context
    table: dict[bytes, Entry]
    outcome: Lockdown
    limit: Callable[[], None]  #: sets the resource limits of what runs calls
    audit: Auditor | None

    @property
    def missing(self) -> list[object]:
        """What a client is told, with READY, of what is not enforced."""
        return [self.outcome.landlock_abi, *self.outcome.not_enforced]


def _load(load: Callable[[], Context], inherited: Mapping[bytes, bytes]) -> _Loaded:
    """Import what the context needs, which has the variables of its choice."""
    context = load()
    for name in context.environment:
        value = inherited.get(os.fsencode(name))
        if value is not None:
            os.environb[os.fsencode(name)] = value
    for name in context.modules:
        __import__(name)
    table = context.begin_serving()
    return _Loaded(context, table, Ids.look_up(context.user, context.group))


def _lock_down(loaded: _Loaded, *, drop: bool = True) -> _Locked:
    context, table, ids = loaded
    audit = None
    if context.audit is not None:
        from privsep._daemon.audit import auditor  # noqa: PLC0415 - only with an audit

        audit = auditor.start(context.audit, context.name, table)
    if drop:
        outcome = lock_down(
            Kept(ids, context.capability_mask, context.sandbox, context.bounds_programs)
        )
    else:
        outcome = Lockdown(Status.of(own()))
    if audit is not None:
        audit.wait_until_ready()
    rlimits = () if context.sandbox is None else context.sandbox.rlimits
    memory = context.memory

    def limit() -> None:
        limits.apply(rlimits, memory)

    if context.isolation == "thread":
        limit()
    return _Locked(context, table, outcome, limit, audit)


class _Served(NamedTuple):
    """A daemon's calls: what answers them, and the slots of what runs them."""

    locked: _Locked
    service: Service
    slots: Slots


def _served(locked: _Locked) -> _Served:
    """Return what workers serve; they share what there is in memory then."""
    context, table = locked.context, locked.table
    service = Service(context.name, table, context.max_message)
    service.logging.install()
    slots = Slots(context.workers)
    supervisor, started = os.getpid(), monotonic()

    def report() -> dict[str, object]:
        return {
            "pid": supervisor,
            "busy": slots.busy(),
            "calls": slots.calls(),
            "uptime": monotonic() - started,
            **_report(locked.outcome),
        }

    context.serve_status(table, report)
    gc.freeze()  # workers share these pages
    gc.enable()
    return _Served(locked, service, slots)


def _spare(served: _Served, control: socket.socket) -> ProcessWorker | None:
    """Fork a worker ahead of the first call, which need not wait for that.

    And ahead of the supervisor, which is made while the worker starts.  Not for
    threads, which need no fork, and not with an audit, whose line to a worker is made
    for its client.
    """
    locked, service, slots = served
    if locked.context.isolation == "thread" or locked.audit is not None:
        return None

    def close_others() -> None:
        control.close()
        slots.close_reader()

    number = slots.take()
    slot = slots.slot(number)
    try:
        return ProcessWorker(None, number, service, slot, locked.limit, close_others)
    except OSError:  # the first call will hear of it
        slots.free.append(number)
        return None


def _supervisor(
    served: _Served,
    listener: Listener | None = None,
    *,
    idle_timeout: float = FOREVER,
) -> Supervisor:
    """Return what starts, reaps and kills workers."""
    locked, service, slots = served
    return Supervisor(
        service,
        slots,
        isolation=locked.context.isolation,
        limit=locked.limit,
        audit=locked.audit,
        listener=listener,
        idle_timeout=idle_timeout,
    )


def _ready(locked: _Locked) -> bytes:
    """Return what says READY: numbers and text, for which no encoder is needed."""
    packer = Packer(unicode_errors="surrogatepass")
    data: bytes = packer.pack([Reply.READY, locked.missing])
    return data


def _refuse_clients_uid(uid: int | None, control: socket.socket) -> None:
    """Raise if the daemon would run as its client: that could stop and limit it."""
    if uid and uid == peer_credentials(control).uid:
        msg = (
            f"user= is uid {uid}, the client's own: processes of one user can stop "
            "each other and change each other's limits; give the daemon its own user"
        )
        raise LockdownError(msg)


def _report(outcome: Lockdown) -> dict[str, object]:
    """Return what of `Context.status` lockdown made so."""
    status = outcome.status
    return {
        "uids": status.uids,
        "gids": status.gids,
        "groups": tuple(sorted(status.groups)),
        "permitted": status.permitted,
        "effective": status.effective,
        "inheritable": status.inheritable,
        "bounding": status.bounding,
        "ambient": status.ambient,
        "no_new_privs": bool(status.no_new_privs),
        "seccomp": status.seccomp,
        "landlock_abi": outcome.landlock_abi,
        "not_enforced": outcome.not_enforced,
    }


def fail(control: socket.socket, error: BaseException) -> NoReturn:
    """Send the reason to the starter, and end."""
    message, text = _words(error)
    half = REPLY_SIZE // 3
    reply = [Reply.FAILED, message[:half], text[-half:]]
    try:
        control.send(Encoder().encode(reply), socket.MSG_DONTWAIT)
    except OSError as trouble:
        sys.stderr.write(f"{message}\n{text}\n{trouble}\n")
    os._exit(1)


def _words(error: BaseException) -> tuple[str, str]:
    """Return what `error` says, and its traceback, unless that says no more."""
    import traceback  # noqa: PLC0415

    said = isinstance(
        error, (LockdownError, LookupError, PrivsepError)
    ) and not isinstance(error, (KeyError, IndexError))
    text = "" if said else "".join(traceback.format_exception(error))
    return f"{error}" if said else f"{type(error).__name__}: {error}", text
