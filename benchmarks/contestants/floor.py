"""The floors: what the same work costs with nothing around it."""

import importlib
import os
import socket
import subprocess
import sys
from functools import partial

from benchmarks.contestants.measure import (
    Round,
    command,
    latency,
    need_sudo,
    place,
    serve,
)

# The bytes of a CALL and a RET of echo(1), as strace shows them. Constants, so that the
# floor needs nothing of ours.
CALL = b"c" * 64
RET = b"r" * 6
HEAD = b"h" * 5
CALL_HEAD = b"h" * 60

PASS = (sys.executable, "-I", "-S", "-c", "pass")
"""The least that an interpreter can do.

`sys.executable`, because `python3` may be a version manager's shell script.
"""


def ping_pong() -> Round:
    """Send CALL to another process over a stream socketpair, and receive RET."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    other = os.fork()
    if other == 0:
        near.close()
        while far.recv(4096):
            far.send(RET)
        os._exit(0)
    far.close()
    place(lambda processor: os.sched_setaffinity(other, {processor}))

    def call() -> None:
        near.send(CALL)
        near.recv(4096)

    return latency(call)


def packed_ping_pong() -> Round:
    """Do so with what MessagePack costs: pack a call and its result, unpack both."""
    msgpack = importlib.import_module("msgpack")  # not in every environment of this
    pack = msgpack.Packer().pack
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    other = os.fork()
    if other == 0:
        near.close()
        while data := far.recv(4096):
            far.send(HEAD + pack(msgpack.unpackb(data[len(CALL_HEAD) :])[0][0]))
        os._exit(0)
    far.close()
    place(lambda processor: os.sched_setaffinity(other, {processor}))

    def call() -> None:
        near.send(CALL_HEAD + pack([[1], {}]))
        msgpack.unpackb(near.recv(4096)[len(HEAD) :])

    return latency(call)


def sudo_pass() -> Round:
    """Start the least interpreter through sudo."""
    need_sudo()
    return command("sudo", "-n", *PASS)


def true_with_pipes() -> Round:
    """Run true with pipes for its output."""
    run = partial(subprocess.run, ["/bin/true"], capture_output=True, check=True)
    return latency(run)


if __name__ == "__main__":
    serve(
        {
            "ping-pong": ping_pong,
            "packed-ping-pong": packed_ping_pong,
            "pass": lambda: command(*PASS),
            "sudo-pass": sudo_pass,
            "true": lambda: command("true"),
            "true-with-pipes": true_with_pipes,
            "getppid": lambda: latency(os.getppid),
        }
    )
