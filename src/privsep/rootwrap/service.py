"""The one entrypoint of rootwrap's daemon: run a command that the policy allows.

Runs in a worker, which judges, starts the command and waits for it.  Nothing that the
client sends is trusted: words, descriptors, and what comes on the line.
"""

from __future__ import annotations

import os
import select
import socket
from typing import TYPE_CHECKING

from privsep._wire.open_files import Fd
from privsep.errors import Refused
from privsep.rootwrap import log
from privsep.rootwrap.errors import BadPolicy
from privsep.rootwrap.judge import BAD_POLICY, judge
from privsep.rootwrap.launch import launch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privsep.rootwrap.policy import Policy

STARTED = b"s"  #: what the worker says on the line
_NULL = 0  # a worker's own standard input
_BYTES = frozenset({bytes})
_STREAMS = (frozenset({Fd, type(None)}), frozenset({Fd}), frozenset({Fd}))


class Service:
    """What the daemon of `policy` does."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def run(
        self, words: object, directory: object, streams: object, line: object
    ) -> int:
        """Run a command, and return what it ended with.

        Args:
            words: the command, a list of bytes.
            directory: where it runs, a descriptor.
            streams: its standard input, output and error, a list of descriptors; the
                first may be None: nothing can be read.
            line: a socket, its descriptor, on which the worker says `STARTED`, and the
                client may send signals, a byte each; a negative one is for the
                process group.

        Returns:
            The exit status; minus the signal, if one ended it; 96 to 99 if nothing
            ran, and 1 if it was a signal and could not be sent.

        Raises:
            Refused: an argument is none of these.
            OSError: the directory is none, or is out of reach; the line is none.

        """
        if not (
            type(words) is list
            and _BYTES.issuperset(map(type, words))
            and type(directory) is Fd
            and type(streams) is list
            and len(streams) == len(_STREAMS)
            and all(type(x) in kinds for x, kinds in zip(streams, _STREAMS, strict=True))
            and type(line) is Fd
        ):
            raise Refused("a command is a list of bytes, with its open files")
        with socket.socket(fileno=line.fileno()) as talk:
            line.detach()
            try:
                os.fchdir(directory.fileno())
                numbers = [_NULL if each is None else each.fileno() for each in streams]
                pid, status = self._start(list(map(os.fsdecode, words)), numbers)
            finally:
                os.chdir("/")  # what a worker stays in cannot be unmounted
                for each in filter(None, (directory, *streams)):
                    each.close()  # or the client never sees the end of the output
            if pid is None:
                return status
            _send(talk, STARTED)
            return _wait(pid, talk)

    def _start(
        self, words: Sequence[str], streams: Sequence[int]
    ) -> tuple[int | None, int]:
        """Judge a command and start it; return its pid, or None and why not."""
        try:
            verdict = judge(words, self._policy)
        except BadPolicy as error:
            log.record_failure(self._policy, error)
            return None, BAD_POLICY
        with verdict:
            log.record_verdict(self._policy, verdict)
            pid = launch(verdict, streams, self._policy) if verdict.allowed else None
            return pid, verdict.status


def _send(line: socket.socket, data: bytes) -> None:
    try:
        line.send(data, socket.MSG_DONTWAIT)
    except OSError:  # the client has gone
        pass


def _wait(pid: int, line: socket.socket) -> int:
    """Wait until a child has ended, and pass on signals to it; return its status."""
    ended = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(line, select.POLLIN)
        while (ready := poll.poll()) and (ended, select.POLLIN) not in ready:
            numbers = _receive(line)
            for number in numbers:
                _send_signal(pid, number)
            if not numbers:  # nobody is there to send any
                poll.unregister(line)
    finally:
        os.close(ended)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _receive(line: socket.socket) -> memoryview:
    """Return the signals that have come; none if there is nobody to send any."""
    try:
        data = line.recv(64, socket.MSG_DONTWAIT)
    except OSError:
        data = b""
    return memoryview(data).cast("b")


def _send_signal(pid: int, number: int) -> None:
    """Signal a child that was not waited for, or its process group if negative.

    Sources: kill(2), and there what a negative pid is.
    """
    try:
        if number > 0:
            os.kill(pid, number)
        elif number < 0:
            os.killpg(pid, -number)
    except OSError:  # there is no such signal, or nobody who could get it
        pass
