"""The daemon's life: clean up, load, lock down, serve, end.

Runs in the privileged process, after a start method has made it.
"""

from __future__ import annotations

import gc
import os
import sys
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from privsep._daemon import environment, starter
from privsep._daemon.serve import Service
from privsep._daemon.supervisor import Supervisor
from privsep._lockdown import limits
from privsep._lockdown.ids import Ids
from privsep._lockdown.order import Kept, Lockdown, LockdownError, lock_down
from privsep._wire.control import REPLY_SIZE, Reply
from privsep._wire.descriptors import peer_credentials
from privsep._wire.values import Encoder
from privsep.errors import StartError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from privsep._daemon.audit.auditor import Auditor
    from privsep.context import Context, Entry


def run(
    control: socket.socket, load: Callable[[], Context], *, forked: bool = False
) -> NoReturn:
    """Be the daemon of the context that `load` returns; never return.

    Every failure before READY goes to the starter in the daemon's own words.

    Args:
        control: the daemon's end of the first client's control socket.
        load: called when the surroundings are clean; imports what is needed.
        forked: as of `environment.clean`.

    """
    try:
        locked = _lock_down(control, load, forked=forked)
        starter.outlive(control)
        missing = [locked.outcome.landlock_abi, *locked.outcome.not_enforced]
        control.send(Encoder().encode([Reply.READY.value, missing]))
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is told
        fail(control, error)
    status = 1
    try:
        _serve(control, locked)
        status = 0
    except BaseException:  # noqa: BLE001 - nothing may unwind into the starter
        import traceback  # noqa: PLC0415

        traceback.print_exc()
    finally:
        os._exit(status)


class _Locked(NamedTuple):
    """A daemon that is locked down and may serve."""

    context: Context
    table: dict[bytes, Entry]
    outcome: Lockdown
    limit: Callable[[], None]  #: sets the resource limits of what runs calls
    audit: Auditor | None


def _lock_down(
    control: socket.socket, load: Callable[[], Context], *, forked: bool
) -> _Locked:
    inherited = environment.clean(control.fileno(), forked=forked)
    starter.end_with(control)
    context = load()
    for name in context.environment:
        value = inherited.get(os.fsencode(name))
        if value is not None:
            os.environb[os.fsencode(name)] = value
    for name in context.modules:
        __import__(name)
    table = context.begin_serving()
    ids = Ids.look_up(context.user, context.group)
    if context.bounds_programs:
        _refuse_clients_uid(ids.uid, peer_credentials(control).uid)
    audit = None
    if context.audit is not None:
        from privsep._daemon.audit import auditor  # noqa: PLC0415 - only with an audit

        audit = auditor.start(context.audit, context.name, table)
    outcome = lock_down(
        Kept(ids, context.capability_mask, context.sandbox, context.bounds_programs)
    )
    if audit is not None:
        audit.wait_until_ready()
    rlimits = () if context.sandbox is None else context.sandbox.rlimits
    limit = partial(limits.apply, rlimits, context.memory)
    if context.isolation == "thread":
        limit()
    return _Locked(context, table, outcome, limit, audit)


def _serve(control: socket.socket, locked: _Locked) -> None:
    """Serve until the last client has gone; the first one makes its request now."""
    context, table, outcome, limit, audit = locked
    service = Service(context.name, table, context.max_message)
    service.logging.install()
    supervisor = Supervisor(
        service,
        isolation=context.isolation,
        workers=context.workers,
        limit=limit,
        audit=audit,
    )
    report = partial(_report, supervisor, outcome, monotonic())
    context.serve_status(table, report)
    supervisor.add_client(control)
    gc.freeze()  # workers share these pages
    gc.enable()
    supervisor.prepare_worker()
    supervisor.run()


def _refuse_clients_uid(uid: int | None, client: int) -> None:
    """Raise if the daemon would run as its client: that could stop and limit it."""
    if uid == client != 0:
        msg = (
            f"user= is uid {uid}, the client's own: processes of one user can stop "
            "each other and change each other's limits; give the daemon its own user"
        )
        raise LockdownError(msg)


def _report(
    supervisor: Supervisor, outcome: Lockdown, started: float
) -> dict[str, object]:
    """Return what `Context.status` shows; runs in a worker."""
    status = outcome.status
    return {
        "pid": supervisor.pid,
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
        "busy": supervisor.slots.busy(),
        "calls": supervisor.slots.calls(),
        "uptime": monotonic() - started,
    }


def fail(control: socket.socket, error: BaseException) -> NoReturn:
    """Send the reason to the starter, and end.

    A traceback goes along, but where the message says all.
    """
    import traceback  # noqa: PLC0415

    said = isinstance(
        error, (LockdownError, LookupError, StartError)
    ) and not isinstance(error, (KeyError, IndexError))
    text = "" if said else "".join(traceback.format_exception(error))
    message = f"{error}" if said else f"{type(error).__name__}: {error}"
    half = REPLY_SIZE // 3
    reply = [Reply.FAILED.value, message[:half], text[-half:]]
    try:
        control.send(Encoder().encode(reply))
    except OSError as trouble:
        sys.stderr.write(f"{message}\n{text}\n{trouble}\n")
    os._exit(1)
