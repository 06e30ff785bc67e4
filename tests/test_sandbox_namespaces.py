"""Namespaces and limits of a sandbox."""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sandboxes import EVERYTHING, NEEDS_ROOT, make, method, start_elsewhere

import privsep
from privsep._lockdown.capability_names import NAMES, SYS_RESOURCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from jail import Jail

__all__ = ["make", "method"]


def test_a_private_net_namespace_has_a_loopback_device_only(
    make: Callable[..., Jail], method: str
) -> None:
    jail = make(method, namespaces=["net"], network=True)
    assert jail.interfaces() == ["lo"]
    assert jail.namespace("net") != os.readlink("/proc/self/ns/net")


def test_private_namespaces(make: Callable[..., Jail], method: str) -> None:
    before = socket.gethostname()
    jail = make(method, namespaces=["uts", "ipc"])
    outside = os.readlink("/proc/self/ns/uts")
    assert jail.set_host_name("jailed", outside) == "jailed"
    assert socket.gethostname() == before
    assert jail.namespace("ipc") != os.readlink("/proc/self/ns/ipc")
    if method == "fork":
        assert jail.namespace("net") == os.readlink("/proc/self/ns/net")


def test_private_tmp(make: Callable[..., Jail], method: str) -> None:
    outside = Path(f"/tmp/outside-{os.getpid()}")
    outside.write_text("outside")
    try:
        jail = make(method, private_tmp=True, read=())
        for directory in ("/tmp", "/var/tmp"):
            assert outside.name not in jail.list_directory(directory)
            assert jail.write(f"{directory}/new-file", "text") == 4
            assert jail.read(f"{directory}/new-file") == "text"
            assert not Path(f"{directory}/new-file").exists()
        with pytest.raises(FileNotFoundError):
            jail.read(str(outside))
        assert jail.import_module("xml.dom.minidom")
    finally:
        outside.unlink()


def test_a_package_on_the_path_stays_there_read_only_in_a_private_tmp(
    make: Callable[..., Jail],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if not str(tmp_path).startswith("/tmp/"):
        pytest.skip("pytest's temporary directory is not below /tmp")
    (tmp_path / "late_package.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    jail = make(private_tmp=True)
    assert jail.import_module("late_package")
    with pytest.raises(OSError, match="Errno 30"):
        jail.write(f"{tmp_path}/new", "text")


@NEEDS_ROOT
def test_a_private_tmp_does_not_spread_where_mounts_are_shared() -> None:
    # All in one more namespace: the machine's own is safe if this fails.
    script = 'mount --make-rprivate / && mount --make-rshared / && exec "$@"'
    wrapper = ["unshare", "--mount", "/bin/sh", "-c", script, "sh"]
    assert start_elsewhere("", {"private_tmp": True}, wrapper) == "reads root\n"


@NEEDS_ROOT
def test_namespaces_need_a_privilege_at_the_start() -> None:
    with pytest.raises(privsep.StartError, match="need CAP_SYS_ADMIN at the start"):
        start_elsewhere(
            "import ctypes; ctypes.CDLL(None).prctl(24, 21, 0, 0, 0)\n"
            "from privsep._lockdown import libc\n"
            "e, p, i = libc.capget(); libc.capset(e & ~(1 << 21), p & ~(1 << 21), i)",
            {"namespaces": ["net"]},
        )


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_limits(make: Callable[..., Jail], isolation: str) -> None:
    jail = make(
        isolation=isolation,
        capabilities=[],
        rlimits={"NOFILE": 64, "RLIMIT_FSIZE": (1000, 2000), "CORE": 0},
    )
    assert jail.limit("RLIMIT_NOFILE") == [64, 64]
    assert jail.limit("RLIMIT_FSIZE") == [1000, 2000]
    with pytest.raises(OSError, match="Errno 24"):
        jail.open_many(100)
    with pytest.raises(ValueError, match="not allowed to raise"):
        jail.raise_limit("RLIMIT_NOFILE", 100)


def test_a_limit_on_memory_goes_before_the_context_s(
    make: Callable[..., Jail],
) -> None:
    jail = make(rlimits={"AS": 2**31})
    assert jail.limit("RLIMIT_AS") == [2**31, 2**31]
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    soft, hard = make().limit("RLIMIT_AS")
    assert soft > 4 * 2**30  # which is beyond what the worker began with
    assert hard == most


def test_a_limit_that_may_not_be_raised_is_named(make: Callable[..., Jail]) -> None:
    others = [name for name in EVERYTHING if name != NAMES[SYS_RESOURCE]]
    with pytest.raises(privsep.StartError, match="RLIMIT_CORE is 0 here, and only"):
        make(capabilities=others, rlimits={"CORE": 1000})
