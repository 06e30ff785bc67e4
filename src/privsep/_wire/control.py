"""The small messages beside the calls: control socket, fate line, log line.

Runs in both processes.  On the control socket (AF_UNIX, SEQPACKET) the client
sends datagrams of fixed size: HELLO with one descriptor, the daemon's end of a
log line; REQUEST with two, the worker's end of a channel and the supervisor's
end of a fate line.  The daemon sends one datagram there, READY or FAILED, before
anybody else could read it.

On a fate line (AF_UNIX, STREAM) the client may send KILL or LEAVE, one byte; the
supervisor answers once, with a `Fate`, and closes.
"""

from __future__ import annotations

import struct

from privsep._wire.typed import NamedTuple

HELLO = b"privsep 1 hello"
REQUEST = b"privsep 1 chan."
DATAGRAM_SIZE = len(HELLO)
LOG_DESCRIPTORS = 1
CHANNEL_DESCRIPTORS = 2

REPLY_SIZE = 64 * 1024
LOG_SIZE = 64 * 1024

KILL = b"K"
LEAVE = b"L"  #: the worker may clean up, for a while

_FATE = struct.Struct("!BiI")


class Ending:
    """Why a worker, or a request for one, ended."""

    ENDED = 1  #: the worker is gone by itself, or killed as its client asked
    OVERRAN = 2  #: the supervisor killed it at the deadline
    RUNS_ON = 3  #: a thread overran; it cannot be killed
    NOT_STARTED = 4  #: no worker was free before the deadline
    TOO_MANY = 5  #: the user has too many requests waiting
    NO_WORKER = 6  #: the system has no process or thread for a worker


class Fate(NamedTuple):
    """What became of a worker."""

    ending: int
    status: int  #: as waitpid(2) gives it; errno for NO_WORKER
    pid: int

    @classmethod
    def from_bytes(cls, data: bytes) -> Fate | None:
        """Return the fate in `data`, None if it is not a whole one."""
        return cls(*_FATE.unpack(data)) if len(data) == _FATE.size else None

    def to_bytes(self) -> bytes:
        """Return it as the bytes that cross."""
        return _FATE.pack(self.ending, self.status, self.pid)


FATE_SIZE = _FATE.size


class Reply:
    """What the daemon's one datagram on the control socket says."""

    READY = 1  #: and Landlock's ABI, and what of the sandbox is not enforced
    FAILED = 2  #: and the message, the traceback


class Log:
    """What a datagram on the log line holds."""

    RECORD = 1  #: a logging record that belongs to no call
    LINES = 2  #: pid, "stdout" or "stderr", lines that the process wrote at once
    DROPPED = 3  #: how many of the others were dropped, the reader being slow
