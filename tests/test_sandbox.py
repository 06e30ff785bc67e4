"""What a sandbox with paths refuses, and what it allows."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from typing import TYPE_CHECKING

import pytest
from conftest import IS_ROOT, METHOD
from sandboxes import EVERYTHING, NEEDS_ROOT, make, method, refused, tree

import privsep
from privsep._lockdown import runtime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jail import Jail

__all__ = ["make", "method", "tree"]


# -- reading -------------------------------------------------------------------


def test_reading_beside_the_listed_paths_fails(
    make: Callable[..., Jail], tree: Path, method: str
) -> None:
    jail = make(method, read=[f"{tree}/in"])
    assert jail.read(f"{tree}/in/file") == "in"
    assert jail.list_directory(f"{tree}/in") == ["file", "sub"]
    with refused():
        jail.read(f"{tree}/out/file")
    with refused():
        jail.list_directory(f"{tree}/out")


def test_no_detour_leads_out(make: Callable[..., Jail], tree: Path) -> None:
    (tree / "in/link").symlink_to(tree / "out/file")
    jail = make(read=[f"{tree}/in"])
    for detour in (
        f"{tree}/in/link",
        f"{tree}/in/../out/file",
        f"{tree}/in/sub/../../out/file",
        f"/proc/self/root{tree}/out/file",
        f"/proc/self/cwd{tree}/out/file",
        f"/proc/thread-self/root{tree}/out/file",
    ):
        with refused():
            jail.read(detour)
    with refused():
        jail.read_through_open_directory(f"{tree}/out", "file")
    assert jail.read_through_open_directory(f"{tree}/in", "file") == "in"


@NEEDS_ROOT
def test_no_capability_leads_out(make: Callable[..., Jail], tree: Path) -> None:
    free = make(write=None, signals=True, abstract_sockets=True)
    jail = make(read=[f"{tree}/in"])
    inside, outside = f"{tree}/in/file", f"{tree}/out/file"
    assert free.read_by_handle(outside, f"{tree}/in") == b"out"
    assert jail.read_by_handle(inside, f"{tree}/in") == b"in"
    with refused():
        jail.read_by_handle(outside, f"{tree}/in")
    assert free.read_in_detached_mount(f"{tree}/out", "file") == b"out"
    with refused():
        jail.read_in_detached_mount(f"{tree}/out", "file")


def test_what_may_be_written_is_not_moved_to_where_it_may_be_read(
    make: Callable[..., Jail], tree: Path
) -> None:
    jail = make(read=[f"{tree}/in"], write=None)
    for move in (jail.rename, jail.link):
        with pytest.raises(OSError, match=r"Errno 18"):
            move(f"{tree}/out/file", f"{tree}/in/new")


def test_a_single_file_may_be_listed(make: Callable[..., Jail], tree: Path) -> None:
    jail = make(read=[f"{tree}/in/file"], write=[f"{tree}/in/file"])
    assert jail.write(f"{tree}/in/file", "new") == 3
    assert jail.read(f"{tree}/in/file") == "new"
    with refused():
        jail.list_directory(f"{tree}/in")


def test_a_root_on_the_path_opens_nothing(
    make: Callable[..., Jail], tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, "/", "", "/tmp/.."])
    package = types.ModuleType("package_at_root")
    package.__path__ = ["/"]
    monkeypatch.setitem(sys.modules, package.__name__, package)
    with refused():
        make(read=()).read(f"{tree}/out/file")


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_late_imports_work(make: Callable[..., Jail], isolation: str) -> None:
    jail = make(read=(), execute=(), isolation=isolation)
    for module in ("sqlite3", "ssl", "ctypes.util", "decimal", "encodings.cp1252"):
        jail.import_module(module)
    assert jail.import_module("xml.dom.minidom")


def test_late_imports_of_the_standard_library_work_in_a_fresh_interpreter(
    make: Callable[..., Jail],
) -> None:
    method = "exec" if IS_ROOT else METHOD
    jail = make(method, read=(), write=(), execute=())
    assert jail.import_module("ssl")
    assert jail.import_module("sqlite3")


@NEEDS_ROOT  # a pid namespace hides the others anyway
def test_secrets_of_other_processes_in_proc_are_out_of_reach(
    make: Callable[..., Jail],
) -> None:
    outsider = os.getpid()
    jail = make(read=())
    with pytest.raises(PermissionError):
        jail.read(f"/proc/{outsider}/mem")
    with pytest.raises(PermissionError):
        jail.read(f"/proc/{outsider}/root/etc/hostname")
    jail = make(read=(), capabilities=["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"])
    with pytest.raises(PermissionError):
        jail.environment_of(outsider)


# -- writing -------------------------------------------------------------------


def test_writing_beside_the_listed_paths_fails(
    make: Callable[..., Jail], tree: Path, method: str
) -> None:
    jail = make(method, write=[f"{tree}/in"])
    assert jail.write(f"{tree}/in/new", "text") == 4
    jail.make_directory(f"{tree}/in/directory")
    jail.rename(f"{tree}/in/new", f"{tree}/in/sub/new")
    jail.truncate(f"{tree}/in/file")
    jail.remove(f"{tree}/in/file")
    assert jail.read(f"{tree}/out/file") == "out"
    with refused():
        jail.write(f"{tree}/out/file", "text")
    with refused():
        jail.write(f"{tree}/out/new", "text")
    with refused():
        jail.make_directory(f"{tree}/out/directory")
    with refused():
        jail.truncate(f"{tree}/out/file")
    with refused():
        jail.remove(f"{tree}/out/file")
    with pytest.raises(OSError, match=r"Errno (13|18)"):
        jail.rename(f"{tree}/in/sub/new", f"{tree}/out/new")


def test_a_sandbox_that_says_nothing_writes_nothing(
    make: Callable[..., Jail], tree: Path
) -> None:
    jail = make()
    assert jail.read(f"{tree}/out/file") == "out"
    with refused():
        jail.write(f"{tree}/out/file", "text")
    assert jail.write("/dev/null", "text") == 4


def test_moves_between_directories_stay_possible_where_writing_is_free(
    make: Callable[..., Jail], tree: Path
) -> None:
    jail = make(read=[f"{tree}/in"], write=None)
    jail.rename(f"{tree}/in/file", f"{tree}/in/sub/file")


@pytest.mark.skipif("CAP_SYS_ADMIN" not in EVERYTHING, reason="no CAP_SYS_ADMIN")
def test_a_sandbox_with_paths_refuses_mounting(
    make: Callable[..., Jail], tree: Path
) -> None:
    free = make(read=None, write=None, namespaces=["mount"])
    outside = os.readlink("/proc/self/ns/mnt")
    free.mount_tmpfs(f"{tree}/in/sub", outside)
    jail = make(write=[f"{tree}/in"], namespaces=["mount"])
    with pytest.raises(PermissionError, match="Errno 1]"):
        jail.mount_tmpfs(f"{tree}/in/sub", outside)


# -- executing -----------------------------------------------------------------


def test_only_listed_programs_are_executed(make: Callable[..., Jail]) -> None:
    jail = make(execute=["/bin/echo"])
    assert jail.run("/bin/echo", "hello") == "hello\n"
    with refused():
        jail.run("/bin/cat", "/etc/hostname")


def test_a_program_is_held_as_the_daemon_is(
    make: Callable[..., Jail], tree: Path
) -> None:
    jail = make(read=[f"{tree}/in"], execute=["/bin/cat"])
    assert jail.run("/bin/cat", f"{tree}/in/file") == "in"
    with pytest.raises(subprocess.CalledProcessError):
        jail.run("/bin/cat", f"{tree}/out/file")


def test_a_script_needs_its_interpreter_listed(
    make: Callable[..., Jail], tree: Path
) -> None:
    script = tree / "in/script"
    script.write_text("#!/bin/sh\necho hello\n")
    script.chmod(0o755)
    with refused():
        make(execute=[str(script)]).run(str(script))
    assert make(execute=[str(script), "/bin/sh"]).run(str(script)) == "hello\n"


def test_without_a_list_what_may_be_read_may_be_executed(
    make: Callable[..., Jail],
) -> None:
    assert make(read=["/bin/echo"]).run("/bin/echo", "hello") == "hello\n"
    with refused():
        make(read=()).run("/bin/echo", "hello")


def test_nothing_is_executed(make: Callable[..., Jail]) -> None:
    jail = make(execute=())
    with refused():
        jail.run("/bin/echo")


@NEEDS_ROOT  # the capability must be one of the first user namespace
def test_nothing_is_executed_from_a_mapping_either(make: Callable[..., Jail]) -> None:
    loader = runtime.loaders()[0]
    assert "ld.so" in make().run_from_mapping(loader, "--version")
    with refused():
        make(execute=()).run_from_mapping(loader, "--version")


@pytest.mark.parametrize("execute", [(), ("/bin/echo",)])
def test_a_program_that_has_no_path_is_not_executed(
    make: Callable[..., Jail], execute: tuple[str, ...]
) -> None:
    loader = runtime.loaders()[0]  # a program that needs no loader, and is readable
    assert "ld.so" in make().run_from_memory(loader, "--version")
    with refused():
        make(execute=execute).run_from_memory(loader, "--version")


# -- mistakes ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"landlock": "required"}, "no 'required'; did you mean 'require'"),
        ({"syscall_action": "kil"}, "no 'kil'; did you mean 'kill'"),
        ({"namespaces": ["network"]}, "no 'network'; did you mean 'net'"),
        ({"namespaces": "net"}, r"must be a sequence: \['net'\]"),
        ({"rlimits": {"NOFILES": 3}}, "'RLIMIT_NOFILES'; did you mean 'RLIMIT_NOFILE'"),
        ({"rlimits": {"NOFILE": (3, 2)}}, "soft limit of NOFILE is above"),
        ({"rlimits": {"NOFILE": -2}}, "NOFILE is -2"),
        ({"network": {"binds": [80]}}, "no 'binds'; did you mean 'bind'"),
        ({"network": {"bind": [65536]}}, "65536 is not a port"),
        ({"network": {"bind": ["http"]}}, "'http' is not a port"),
        ({"read": "/etc"}, r"must be a sequence: \['/etc'\]"),
        ({"write": ["etc"]}, "'etc' is not an absolute path"),
        ({"read": ["/etc\0"]}, "is not an absolute path"),
        ({"read": 5}, r"read is 5; it must be a sequence: \[5\]"),
        ({"execute": [5]}, r"execute is \[5\]; it must be a sequence of strings"),
        ({"syscalls": [5]}, r"syscalls is \[5\]; it must be a sequence of strings"),
        ({"signals": "False"}, "signals is 'False'; it must be True or False"),
        ({"abstract_sockets": 1}, "abstract_sockets is 1; it must be True or"),
        ({"private_tmp": "no"}, "private_tmp is 'no'; it must be True or False"),
        ({"inherit_capabilities": "no"}, "inherit_capabilities is 'no'; it must be"),
        ({"network": "no"}, "network is 'no'; it must be True, False or a dict"),
        ({"network": [80]}, r"network is \[80\]; it must be True, False or a dict"),
        ({"network": {"bind": 80}}, r"'bind', is 80; it must be a sequence: \[80\]"),
        ({"network": {"bind": [True]}}, "True is not a port number"),
        ({"rlimits": ["NOFILE"]}, "rlimits is .'NOFILE'.; it must be a dict"),
        ({"rlimits": {5: 5}}, "there is no 'RLIMIT_5'; did you mean"),
        ({"rlimits": {"NOFILE": "64"}}, "NOFILE is '64'; it must be a number"),
        ({"rlimits": {"NOFILE": (1, 2, 3)}}, "it must be a number or"),
        ({"rlimits": {"NOFILE": 2**63}}, "each up to 9223372036854775807"),
    ],
)
def test_a_mistake_is_named_where_it_is_made(
    fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        privsep.Sandbox(**fields)  # type: ignore[arg-type]


def test_a_sandbox_cannot_be_changed_and_takes_keywords_only() -> None:
    sandbox = privsep.Sandbox(read=["/srv"], rlimits={"nofile": 3})
    with pytest.raises(AttributeError):
        sandbox.read = None  # type: ignore[misc]
    with pytest.raises(TypeError):
        privsep.Sandbox(["/srv"])  # type: ignore[call-arg]
    assert sandbox == privsep.Sandbox(read=["/srv"], rlimits={"RLIMIT_NOFILE": 3})
    with pytest.raises(ValueError, match="must be a privsep"):
        privsep.Context("jail", capabilities=[], sandbox={})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["read", "write", "execute"])
def test_a_path_that_is_not_there_is_named_with_the_nearest(
    make: Callable[..., Jail], tree: Path, field: str
) -> None:
    with pytest.raises(privsep.StartError) as caught:
        make(**{field: [f"{tree}/in/fiel"]})
    assert (
        f"{field}='{tree}/in/fiel' of the sandbox cannot be opened: No such file or "
        f"directory; the nearest that is there is '{tree}/in/file'"
    ) in str(caught.value)
    with pytest.raises(privsep.StartError, match=f"the nearest .* is '{tree}/in'"):
        make(**{field: [f"{tree}/in/nothing/like/it"]})
