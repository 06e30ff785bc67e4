"""Waiting until a launched daemon is ready, or has said why it is not.

Runs in the client.
"""

from __future__ import annotations

import selectors
import signal
from time import monotonic
from typing import TYPE_CHECKING, cast

from privsep._client.readiness import wait_until
from privsep._start import meeting
from privsep._wire.control import REPLY_SIZE, Reply
from privsep._wire.values import decode
from privsep.errors import StartError

if TYPE_CHECKING:
    import socket

    from privsep._start.process import Launched

_MOST_STDERR = 64 * 1024
#: as the helper's own deadline ends it, or sudo says that it did
_ALARM = (-signal.SIGALRM, 128 + signal.SIGALRM)
_GRACE = 0.5  # seconds in which what did not become ready may end by itself


def wait_until_ready(
    launched: Launched, what: str, remedy: str, deadline: float
) -> tuple[list[object], Launched]:
    """Return when the daemon has said READY.

    Args:
        launched: the daemon; closed if it does not become ready.
        what: how it was started, for the message.
        remedy: what to do when the helper fails without the daemon's own words.
        deadline: seconds.

    Returns:
        What came with READY, and the daemon with what it said until then.

    Raises:
        StartError: with the daemon's own words.

    """
    words = _Words(launched)
    try:
        reply = words.read_until_reply(monotonic() + deadline)
    except BaseException:
        _give_up(words.launched)
        raise
    finally:
        words.close()
    if reply is None or reply[0] != Reply.READY:
        explanation = _explain(words, reply, what, remedy, deadline)
        _give_up(words.launched)
        raise StartError(explanation)
    return cast("list[object]", reply[1]), words.launched._replace(said=words.stderr)


def _give_up(launched: Launched) -> None:
    launched.control.close()
    launched.stderr.close()
    launched.process.end(_GRACE)


class _Words:
    """What the daemon and its helper say while they start."""

    def __init__(self, launched: Launched) -> None:
        self.launched = launched
        self.stderr = b""
        self.timed_out = False
        self._meeting: meeting.Meeting | None = None

    def read_until_reply(self, deadline: float) -> list[object] | None:
        """Return the reply; None if the daemon ended, or the deadline came."""
        stderr = self.launched.stderr
        reply: list[object] | None = None
        with selectors.DefaultSelector() as selector:
            selector.register(self.launched.control, selectors.EVENT_READ)
            selector.register(stderr, selectors.EVENT_READ)
            while selector.get_map():
                ready = wait_until(selector, deadline)
                if not ready:
                    self.timed_out = reply is None
                    return reply
                for key, _ in ready:
                    if key.fileobj is stderr:
                        data = _receive(stderr, 4096)
                        self.stderr = (self.stderr + data)[-_MOST_STDERR:]
                        if self._meeting is None and meeting.WANTED in self.stderr:
                            self._meet(selector)
                    elif self._meeting and key.fileobj is self._meeting.listener:
                        self._use(self._meeting.accept(), selector)
                        continue
                    else:
                        data = _receive(key.fileobj, REPLY_SIZE)
                        if data:
                            reply = cast("list[object]", decode(data))
                            if reply[0] == Reply.READY:
                                return reply
                    if not data:
                        selector.unregister(key.fileobj)
        return reply

    def _meet(self, selector: selectors.BaseSelector) -> None:
        """Send the path of a socket to a helper that has not been handed ours."""
        self._meeting = meeting.Meeting()
        selector.register(self._meeting.listener, selectors.EVENT_READ)
        self.launched.control.send(f"{self._meeting.path}\n".encode())

    def _use(
        self, control: socket.socket | None, selector: selectors.BaseSelector
    ) -> None:
        """Have the daemon's own socket in place of that which did not reach it."""
        if control is None or self._meeting is None:
            return
        for gone in (self.launched.control, self._meeting.listener):
            selector.unregister(gone)
        self.launched.control.close()
        self.launched = self.launched._replace(control=control)
        selector.register(control, selectors.EVENT_READ)
        self.close()

    def close(self) -> None:
        """Remove the socket that was listened on, if one was."""
        if self._meeting is not None and self._meeting.listener.fileno() >= 0:
            self._meeting.close()


def _receive(sock: object, size: int) -> bytes:
    try:
        return cast("bytes", sock.recv(size))  # type: ignore[attr-defined]
    except ConnectionError:
        return b""


def _explain(
    words: _Words,
    reply: list[object] | None,
    what: str,
    remedy: str,
    deadline: float,
) -> str:
    stderr = words.stderr.decode("utf-8", "backslashreplace").strip()
    if reply is not None:
        _, message, traceback = reply
        return "\n".join(filter(None, (f"{what}: {message}", traceback, stderr)))  # type: ignore[arg-type]
    if words.timed_out:
        reason = f"it was not ready within {deadline:g} s"
    else:
        words.launched.process.wait(1.0)
        status = words.launched.process.status
        reason = "it ended" if status is None else f"it ended with status {status}"
        if status in _ALARM:
            reason = "it was not ready within the deadline that root sets"
            remedy = "See deadline in /etc/privsep/contexts.d/MODULE:CONTEXT.toml"
    return "\n".join(filter(None, (f"{what}: {reason}", stderr, remedy)))
