"""The one entrypoint of rootwrap's daemon: run a command that the policy allows.

Runs in a worker, which judges, starts the command and waits for it.  Nothing that the
client sends is trusted: words, descriptors, and what comes while the command runs.
"""

from __future__ import annotations

import os
import select
import socket
import struct

from privsep._lockdown.attributes import die_with
from privsep._wire.frames import HEADER, Kind
from privsep._wire.open_files import Fd
from privsep.errors import Refused
from privsep.rootwrap import callers, log
from privsep.rootwrap.errors import BadPolicy
from privsep.rootwrap.judge import BAD_POLICY, judge
from privsep.rootwrap.launch import launch

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from privsep._wire.descriptors import Credentials
    from privsep._wire.frames import Frames
    from privsep.rootwrap.policy import Policy

#: bytes of a command: more than any system takes (ARG_MAX, execve(2))
MAX_MESSAGE = 8 << 20
STARTED = b"s"  #: what the worker says where it is to
_NULL = 0  # a worker's own standard input
_NUMBER = struct.Struct("b")  # of a signal; negative: for the process group
_HEAD = HEADER.pack(_NUMBER.size, Kind.SIGNAL)
_AT_ONCE = 64  # bytes
_BYTES = frozenset({bytes})


class Caller:
    """Who had the daemon started, as the kernel says of its control socket."""

    def __init__(self, credentials: Credentials, groups: set[int]) -> None:
        self._ids = credentials.uid, credentials.gid, [*groups]
        #: what sudo would say of it
        self.variables = {
            "SUDO_UID": str(credentials.uid),
            "SUDO_GID": str(credentials.gid),
        }
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

    def run(  # noqa: PLR0917 - all that a command has
        self,
        frames: Frames,
        words: object,
        directory: object,
        stdin: object,
        stdout: object,
        stderr: object,
        started: object,
    ) -> int:
        """Run a command, and return what it ended with.

        Args:
            frames: of the call: the client may send signals, a byte each; a negative
                one is for the process group.
            words: the command, a list of bytes.
            directory: where it runs; this and all that follows are descriptors.
            stdin: its standard input; None: nothing can be read.
            stdout: its standard output.
            stderr: its standard error.
            started: a socket on which the worker says `STARTED`; None: nowhere.

        Returns:
            The exit status; minus the signal, if one ended it; 96 to 99 if nothing
            ran, and 1 if it was a signal and could not be sent.

        Raises:
            Refused: an argument is none of these.
            OSError: the directory is none, or is out of reach; the socket is none.

        """
        if (
            type(words) is not list
            or not _BYTES.issuperset(map(type, words))
            or type(directory) is not Fd
            or type(stdout) is not Fd
            or type(stderr) is not Fd
            or not (stdin is None or type(stdin) is Fd)
            or not (started is None or type(started) is Fd)
        ):
            raise Refused("a command is a list of bytes, with its open files")
        if started is None:
            pid, status = self._start(words, directory, stdin, stdout, stderr)
        else:
            with _socket_of(started) as told:
                pid, status = self._start(words, directory, stdin, stdout, stderr)
                if pid is not None:
                    _say_started(told)
        return status if pid is None else _attend(pid, frames)

    def _start(
        self, words: list[bytes], directory: Fd, stdin: Fd | None, *others: Fd
    ) -> tuple[int | None, int]:
        """Start a command in a directory; return its pid, or None and why not."""
        streams = [_NULL if stdin is None else stdin.fileno()]
        streams += [each.fileno() for each in others]
        try:
            self._caller.enter(directory.fileno())
            pid, status = self._launch(list(map(os.fsdecode, words)), streams)
        finally:
            os.chdir("/")  # what is in use cannot be unmounted
        for each in (directory, stdin, *others):
            if each is not None:
                each.close()  # or the client never sees the end of the output
        return pid, status

    def _launch(self, words: list[str], streams: list[int]) -> tuple[int | None, int]:
        """Judge a command and start it; return its pid, or None and why not."""
        try:
            verdict = judge(words, self._policy)
        except BadPolicy as error:
            log.record_failure(self._policy, error)
            return None, BAD_POLICY
        with verdict:
            log.record_verdict(self._policy, verdict)
            callers.tell(verdict, self._caller.variables)
            pid = launch(verdict, streams, self._policy) if verdict.allowed else None
            return pid, verdict.status


def _socket_of(descriptor: Fd) -> socket.socket:
    """Return the socket that a descriptor is.

    Raises:
        OSError: it is none.

    """
    sock = socket.socket(fileno=descriptor.fileno())
    descriptor.detach()
    return sock


def _say_started(sock: socket.socket) -> None:
    try:
        sock.send(STARTED, socket.MSG_DONTWAIT)
    except OSError:  # the client has gone
        pass


def _attend(pid: int, frames: Frames) -> int:
    """Pass on signals to a child until it has ended; return its status."""
    try:
        _pass_signals(pid, frames)
    finally:
        status = os.waitpid(pid, 0)[1]
    return os.waitstatus_to_exitcode(status)


def _pass_signals(pid: int, frames: Frames) -> None:
    ended = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        if _send_signals(pid, frames):  # which came with the call
            poll.register(frames.sock, select.POLLIN)
        while (ended, select.POLLIN) not in poll.poll():
            if not _receive(frames) or not _send_signals(pid, frames):
                poll.unregister(frames.sock)
    finally:
        os.close(ended)


def _receive(frames: Frames) -> bool:
    """Take what has come, and never wait; return False if nobody is there."""
    try:
        data = frames.sock.recv(_AT_ONCE, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    frames.rest += data
    return bool(data)


def _send_signals(pid: int, frames: Frames) -> bool:
    """Send the signals that have come whole; return False if other things have."""
    rest = frames.rest
    while rest.startswith(_HEAD) and len(rest) > len(_HEAD):
        (number,) = _NUMBER.unpack_from(rest, len(_HEAD))
        _send_signal(pid, number)
        rest = rest[len(_HEAD) + _NUMBER.size :]
    frames.rest = rest
    return _HEAD.startswith(rest)


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
