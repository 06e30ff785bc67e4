"""Contexts whose units a real systemd starts, and what their daemons do there."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from privsep import Audit, Context, Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

_libc = ctypes.CDLL(None, use_errno=True)

STAGE = "/run/stage"


def attempt(what: str, *arguments: object) -> object:
    """Return what comes of an action, or the name of the errno."""
    try:
        return ACTIONS[what](*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def _make_a_tap_device() -> None:
    """TUNSETIFF, as in the kernel's documentation of tun and tap."""
    tunsetiff, tap, no_packet_info = 0x400454CA, 0x2, 0x1000
    with open("/dev/net/tun", "r+b", buffering=0) as device:
        request = struct.pack("16sH22x", b"privsep0", tap | no_packet_info)
        fcntl.ioctl(device, tunsetiff, request)


def _unshare(flag: int) -> None:
    if _libc.unshare(flag):
        raise OSError(ctypes.get_errno(), "unshare")


def _take_a_descriptor() -> None:
    """pidfd_getfd(2), of this very process; its number is that of every machine."""
    own = os.pidfd_open(os.getpid())
    taken = _libc.syscall(438, own, 0, 0)
    os.close(own)
    if taken < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    os.close(taken)


def _connect(address: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(address)


def _run(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


ACTIONS: dict[str, Callable[..., object]] = {
    "read": lambda path: Path(path).read_text(),
    "write": lambda path, text: Path(path).write_text(text),
    "list": lambda path: sorted(os.listdir(path)),
    "owner": lambda path: os.stat(path).st_uid,
    "mode": lambda path: os.stat(path).st_mode & 0o7777,
    "nice": lambda: os.setpriority(os.PRIO_PROCESS, 0, 19),
    "tap": _make_a_tap_device,
    "unshare": _unshare,
    "descriptor": _take_a_descriptor,
    "connect": _connect,
    "run": _run,
}

network = Context("network", capabilities=["CAP_NET_ADMIN"])
paths = Context(
    "paths",
    capabilities=["CAP_DAC_OVERRIDE"],
    sandbox=Sandbox(
        read=["/home/a user/file", "/etc"],
        write=["/home/b", "/tmp/own", STAGE],
        execute=["/home/programs"],
    ),
)
audited = Context("audited", capabilities=[], audit=Audit("/var/log/a/b/calls.jsonl"))
own_user = Context(
    "own_user",
    capabilities=["CAP_KILL", "CAP_SYS_TIME"],
    user="daemon",
    sandbox=Sandbox(write=None, network=True),
    audit=Audit("/var/log/own/calls.jsonl", on_failure="error"),
)
of_root = Context("of_root", capabilities=["CAP_DAC_OVERRIDE"], user="root")
grouped = Context("grouped", capabilities=[], group="daemon")
both = Context("both", capabilities=[], user="root", group="daemon")
private = Context(
    "private",
    capabilities=[],
    sandbox=Sandbox(private_tmp=True, namespaces=["uts"]),
)
abstract = Context("abstract", capabilities=[], sandbox=Sandbox(abstract_sockets=True))
listed = Context(
    "listed",
    capabilities=[],
    sandbox=Sandbox(syscalls=["@system-service", "@resources", "pidfd_getfd"]),
)
threaded = Context("threaded", capabilities=[], isolation="thread")

ALL = (
    *(network, paths, audited, own_user, of_root, grouped, both, private),
    *(abstract, listed, threaded),
)
attempts = {context.name: context.entrypoint(attempt) for context in ALL}
