"""Start method ``fork``: a child of a process that has the privileges.

Runs in the client, which is privileged and about to drop.  The child has the
client's memory, so nothing is imported twice; it must never return into the
client's code.
"""

from __future__ import annotations

import _socket
import fcntl
import gc
import os
import socket
import threading
from typing import TYPE_CHECKING

from privsep._client.forking import undivided
from privsep._start.process import ChildProcess, Launched, control_pair
from privsep.context import begin_loading
from privsep.errors import StartError

if TYPE_CHECKING:
    from privsep.context import Context


def launch(context: Context) -> Launched:
    """Fork the daemon of `context`.

    Raises:
        StartError: the process is monkey-patched.
        OSError: as fork(2).

    """
    if socket.socket.recv is not _socket.socket.recv:
        msg = (
            f"context {context.name!r}: a fork would take the monkey-patched modules "
            "of this process along: start it before they are patched, or with 'exec'"
        )
        raise StartError(msg)
    with undivided:
        # A child that another thread forked meanwhile would keep the lock of an
        # import, which nobody is left to release, and the daemon's ends.
        # The client has no use for these; the child shall not have to make them.
        import privsep._daemon.main as daemon  # noqa: PLC0415

        __import__("privsep._daemon.records")
        try:
            context.served_table()
        except StartError:  # the daemon will say so
            pass
        ours, daemons = control_pair()
        stderr, daemons_stderr = socket.socketpair()
        pid = os.fork()
        if pid:
            daemons.close()
            daemons_stderr.close()
    if pid == 0:
        try:
            gc.disable()  # a collection would copy every page of the client
            # Not among 0, 1 and 2, which this process may have closed.
            control = fcntl.fcntl(daemons, fcntl.F_DUPFD_CLOEXEC, 3)
            os.dup2(daemons_stderr.fileno(), 2)
            threading.current_thread().name = "MainThread"
            begin_loading()
            daemon.run(socket.socket(fileno=control), lambda: context, forked=True)
        finally:
            os._exit(1)
    return Launched(ours, stderr, ChildProcess(pid))
