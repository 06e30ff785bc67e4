"""Dropping the privileges of the service itself.

Runs in the service, once its daemons are started.
"""

from __future__ import annotations

import os
import sys

from privsep.errors import PrivsepError

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from privsep.context import Context


def _started_contexts() -> list[Context]:
    """Return the contexts whose daemons this process has started."""
    module = sys.modules.get("privsep._client.client")
    return [] if module is None else module.started_contexts()


def drop_privileges(user: str | int, group: str | int | None = None) -> None:
    """Give up every privilege of this process, irrevocably and verified.

    Afterwards it runs as `user` with that user's groups, all capability sets
    are empty, no_new_privs is set, and no other process of `user` can trace it.
    Call it after ``context.start("fork")`` or ``"exec"`` and before the first
    thread starts.

    Args:
        user: name or uid; not root.
        group: name or gid; default: the user's groups.

    Raises:
        PrivsepError: a context that is started has this very user=; or it did not
            work, in whole or in part, and the process should end; the message says
            why.  (A daemon without user= that a process without CAP_SETUID started
            has its uid, and there is no other to choose.)
        ValueError: the user is root.

    Sources: credentials(7), capabilities(7), prctl(2).

    """
    from privsep._lockdown.ids import Ids  # noqa: PLC0415 - most never need it
    from privsep._lockdown.order import (  # noqa: PLC0415
        Kept,
        LockdownError,
        lock_down,
    )

    try:
        ids = Ids.look_up(user, group)
    except LookupError as error:
        raise PrivsepError(str(error)) from None
    for context in _started_contexts():
        if Ids.look_up(context.user, None).uid == ids.uid:
            msg = (
                f"the daemon of context {context.name!r} runs as {user!r}, too: a "
                "process of the same user can stop it; choose another user for one"
            )
            raise PrivsepError(msg)
    if ids.uid == 0:
        msg = "drop_privileges(): user is root, which gives up nothing"
        raise ValueError(msg)
    try:
        lock_down(Kept(ids, 0))
    except LockdownError as error:
        why = "to change the user takes root, or CAP_SETUID and CAP_SETGID"
        groups = {*(ids.groups or ())}
        if ids.uid == os.geteuid() and groups != {*os.getgroups()}:
            why = (
                f"this process is that user, but its groups are {os.getgroups()}, not "
                f"the user's, {sorted(groups)}: start it with these, or as root"
            )
        msg = f"could not drop privileges to {user!r}: {error} ({why})"
        raise PrivsepError(msg) from error
