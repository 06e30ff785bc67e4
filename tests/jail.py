"""Entrypoints that try what a sandbox refuses, importable by any daemon.

Each test writes a module that makes a context with its own sandbox, and gives it
all of these; so a fresh interpreter can make it, too.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from privsep._lockdown import libc

if TYPE_CHECKING:
    import privsep


def read(path: str) -> str:
    return Path(path).read_text()


def write(path: str, text: str) -> int:
    return Path(path).write_text(text)


def truncate(path: str) -> None:
    os.truncate(path, 0)


def list_directory(path: str) -> list[str]:
    return sorted(os.listdir(path))


def make_directory(path: str) -> None:
    os.mkdir(path)


def remove(path: str) -> None:
    os.unlink(path)


def rename(source: str, target: str) -> None:
    os.rename(source, target)


def link(source: str, target: str) -> None:
    os.link(source, target)


def change_mode(path: str, mode: int) -> None:
    os.chmod(path, mode)


def read_through_open_directory(directory: str, name: str) -> str:
    """Reach a file over a descriptor: /proc/self/fd/N/name."""
    descriptor = os.open(directory, os.O_PATH)
    try:
        return Path(f"/proc/self/fd/{descriptor}/{name}").read_text()
    finally:
        os.close(descriptor)


def read_by_handle(path: str, beside: str) -> bytes:
    """Open `path` by its file handle, with `beside` as the mount: no path is walked."""
    system = ctypes.CDLL(None, use_errno=True)
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 8 + 128)
    at_fdcwd, mount_id = -100, ctypes.c_int()
    name = path.encode()
    if system.name_to_handle_at(at_fdcwd, name, handle, ctypes.byref(mount_id), 0):
        raise OSError(ctypes.get_errno(), "name_to_handle_at")
    mount = os.open(beside, os.O_RDONLY)
    try:
        descriptor = system.open_by_handle_at(mount, handle, os.O_RDONLY)
    finally:
        os.close(mount)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "open_by_handle_at")
    with open(descriptor, "rb") as file:
        return file.read()


def read_in_detached_mount(directory: str, name: str) -> bytes:
    """Read below a copy of the mount of `directory`, which is attached nowhere."""
    open_tree, at_fdcwd, open_tree_clone = 428, -100, 1
    mount = libc.syscall(open_tree, at_fdcwd, os.fsencode(directory), open_tree_clone)
    try:
        with open(os.open(name, os.O_RDONLY, dir_fd=mount), "rb") as file:
            return file.read()
    finally:
        os.close(mount)


def make_zero(path: str) -> None:
    """Make a device as /dev/zero is."""
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))


def read_bytes(path: str, size: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read(size)


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def run_from_memory(program: str, *words: str) -> str:
    """Run a copy of `program` that has no path."""
    descriptor = os.memfd_create("program")
    with open(descriptor, "wb") as file:
        file.write(Path(program).read_bytes())
        file.flush()
        return subprocess.run(
            [f"/proc/self/fd/{descriptor}", *words],
            pass_fds=[descriptor],
            check=True,
            capture_output=True,
            text=True,
        ).stdout


def run_from_mapping(program: str, *words: str) -> str:
    """Run a copy of `program` in shared memory: CAP_CHECKPOINT_RESTORE may."""
    text = Path(program).read_bytes()
    with mmap.mmap(-1, len(text)) as memory:
        memory.write(text)
        place = ctypes.c_char.from_buffer(memory)
        start = ctypes.addressof(place)
        pages = -(-len(text) // mmap.PAGESIZE)
        del place
        mapping = f"{start:x}-{start + pages * mmap.PAGESIZE:x}"
        return run(f"/proc/self/map_files/{mapping}", *words)


def import_module(name: str) -> bool:
    """Import `name` and return whether that was late."""
    late = name not in sys.modules
    __import__(name)
    return late


def require_own(namespace_name: str, outside: str) -> None:
    """Fail before the system's own namespace would be changed."""
    if namespace(namespace_name) == outside:
        msg = f"the {namespace_name} namespace is the system's own"
        raise AssertionError(msg)


def mount_tmpfs(target: str, outside: str) -> None:
    """Mount at `target`, unless the mount namespace is `outside`."""
    require_own("mnt", outside)
    system = ctypes.CDLL(None, use_errno=True)
    if system.mount(b"none", target.encode(), b"tmpfs", ctypes.c_ulong(0), None) < 0:
        raise OSError(ctypes.get_errno(), "mount")


def unmount(target: str, outside: str) -> None:
    """Unmount `target`, unless the mount namespace is `outside`."""
    require_own("mnt", outside)
    system = ctypes.CDLL(None, use_errno=True)
    if system.umount2(target.encode(), 2) < 0:  # MNT_DETACH
        raise OSError(ctypes.get_errno(), "umount")


