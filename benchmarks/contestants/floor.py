"""The floors: what the same work costs with nothing around it."""

import fcntl
import importlib
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Callable
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

LARGE = 16 << 20
"""The bytes of a large value."""
ITEM = 64 << 10
"""The bytes of an item of a long stream."""
ITEMS = 16 << 10
"""How many make a gibibyte."""
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL

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


def copy_large() -> Round:
    """Copy a large value to another process over a stream socketpair, and back."""
    buffer = memoryview(bytearray(LARGE))

    def receive(sock: socket.socket) -> bool:
        return sock.recv_into(buffer, LARGE, socket.MSG_WAITALL) == LARGE

    return _there_and_back(lambda sock: sock.sendall(buffer), receive)


def stream() -> Round:
    """Receive a gibibyte from another process over a stream socketpair, in items."""
    item = bytes(ITEM)
    buffer = memoryview(bytearray(ITEM))
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    other = os.fork()
    if other == 0:
        near.close()
        while far.recv(1):
            for _ in range(ITEMS):
                far.sendall(item)
        os._exit(0)
    far.close()

    def call() -> None:
        near.send(b"x")
        for _ in range(ITEMS):
            near.recv_into(buffer, ITEM, socket.MSG_WAITALL)

    return latency(call)


def memfd_large() -> Round:
    """Do so with a sealed memfd each way, which is mapped and copied to bytes."""
    value = bytes(LARGE)

    def send(sock: socket.socket) -> None:
        descriptor = os.memfd_create("large", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        rest = memoryview(value)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
        socket.send_fds(sock, [b"x"], [descriptor])
        os.close(descriptor)

    def receive(sock: socket.socket) -> bool:
        _, descriptors, _, _ = socket.recv_fds(sock, 1, 1)
        for descriptor in descriptors:
            assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) == SEALS
            with mmap.mmap(descriptor, LARGE, prot=mmap.PROT_READ) as mapped:
                assert len(mapped[:]) == LARGE
            os.close(descriptor)
        return bool(descriptors)

    return _there_and_back(send, receive)


def _there_and_back(
    send: Callable[[socket.socket], None], receive: Callable[[socket.socket], bool]
) -> Round:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    other = os.fork()
    if other == 0:
        near.close()
        while receive(far):
            send(far)
        os._exit(0)
    far.close()
    place(lambda processor: os.sched_setaffinity(other, {processor}))

    def call() -> None:
        send(near)
        receive(near)

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
            "copy-large": copy_large,
            "memfd-large": memfd_large,
            "stream": stream,
            "pass": lambda: command(*PASS),
            "sudo-pass": sudo_pass,
            "true": lambda: command("true"),
            "true-with-pipes": true_with_pipes,
            "getppid": lambda: latency(os.getppid),
        }
    )
