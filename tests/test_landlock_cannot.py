"""What Landlock cannot do, and docs/sandbox.md therefore says."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
from conftest import IS_ROOT
from sandboxes import NEEDS_ROOT, make, refused, tree

from privsep._lockdown import libc, runtime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jail import Jail

__all__ = ["make", "tree"]


@NEEDS_ROOT
def test_landlock_cannot_perfmon_shows_environments(make: Callable[..., Jail]) -> None:
    jail = make(read=(), capabilities=["CAP_PERFMON"])
    assert b"PATH=" in jail.environment_of(os.getpid())


@NEEDS_ROOT
def test_landlock_cannot_a_mapping_is_executed_where_any_program_is(
    make: Callable[..., Jail],
) -> None:
    jail = make(execute=["/bin/echo"])
    assert "ld.so" in jail.run_from_mapping(runtime.loaders()[0], "--version")


def test_landlock_cannot_a_hard_link_made_before_stays_open(
    make: Callable[..., Jail], tree: Path
) -> None:
    (tree / "in/link").hardlink_to(tree / "out/file")
    jail = make(read=[f"{tree}/in"], write=[f"{tree}/in"])
    assert jail.read(f"{tree}/in/link") == "out"
    with pytest.raises(OSError, match=r"Errno (13|18)"):
        jail.link(f"{tree}/out/file", f"{tree}/in/second")


@NEEDS_ROOT
def test_landlock_cannot_a_bind_mount_made_before_stays_open(
    make: Callable[..., Jail], tree: Path
) -> None:
    libc.mount(f"{tree}/out", f"{tree}/in/sub", "none", 0x1000)
    try:
        jail = make(read=[f"{tree}/in"])
        assert jail.read(f"{tree}/in/sub/file") == "out"
        with refused():
            jail.read(f"{tree}/out/file")
        jail.context.stop()
    finally:
        subprocess.run(["/bin/umount", f"{tree}/in/sub"], check=True)


def test_landlock_cannot_chmod_goes_everywhere(
    make: Callable[..., Jail], tree: Path
) -> None:
    jail = make(read=(), write=())
    jail.change_mode(f"{tree}/out/file", 0o604)
    assert (tree / "out/file").stat().st_mode & 0o777 == 0o604


def test_landlock_cannot_a_socket_with_a_path_is_reached(
    make: Callable[..., Jail], tree: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tree}/out/socket")
        server.listen()
        make(read=(), write=()).connect_unix(f"{tree}/out/socket")


@pytest.mark.parametrize("capabilities", [[], ["CAP_FOWNER"]])
def test_landlock_cannot_root_needs_no_capability_to_chmod_its_files(
    make: Callable[..., Jail], tree: Path, capabilities: list[str]
) -> None:
    make(capabilities=capabilities).change_mode(f"{tree}/out/file", 0o604)
    assert (tree / "out/file").stat().st_mode & 0o777 == 0o604


@NEEDS_ROOT
def test_landlock_cannot_a_device_works_where_it_may_be_made(
    make: Callable[..., Jail], tree: Path
) -> None:
    if os.statvfs(tree).f_flag & os.ST_NODEV:
        pytest.skip("devices do not work where the tests write")
    paths = [f"{tree}/in"]
    jail = make(read=paths, write=paths, capabilities=["CAP_MKNOD"])
    with refused():
        jail.read_bytes("/dev/zero", 2)
    jail.make_zero(f"{tree}/in/zero")
    assert jail.read_bytes(f"{tree}/in/zero", 2) == b"\0\0"


def test_landlock_cannot_shared_memory_of_others_is_attached(
    make: Callable[..., Jail],
) -> None:
    system = ctypes.CDLL(None, use_errno=True)
    identifier = system.shmget(0, 4096, 0o600)
    try:
        if IS_ROOT:  # the namespaces of "userns" have one for this, too
            make().attach_memory(identifier)
        with pytest.raises(OSError, match="Errno 22"):
            make(namespaces=["ipc"]).attach_memory(identifier)
    finally:
        system.shmctl(identifier, 0, None)  # IPC_RMID


@NEEDS_ROOT
def test_landlock_cannot_net_admin_reaches_the_network_of_a_socket(
    make: Callable[..., Jail],
) -> None:
    outside = os.readlink("/proc/self/ns/net")
    jail = make(namespaces=["net"], capabilities=["CAP_NET_ADMIN"])
    assert outside in jail.net_namespaces_of_sockets()
    jail = make(namespaces=["net"], capabilities=[])
    assert jail.net_namespaces_of_sockets() == []


@NEEDS_ROOT
def test_landlock_cannot_sys_admin_uncovers_tmp_where_no_path_is_listed(
    make: Callable[..., Jail], tree: Path
) -> None:
    if not str(tree).startswith("/tmp/"):
        pytest.skip("pytest's temporary directory is not below /tmp")
    outside = os.readlink("/proc/self/ns/mnt")
    free = make(private_tmp=True, write=None)
    with pytest.raises(FileNotFoundError):
        free.list_directory(f"{tree}/in")
    free.unmount("/tmp", outside)
    assert free.list_directory(f"{tree}/in") == ["file", "sub"]
    with pytest.raises(PermissionError, match="Errno 1]"):
        make(private_tmp=True).unmount("/tmp", outside)


@NEEDS_ROOT
def test_landlock_cannot_a_port_that_the_kernel_chooses_is_listened_on(
    make: Callable[..., Jail],
) -> None:
    assert make(network={"bind": []}).listen_tcp() > 0
