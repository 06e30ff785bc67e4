"""What another thread's fork must not cut in two, and what its child must not keep.

Runs in the client.  A forked child shares the daemon by the control socket alone, once
there is a connection.  An end of a channel that it kept would hide from its parent that
the other end has gone; so every socket between its making and its closing is known
here, and the child closes them all.
"""

from __future__ import annotations

import os
import socket
import threading
import weakref

#: held while something is made that a forked child needs whole, or not at all
undivided = threading.RLock()

#: plain references in a plain set: what a forked child does with a WeakSet costs it
#: twenty page faults
_own: set[weakref.ref[socket.socket]] = set()


def socket_pair(
    kind: socket.SocketKind = socket.SOCK_STREAM,
) -> tuple[socket.socket, socket.socket]:
    """Return connected AF_UNIX sockets that a forked child closes.

    Raises:
        OSError: as socketpair(2).

    """
    with undivided:
        pair = socket.socketpair(socket.AF_UNIX, kind)
        own(*pair)
    return pair


def duplicate(sock: socket.socket) -> socket.socket:
    """Return a second descriptor of `sock`, which a forked child closes.

    Raises:
        OSError: as dup(2).

    """
    with undivided:
        second = sock.dup()
        own(second)
    return second


def own(*sockets: socket.socket) -> None:
    """Have a forked child close sockets, which were just made, in `undivided`."""
    _own.update([weakref.ref(sock, _own.discard) for sock in sockets])


def share(sock: socket.socket) -> None:
    """Have a forked child keep a socket of which it knows from now on."""
    _own.discard(weakref.ref(sock))


def close(*sockets: socket.socket) -> None:
    """Close sockets whose other holder is the daemon; no other thread forks meanwhile.

    A socket forgets its descriptor before that is closed: a child that is forked in
    between would have it open, and nothing that knows of it.
    """
    with undivided:
        for sock in sockets:
            sock.close()


def end(*sockets: socket.socket) -> None:
    """Close sockets that nobody else shall have; what a child keeps is shut down.

    For who must not wait: the garbage collector does this at any moment, whatever
    locks its thread has.
    """
    for sock in sockets:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # it is closed already, here or at the other end
            pass
        sock.close()


def _in_child() -> None:
    for reference in list(_own):
        sock = reference()
        if sock is not None:
            sock.close()
    _own.clear()
    undivided.release()


os.register_at_fork(
    before=undivided.acquire,
    after_in_parent=undivided.release,
    after_in_child=_in_child,
)