def attach_memory(identifier: int) -> None:
    """Attach shared memory of System V, shmget(2)."""
    system = ctypes.CDLL(None, use_errno=True)
    system.shmat.restype = ctypes.c_ssize_t
    if system.shmat(identifier, None, 0) == -1:
        raise OSError(ctypes.get_errno(), "shmat")


def net_namespaces_of_sockets() -> list[str]:
    """Return the net namespaces that this process's sockets lead to."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                descriptor = fcntl.ioctl(int(name), 0x894C)  # SIOCGSKNS
                found.add(os.readlink(f"/proc/self/fd/{descriptor}"))
                os.close(descriptor)
        except OSError:  # the listing's own, or it may not
            continue
    return sorted(found)


def send_signal(pid: int) -> None:
    os.kill(pid, 0)


def signal_own_child() -> int:
    child = os.fork()
    if child == 0:
        signal.pause()
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def signal_own_worker() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def connect_unix(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(address)


def connect_tcp(port: int, protocol: int = 0) -> None:
    with socket.socket(proto=protocol) as sock:
        sock.connect(("127.0.0.1", port))


def connect_by_sending(port: int) -> None:
    """Have the first bytes open the connection: TCP Fast Open."""
    with socket.socket() as sock:
        sock.sendto(b"text", socket.MSG_FASTOPEN, ("127.0.0.1", port))


def bind_tcp(port: int) -> None:
    with socket.socket() as sock:
        # Whoever keeps the port from others has it, and does not listen.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))


def listen_tcp() -> int:
    """Listen without a bind before it; return the port that the kernel chose."""
    with socket.socket() as sock:
        sock.listen()
        port: int = sock.getsockname()[1]
        return port


def interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def set_host_name(name: str, outside: str) -> str:
    """Set it, unless the UTS namespace is `outside`."""
    require_own("uts", outside)
    socket.sethostname(name)
    return socket.gethostname()


def namespace(name: str) -> str:
    return os.readlink(f"/proc/self/ns/{name}")


def limit(name: str) -> list[int]:
    return list(resource.getrlimit(getattr(resource, name)))


def raise_limit(name: str, value: int) -> None:
    resource.setrlimit(getattr(resource, name), (value, value))


def repeat_limit_of(pid: int) -> None:
    """Set a limit of a process to what it is."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_CORE)
    resource.prlimit(pid, resource.RLIMIT_CORE, (soft, hard))


def open_many(count: int) -> None:
    kept: list[int] = []
    try:
        while len(kept) < count:
            kept.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        for descriptor in kept:
            os.close(descriptor)


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


class Jail:
    """A context and its entrypoints as attributes."""

    def __init__(self, context: privsep.Context) -> None:
        self.context = context
        expose = context.entrypoint
        self.read = expose(read)
        self.write = expose(write)
        self.truncate = expose(truncate)
        self.list_directory = expose(list_directory)
        self.make_directory = expose(make_directory)
        self.remove = expose(remove)
        self.rename = expose(rename)
        self.link = expose(link)
        self.change_mode = expose(change_mode)
        self.read_through_open_directory = expose(read_through_open_directory)
        self.read_by_handle = expose(read_by_handle)
        self.read_in_detached_mount = expose(read_in_detached_mount)
        self.make_zero = expose(make_zero)
        self.read_bytes = expose(read_bytes)
        self.run = expose(run)
        self.run_from_memory = expose(run_from_memory)
        self.run_from_mapping = expose(run_from_mapping)
        self.import_module = expose(import_module)
        self.mount_tmpfs = expose(mount_tmpfs)
        self.unmount = expose(unmount)
        self.attach_memory = expose(attach_memory)
        self.net_namespaces_of_sockets = expose(net_namespaces_of_sockets)
        self.send_signal = expose(send_signal)
        self.signal_own_child = expose(signal_own_child)
        self.signal_own_worker = expose(signal_own_worker)
        self.connect_unix = expose(connect_unix)
        self.connect_tcp = expose(connect_tcp)
        self.connect_by_sending = expose(connect_by_sending)
        self.bind_tcp = expose(bind_tcp)
        self.listen_tcp = expose(listen_tcp)
        self.interfaces = expose(interfaces)
        self.set_host_name = expose(set_host_name)
        self.namespace = expose(namespace)
        self.limit = expose(limit)
        self.raise_limit = expose(raise_limit)
        self.repeat_limit_of = expose(repeat_limit_of)
        self.open_many = expose(open_many)
        self.environment_of = expose(environment_of)
