"""The starter while the daemon starts: it ends with it, and gives up with it.

Runs in the privileged process, from its first step until it is ready.  An import
may hang for ever, so the kernel is asked to kill, with SIGIO, when the starter closes
its end of the control socket.

Who has the very open file description that was given an owner (F_SETOWN) chooses the
signal and the moment, with the rights of whoever set the owner: fcntl(2).  So one that
came from an unprivileged caller gets none, and a deadline ends what hangs; and none
keeps its owner.
"""

from __future__ import annotations

import fcntl
import os
import select

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    import signal
    import socket
else:
    import _signal as signal  # without enum and selectors: 4 ms


def end_with(control: socket.socket) -> None:
    """Have this process end when the other end of `control` closes."""
    if os.getpid() == 1:  # the init of a namespace is spared default actions
        signal.signal(signal.SIGIO, lambda *_: os._exit(1))
    fcntl.fcntl(control, fcntl.F_SETOWN, os.getpid())
    _signal_on_events(control, wanted=True)
    poll = select.poll()
    poll.register(control, 0)
    if poll.poll(0):  # it has closed before the kernel was asked
        os._exit(1)


def outlive(control: socket.socket) -> None:
    """End no longer: from now on the event loop looks after `control`.

    Nor at the deadline that the helper of ``sudo`` began with.
    """
    signal.setitimer(signal.ITIMER_REAL, 0)
    fcntl.fcntl(control, fcntl.F_SETOWN, 0)
    _signal_on_events(control, wanted=False)
    if os.getpid() == 1:
        signal.signal(signal.SIGIO, signal.SIG_DFL)


def _signal_on_events(control: socket.socket, *, wanted: bool) -> None:
    flags = fcntl.fcntl(control, fcntl.F_GETFL) & ~os.O_ASYNC
    fcntl.fcntl(control, fcntl.F_SETFL, flags | (os.O_ASYNC if wanted else 0))
