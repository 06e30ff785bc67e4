"""Contexts whose entrypoints take and return open files."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

from procfs import open_files

import privsep

if TYPE_CHECKING:
    import io
    from collections.abc import Callable

LIMIT = 100_000  #: bytes that a message may have

network = privsep.Context(
    "files-network",
    capabilities=["CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_NET_ADMIN"],
)


@network.entrypoint
def listen(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port))


@network.entrypoint
def raw_socket() -> socket.socket:
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)


@network.entrypoint
def tun(name: str) -> io.FileIO:
    """Make a tun device, which lives as long as its descriptor."""
    device = open("/dev/net/tun", "r+b", buffering=0)  # noqa: SIM115 - it crosses
    fcntl.ioctl(device, 0x400454CA, struct.pack("16sH", name.encode(), 1))
    return device


@network.entrypoint
def interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


@network.entrypoint
def network_namespace() -> privsep.Fd:
    return privsep.Fd(os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC))


def echo(value: object) -> object:
    return value


def read(file: io.BufferedReader | io.TextIOWrapper) -> object:
    return file.read()


def write(file: io.TextIOWrapper, text: str) -> None:
    file.write(text)


def inspect(value: Any) -> tuple[object, ...]:
    """Return class, inheritance over exec, and what else tells a file or socket."""
    descriptor = value.fileno()
    details: tuple[object, ...] = ()
    if isinstance(value, socket.socket):
        details = value.family.value, value.type.value, value.gettimeout()
    elif not isinstance(value, privsep.Fd):
        details = value.mode, getattr(value, "encoding", None)
    return type(value).__name__, os.get_inheritable(descriptor), *details


def receive(sock: socket.socket) -> bytes:
    return sock.recv(100)


def fail(*values: object) -> None:
    raise RuntimeError("after taking " + ", ".join(type(v).__name__ for v in values))


def raise_with(value: object) -> None:
    raise ValueError("with a file", value)


def return_many(count: int) -> list[privsep.Fd]:
    return [privsep.Fd(os.open("/dev/null", os.O_RDONLY)) for _ in range(count)]


def return_file_and_object() -> object:
    return [open("/dev/null", "rb"), object()]


def return_file_and_too_much() -> object:
    return [open("/dev/null", "rb"), b"x" * 2 * LIMIT]


def descriptors() -> list[str]:
    return [*open_files().values()]


def wait_for_end(pidfd: privsep.Fd) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(10_000))


def take_and_sleep(value: object, seconds: float) -> object:
    time.sleep(seconds)
    return value


class Files:
    """One context, and its entrypoints as attributes."""

    def __init__(self, context: privsep.Context) -> None:
        self.context = context
        self._entrypoints: dict[str, Callable[..., Any]] = {}
        for function in (
            echo, read, write, inspect, receive, fail, raise_with, return_many,
            return_file_and_object, return_file_and_too_much, descriptors,
            wait_for_end,
        ):  # fmt: skip
            self._entrypoints[function.__name__] = _expose(context, function)
        self._entrypoints["take_and_sleep"] = context.entrypoint(timeout=0.3)(
            _copy(context, take_and_sleep)
        )

    def __getattr__(self, name: str) -> Callable[..., Any]:
        try:
            return self._entrypoints[name]
        except KeyError:
            raise AttributeError(name) from None


def _copy(context: privsep.Context, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that stands in this module once for each context."""

    def run(*args: object) -> object:
        return function(*args)

    run.__qualname__ = f"{function.__name__}_{context.isolation}"
    run.__module__ = __name__
    return run


def _expose(
    context: privsep.Context, function: Callable[..., Any]
) -> Callable[..., Any]:
    return context.entrypoint(_copy(context, function))


context = privsep.Context("files", capabilities=[], timeout=120.0, max_message=LIMIT)
processes = Files(context)
threads_context = privsep.Context(
    "files-threads",
    capabilities=[],
    timeout=120.0,
    max_message=LIMIT,
    isolation="thread",
)
threads = Files(threads_context)
