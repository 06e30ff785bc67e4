"""Start method ``userns``: root in a user namespace of its own.

Runs in the client; the namespaces are made by the helper, in a fresh interpreter.
For development and tests: the daemon has the client's own uid outside, so this is
no boundary against the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from privsep._daemon.environment import kept
from privsep._start.exec import helper_command
from privsep._start.process import Launched, spawn
from privsep.errors import StartError

if TYPE_CHECKING:
    from privsep.context import Context


def launch(
    context: Context, namespaces: tuple[str, ...], main: str = "helper.serve_userns()"
) -> Launched:
    """Run the helper of `context`, which will unshare `namespaces`.

    Args:
        context: the context.
        namespaces: beside the user namespace.
        main: what the helper runs.

    Raises:
        StartError: the context has a user= or group=, of which none is mapped.
        OSError: the interpreter cannot be run.

    """
    if context.user is not None or context.group is not None:
        msg = (
            f"context {context.name!r} has user={context.user!r}, "
            f"group={context.group!r}: in a user namespace only root is mapped"
        )
        raise StartError(msg)
    command = helper_command(main, context, ",".join(namespaces))
    return spawn(command, kept(context.environment))
