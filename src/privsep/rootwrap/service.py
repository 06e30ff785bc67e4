"""The one entrypoint of rootwrap's daemon: run a command that the policy allows.

Runs in a worker, which judges, starts the command and waits for it.  Nothing that the
client sends is trusted: words, descriptors, and what comes on the line.
"""

from __future__ import annotations

import os
import select
import socket

from privsep._lockdown.attributes import die_with
from privsep._wire.open_files import Fd
from privsep.errors import Refused
from privsep.rootwrap import log
from privsep.rootwrap.errors import BadPolicy
from privsep.rootwrap.judge import BAD_POLICY, judge
from privsep.rootwrap.launch import launch

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from privsep._wire.descriptors import Credentials
    from privsep.rootwrap.policy import Policy

#: bytes of a command: more than any system takes (ARG_MAX, execve(2))
MAX_MESSAGE = 8 << 20
STARTED = b"s"  #: what the worker says on the line
_NULL = 0  # a worker's own standard input
_BYTES = frozenset({bytes})


class Caller:
    """Who had the daemon started, as the kernel says of its control socket."""

    def __init__(self, credentials: Credentials, groups: set[int]) -> None:
        self._ids = credentials.uid, credentials.gid, [*groups]
        self._supervisor = os.getpid()

    def enter(self, directory: int) -> None:
        """Go to a directory with the caller's rights.

        O_PATH opens one that he may not enter, and a command would find files there.

        Raises:
            OSError: as fchdir(2).

        """
        uid, gid, groups = self._ids
        if uid == 0 or os.geteuid() != 0:
            os.fchdir(directory)
            return
        own = os.geteuid(), os.getegid(), os.getgroups()
        os.setgroups(groups)
        os.setegid(gid)
        os.seteuid(uid)
        try:
            os.fchdir(directory)
        finally:
            os.seteuid(own[0])
            os.setegid(own[1])
            os.setgroups(own[2])
            die_with(self._supervisor)  # other ids have undone that: PR_SET_PDEATHSIG


class Service:
    """What the daemon of `policy` does for a caller."""

    def __init__(self, policy: Policy, caller: Caller) -> None:
        self._policy = policy
        self._caller = caller

    def run(
        self,
        words: object,
        directory: object,
        stdin: object,
        stdout: object,
        stderr: object,
        line: object,
    ) -> int:
        """Run a command, and return what it ended with.

        Args:
            words: the command, a list of bytes.
            directory: where it runs; this and all that follows are descriptors.
            stdin: its standard input; None: nothing can be read.
            stdout: its standard output.
            stderr: its standard error.
            line: a socket on which the worker says `STARTED`, and the client may
                send signals, a byte each; a negative one is for the process group.

        Returns:
            The exit status; minus the signal, if one ended it; 96 to 99 if nothing
            ran, and 1 if it was a signal and could not be sent.

        Raises:
            Refused: an argument is none of these.
            OSError: the directory is none, or is out of reach; the line is none.

        """
        if (
            type(words) is not list
            or not _BYTES.issuperset(map(type, words))
            or type(directory) is not Fd
            or type(stdout) is not Fd
            or type(stderr) is not Fd
            or type(line) is not Fd
            or not (stdin is None or type(stdin) is Fd)
        ):
            raise Refused("a command is a list of bytes, with its open files")
        with socket.socket(fileno=line.fileno()) as talk:
            line.detach()
            try:
                self._caller.enter(directory.fileno())
                pid, status = self._start(
                    list(map(os.fsdecode, words)),
                    _NULL if stdin is None else stdin.fileno(),
                    stdout.fileno(),
                    stderr.fileno(),
                )
            finally:
                os.chdir("/")  # what is in use cannot be unmounted
            for each in (directory, stdin, stdout, stderr):
                if each is not None:
                    each.close()  # or the client never sees the end of the output
            return status if pid is None else _attend(pid, talk)

    def _start(self, words: list[str], *streams: int) -> tuple[int | None, int]:
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


def _attend(pid: int, line: socket.socket) -> int:
    """Pass on signals to a child until it has ended; return its status."""
    _say_started(line)
    try:
        _pass_signals(pid, line)
    finally:
        status = os.waitpid(pid, 0)[1]
    return os.waitstatus_to_exitcode(status)


def _pass_signals(pid: int, line: socket.socket) -> None:
    ended = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(line, select.POLLIN)
        while (ended, select.POLLIN) not in poll.poll():
            numbers = _receive(line)
            for number in numbers:
                _send_signal(pid, number)
            if not numbers:  # nobody is there to send any
                poll.unregister(line)
    finally:
        os.close(ended)


def _say_started(line: socket.socket) -> None:
    try:
        line.send(STARTED, socket.MSG_DONTWAIT)
    except OSError:  # the client has gone
        pass


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
