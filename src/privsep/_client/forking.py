"""What another thread's fork must not cut in two, and what its child must not keep.

Runs in the client.  A forked child shares the daemon by the control socket alone.
An end of a channel that it kept would hide from its parent that the other end has
gone; so every socket between its making and its closing is known here, and the
child closes them all.
"""

from __future__ import annotations

import os
import socket
import threading
import weakref

#: held while something is made that a forked child needs whole, or not at all
undivided = threading.RLock()

_own: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def socket_pair(
    kind: socket.SocketKind = socket.SOCK_STREAM,
) -> tuple[socket.socket, socket.socket]:
    """Return connected AF_UNIX sockets that a forked child closes.

    Raises:
        OSError: as socketpair(2).

    """
    with undivided:
        pair = socket.socketpair(socket.AF_UNIX, kind)
        _own.update(pair)
    return pair


def duplicate(sock: socket.socket) -> socket.socket:
    """Return a second descriptor of `sock`, which a forked child closes.

    Raises:
        OSError: as dup(2).

    """
    with undivided:
        second = sock.dup()
        _own.add(second)
    return second


def _in_child() -> None:
    for sock in _own:
        sock.close()
    _own.clear()
    undivided.release()


os.register_at_fork(
    before=undivided.acquire,
    after_in_parent=undivided.release,
    after_in_child=_in_child,
)
