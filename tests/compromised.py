"""What a worker does that its client has taken over; entrypoints for any daemon.

It is the daemon's own process, with the daemon's uid and capabilities, and has all
that the worker has: its end of the line to the audit's writer, the bell, the memory
that they share.
"""

from __future__ import annotations

import ctypes
import os
import random
import resource
import signal
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import privsep
    from privsep._daemon.audit.recorder import Recorder

_FROM_WORKER = struct.Struct("=BQB")
_BEGIN, _END, _REFUSED = 1, 2, 3
_SYS_PROCESS_VM_WRITEV, _SYS_PIDFD_GETFD = 311, 438


def _recorder() -> Recorder:
    frame = sys._getframe()
    while "slot" not in frame.f_locals:
        assert frame.f_back is not None
        frame = frame.f_back
    recorder: Recorder = frame.f_locals["slot"].audit
    return recorder


def _line() -> socket.socket:
    sock = _recorder()._sock
    assert sock is not None
    return sock


def forge(name: str, count: int) -> int:
    """Have calls recorded that nobody made; return the worker's pid."""
    line = _line()
    for number in range(count):
        begin = _FROM_WORKER.pack(_BEGIN, number, len(name))
        _send(line, begin + name.encode() + b"forged")
        _send(line, _FROM_WORKER.pack(_END, 1 << 63, 0))
    return os.getpid()


def send_garbage(seed: int, count: int) -> None:
    """Send what no worker sends, and descriptors with it."""
    line = _line()
    chance = random.Random(seed)  # noqa: S311 - the same each time
    for kind in range(256):
        _send(line, _FROM_WORKER.pack(kind, (1 << 64) - 1, 255))
    for _ in range(count):
        _send(line, chance.randbytes(chance.choice((1, 9, 10, 11, 300, 5000))))
    with open("/dev/null") as file:
        socket.send_fds(line, [chance.randbytes(20)], [file.fileno()] * 100)


def begin_another_call() -> None:
    """Have a call begin that nobody made, and leave its answer, if any, unread."""
    recorder, line = _recorder(), _line()
    line.send(_FROM_WORKER.pack(_BEGIN, 1, 6) + b"forged")
    if recorder._wait:
        recorder._ring()
        line.recv(1, socket.MSG_PEEK)


def say_nothing() -> None:
    """Send an empty message, which looks as the end of the line does."""
    _line().send(b"")


def _send(line: socket.socket, message: bytes) -> None:
    """Send, however slow the writer is: a line gives up after a time of its own."""
    while True:
        try:
            line.send(message)
        except BlockingIOError:
            continue
        return


def flood(count: int) -> None:
    """Send as much as the line takes."""
    line = _line()
    message = _FROM_WORKER.pack(_REFUSED, 0, 200) + bytes(400)
    for _ in range(count):
        _send(line, message)


def take_back() -> list[bytes]:
    """Try to read what was sent, then end the line both ways."""
    line = _line()
    found = []
    for flags in (socket.MSG_DONTWAIT, socket.MSG_DONTWAIT | socket.MSG_PEEK):
        try:
            found.append(line.recv(4096, flags))
        except BlockingIOError:
            continue
    line.shutdown(socket.SHUT_RDWR)
    return found


def jam_the_bell() -> None:
    """Keep the pipe full that wakes the writer, and have others wait for room."""
    bell = _recorder()._bell
    try:
        while True:
            os.write(bell, bytes(4096))
    except BlockingIOError:
        os.set_blocking(bell, True)

    def refill() -> None:
        while True:
            os.write(bell, bytes(4096))

    threading.Thread(target=refill, daemon=True).start()


def say_it_is_awake() -> None:
    """Have no worker ring the bell any more."""
    asleep = _recorder()._asleep

    def deny() -> None:
        while True:
            asleep[0] = 0

    sys.setswitchinterval(1e-6)
    threading.Thread(target=deny, daemon=True).start()


def wipe_shared_memory() -> int:
    """Overwrite all memory that this process shares; return how many pieces."""
    wiped = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, kind = line.split()[:2]
        if kind == "rw-s":
            begin, end = (int(address, 16) for address in place.split("-"))
            ctypes.memset(begin, 0, end - begin)
            wiped += 1
    return wiped


def reach(what: str, pid: int) -> str:
    """Try to do something to a process; return the name of what came of it."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(number: int, *arguments: int) -> None:
        if libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) < 0:
            raise OSError(ctypes.get_errno(), what)

    def steal_descriptor() -> None:
        call(_SYS_PIDFD_GETFD, os.pidfd_open(pid), 2, 0)

    def write_memory() -> None:
        word = ctypes.create_string_buffer(b"word")
        vector = (ctypes.c_void_p * 2)(ctypes.addressof(word), 4)
        address = ctypes.addressof(vector)
        call(_SYS_PROCESS_VM_WRITEV, pid, address, 1, address, 1, 0)

    attempts: dict[str, Callable[[], object]] = {
        "stop": lambda: os.kill(pid, signal.SIGSTOP),
        "limit": lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0)),
        "open its descriptors": lambda: os.listdir(f"/proc/{pid}/fd"),
        "steal a descriptor": steal_descriptor,
        "write its memory": write_memory,
    }
    try:
        attempts[what]()
    except OSError as error:
        return type(error).__name__
    return "nothing"


_ATTACKS = (
    forge,
    begin_another_call,
    send_garbage,
    say_nothing,
    flood,
    take_back,
    jam_the_bell,
    say_it_is_awake,
    wipe_shared_memory,
    reach,
)
for _attack in _ATTACKS:
    _attack.__module__ = "service.compromised"  # below the contexts' prefix


class Attacks:
    """The attacks on a context, as attributes."""

    def __init__(self, context: privsep.Context) -> None:
        expose = context.entrypoint
        self.forge = expose(forge)
        self.begin_another_call = expose(begin_another_call)
        self.send_garbage = expose(send_garbage)
        self.say_nothing = expose(say_nothing)
        self.flood = expose(flood)
        self.take_back = expose(take_back)
        self.jam_the_bell = expose(jam_the_bell)
        self.say_it_is_awake = expose(say_it_is_awake)
        self.wipe_shared_memory = expose(wipe_shared_memory)
        self.reach = expose(reach)
