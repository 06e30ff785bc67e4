"""Commands by way of rootwrap's daemon.

Runs in the client.  All of it is `privsep.rootwrap.Client`; here it has oslo.rootwrap's
arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from privsep import StartError
from privsep.rootwrap import Client as _Client

if TYPE_CHECKING:
    from collections.abc import Sequence


class Client:
    """Runs commands by way of a daemon, which it starts.  Any thread may use it.

    The daemon is started by the first command, again where it has died or timed out,
    and ends when this is gone.

    Args:
        rootwrap_daemon_cmd: what starts it, as
            ``["sudo", "nova-rootwrap-daemon", "/etc/nova/rootwrap.conf"]``.

    """

    def __init__(self, rootwrap_daemon_cmd: Sequence[str]) -> None:
        self._client = _Client(rootwrap_daemon_cmd)

    def execute(
        self, cmd: Sequence[str], stdin: str | bytes | None = None
    ) -> tuple[int, str, str]:
        """Run a command, and wait for its end.

        Args:
            cmd: its words.
            stdin: what it can read.

        Returns:
            The exit status, or minus the signal that ended it; what it wrote to its
            standard output and standard error, where bytes that are no text are
            surrogates.  99 and nothing if no filter allows it, 96 and nothing if there
            is no such executable.

        Raises:
            Exception: the daemon could not be started; the message has its words.
            OSError: there is no such daemon, or it ended meanwhile; the command may go
                on.

        """
        try:
            code, out, error = self._client.execute(cmd, stdin)
        except StartError as why:
            if isinstance(why.__cause__, OSError):
                raise why.__cause__ from why
            msg = f"Failed to spawn rootwrap process.\n{why}"
            raise Exception(msg) from why  # noqa: TRY002 - as oslo.rootwrap does
        return code, out, error
