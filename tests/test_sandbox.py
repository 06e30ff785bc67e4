"""What a sandbox refuses, what it allows, and what Landlock cannot do."""

from __future__ import annotations

import ctypes
import errno
import importlib
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import types
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import IS_ROOT, METHOD

import privsep
import scripts
from privsep._lockdown import landlock, libc, runtime
from privsep._lockdown.capability_names import NAMES, SYS_RESOURCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from jail import Jail

METHODS = ("fork", "userns") if IS_ROOT else ("userns",)
EVERYTHING = [
    name for bit, name in enumerate(NAMES) if libc.capget()[1] >> bit & 1
] or list(NAMES)
NEEDS_ROOT = pytest.mark.skipif(not IS_ROOT, reason="starts with real privileges")
_IPPROTO_MPTCP = 262
NEEDS_ABI_6 = pytest.mark.skipif(landlock.best_abi() < 6, reason="Landlock ABI 6")

_MODULE = """
import jail, privsep
context = privsep.Context(
    "jail", capabilities={capabilities!r}, timeout=120.0, prefix="jail",
    sandbox=privsep.Sandbox(**{fields!r}), isolation={isolation!r},
)
entry = jail.Jail(context)
"""


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """Each start method that this user can use here."""
    return str(request.param)


@pytest.fixture
def make(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Jail]]:
    """Return a function that starts a context with a sandbox of some fields."""
    place = tmp_path_factory.mktemp("declared")
    monkeypatch.syspath_prepend(str(place))
    started: list[Jail] = []

    def make_jail(
        start: str = METHOD,
        capabilities: list[str] = EVERYTHING,
        isolation: str = "process",
        **fields: object,
    ) -> Jail:
        name = f"declared_{len(started)}"
        text = _MODULE.format(
            capabilities=capabilities, fields=fields, isolation=isolation
        )
        (place / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        sys.modules.pop(name, None)
        jail: Jail = importlib.import_module(name).entry
        started.append(jail)
        jail.context.start(start)  # type: ignore[arg-type]
        return jail

    yield make_jail
    for jail in started:
        jail.context.stop()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Directories ``in`` and ``out``, each with a file and a directory."""
    for side in ("in", "out"):
        (tmp_path / side / "sub").mkdir(parents=True)
        (tmp_path / side / "file").write_text(side)
    return tmp_path


def refused() -> AbstractContextManager[object]:
    """Expect the EACCES of Landlock, which root gets as anybody does."""
    return pytest.raises(PermissionError, match="Errno 13")


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


@NEEDS_ROOT
def test_landlock_cannot_perfmon_shows_environments(make: Callable[..., Jail]) -> None:
    jail = make(read=(), capabilities=["CAP_PERFMON"])
    assert b"PATH=" in jail.environment_of(os.getpid())


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


@NEEDS_ROOT
def test_landlock_cannot_a_mapping_is_executed_where_any_program_is(
    make: Callable[..., Jail],
) -> None:
    jail = make(execute=["/bin/echo"])
    assert "ld.so" in jail.run_from_mapping(runtime.loaders()[0], "--version")


@pytest.mark.parametrize("execute", [(), ("/bin/echo",)])
def test_a_program_that_has_no_path_is_not_executed(
    make: Callable[..., Jail], execute: tuple[str, ...]
) -> None:
    loader = runtime.loaders()[0]  # a program that needs no loader, and is readable
    assert "ld.so" in make().run_from_memory(loader, "--version")
    with refused():
        make(execute=execute).run_from_memory(loader, "--version")


# -- what Landlock cannot do ---------------------------------------------------


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


# -- network, signals, abstract sockets ----------------------------------------


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Listen on a TCP port."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@NEEDS_ROOT  # a user namespace has a network of its own
def test_tcp_ports(make: Callable[..., Jail], server: socket.socket) -> None:
    port = server.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as other:
        closed = other.getsockname()[1]
        jail = make(network={"connect": [port]})
        jail.connect_tcp(port)
        with refused():
            jail.connect_tcp(closed)
        with refused():
            jail.bind_tcp(0)
    jail = make(network={"bind": [closed], "connect": None})
    jail.bind_tcp(closed)
    jail.connect_tcp(port)
    with refused():
        jail.bind_tcp(0)


@NEEDS_ROOT
def test_no_other_way_to_tcp_leads_around_the_ports(
    make: Callable[..., Jail], server: socket.socket
) -> None:
    try:
        socket.socket(proto=_IPPROTO_MPTCP).close()
    except OSError:
        pytest.skip("this kernel has no Multipath TCP")
    port = server.getsockname()[1]
    free = make(network=True)
    free.connect_tcp(port, _IPPROTO_MPTCP)
    jail = make(network={"connect": [1]})
    with refused():
        jail.connect_tcp(port)
    with pytest.raises(OSError, match="Errno 93"):
        jail.connect_tcp(port, _IPPROTO_MPTCP)
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 1)
    free.connect_by_sending(port)
    with pytest.raises(OSError, match="Errno 95"):
        jail.connect_by_sending(port)


@NEEDS_ROOT
def test_landlock_cannot_a_port_that_the_kernel_chooses_is_listened_on(
    make: Callable[..., Jail],
) -> None:
    assert make(network={"bind": []}).listen_tcp() > 0


@NEEDS_ROOT
def test_network_false_and_true(
    make: Callable[..., Jail], server: socket.socket
) -> None:
    port = server.getsockname()[1]
    with pytest.raises(OSError, match=r"Errno (1|13|97)\b"):
        make().connect_tcp(port)
    make(network=True).connect_tcp(port)


@NEEDS_ABI_6
@NEEDS_ROOT
def test_signals_do_not_leave_the_sandbox(make: Callable[..., Jail]) -> None:
    jail = make()
    with pytest.raises(PermissionError, match="Errno 1]"):
        jail.send_signal(os.getpid())
    assert jail.signal_own_child() == -signal.SIGKILL
    make(signals=True).send_signal(os.getpid())


@NEEDS_ROOT
def test_limits_of_processes_outside_are_out_of_reach_as_signals_are(
    make: Callable[..., Jail],
) -> None:
    make(signals=True).repeat_limit_of(os.getpid())
    with pytest.raises(PermissionError, match="Errno 1]"):
        make().repeat_limit_of(os.getpid())


@NEEDS_ABI_6
@NEEDS_ROOT
def test_abstract_sockets_of_others_are_out_of_reach(
    make: Callable[..., Jail],
) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("")  # the kernel finds a name
        server.listen()
        address = server.getsockname().decode()
        with pytest.raises(PermissionError, match="Errno 1]"):
            make().connect_unix(address)
        make(abstract_sockets=True).connect_unix(address)


def test_a_deadline_still_kills_a_worker(make: Callable[..., Jail]) -> None:
    jail = make(read=(), write=(), execute=())
    with pytest.raises(privsep.WorkerDied) as died:
        jail.signal_own_worker()
    assert died.value.signal == signal.SIGKILL


# -- namespaces and limits -----------------------------------------------------


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
    assert _start_elsewhere("", {"private_tmp": True}, wrapper) == "reads root\n"


@NEEDS_ROOT
def test_namespaces_need_a_privilege_at_the_start() -> None:
    with pytest.raises(privsep.StartError, match="need CAP_SYS_ADMIN at the start"):
        _start_elsewhere(
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


# -- kernels that cannot -------------------------------------------------------

_WITHOUT = """
from privsep._lockdown import attributes, libseccomp
library = libseccomp.Library()
attributes.forbid_new_privileges()
rules = library.new_filter(libseccomp.ALLOW)
rules.add(libseccomp.fail_with({errno}), library.number("{name}"), {conditions})
rules.load()
"""


def _without(name: str, number: int = errno.ENOSYS, conditions: str = "") -> str:
    """Return a script that makes a system call fail, in its process and children."""
    return _WITHOUT.format(name=name, errno=number, conditions=conditions)


_WITHOUT_LANDLOCK = _without("landlock_create_ruleset")
_WITHOUT_NAMESPACES = _without("unshare")
_WITHOUT_SECCOMP = _without(
    "prctl", errno.EINVAL, "libseccomp.Argument(0, libseccomp.EQUAL, 22)"
)

_ELSEWHERE = """
import importlib, logging, sys
logging.basicConfig(format="%(levelname)s %(message)s")
{before}
import privsep, jail
context = privsep.Context(
    "jail", capabilities=[], prefix="jail", sandbox=privsep.Sandbox(**{fields!r})
)
entry = jail.Jail(context)
try:
    context.start({method!r})
    print("reads", entry.read("/etc/passwd")[:4])
    for line in open("/proc/mounts"):
        if line.startswith("privsep "):
            print("spread", line)
    context.stop()
except privsep.StartError as error:
    print("StartError", error)
"""


def _start_elsewhere(
    before: str, fields: dict[str, object], wrapper: Sequence[str] = ()
) -> str:
    """Start a context in another process after `before`; return what it logged."""
    text = _ELSEWHERE.format(before=before, fields=fields, method=METHOD)
    if METHOD == "userns":
        pytest.skip("a context in __main__ starts by fork only")
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", text],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("StartError"):
        raise privsep.StartError(done.stdout)
    return done.stdout + done.stderr


def test_a_kernel_without_landlock_is_refused_where_it_is_required() -> None:
    with pytest.raises(privsep.StartError) as refusal:
        _start_elsewhere(_WITHOUT_LANDLOCK, {"read": ["/srv"]})
    assert textwrap.dedent(
        "the kernel has Landlock ABI 0 (0: none), which cannot enforce: "
        "paths (ABI 1), truncation of files (ABI 3), ioctl on devices (ABI 5), "
        "abstract sockets (ABI 6), signals (ABI 6); landlock='best-effort'"
    ) in str(refusal.value)


def test_a_kernel_without_landlock_is_named_where_best_effort_is_asked() -> None:
    said = _start_elsewhere(
        _WITHOUT_LANDLOCK, {"read": ["/srv"], "landlock": "best-effort"}
    )
    assert "reads root" in said
    assert said.count("WARNING") == 1
    assert "does not enforce of the sandbox: paths (ABI 1), truncation" in said


@NEEDS_ROOT
@pytest.mark.parametrize("abi", range(1, 8))
def test_an_older_abi_does_what_it_can(
    make: Callable[..., Jail],
    tree: Path,
    abi: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if abi > landlock.best_abi():
        pytest.skip("this kernel has less")
    monkeypatch.setattr(landlock, "best_abi", lambda: abi)
    fields = {"write": [f"{tree}/in"], "network": {"bind": []}}
    with caplog.at_level(logging.WARNING):
        jail = make(**fields, landlock="best-effort")
    missing = [
        name
        for since, name in (
            (3, "truncation of files (ABI 3)"),
            (4, "TCP ports (ABI 4)"),
            (5, "ioctl on devices (ABI 5)"),
            (6, "abstract sockets (ABI 6)"),
            (6, "signals (ABI 6)"),
        )
        if abi < since
    ]
    assert [r.getMessage().partition("sandbox: ")[2] for r in caplog.records] == (
        [", ".join(missing)] if missing else []
    )
    status = jail.context.status()
    assert status.not_enforced == tuple(missing)
    assert status.landlock_abi == abi
    assert jail.write(f"{tree}/in/new", "text") == 4
    with refused():
        jail.write(f"{tree}/out/new", "text")
    if missing:
        with pytest.raises(privsep.StartError, match=missing[0].partition(" (")[0]):
            make(**fields)


def test_a_sandbox_that_opens_all_needs_no_landlock() -> None:
    said = _start_elsewhere(
        _WITHOUT_LANDLOCK,
        {"write": None, "network": True, "signals": True, "abstract_sockets": True},
    )
    assert said == "reads root\n"


def test_a_kernel_without_seccomp_is_refused_where_it_is_required() -> None:
    with pytest.raises(privsep.StartError, match="the kernel does not filter system"):
        _start_elsewhere(_WITHOUT_SECCOMP, {})


def test_a_kernel_without_seccomp_is_named_where_best_effort_is_asked() -> None:
    said = _start_elsewhere(_WITHOUT_SECCOMP, {"landlock": "best-effort"})
    assert "reads root" in said
    assert said.count("WARNING") == 1
    assert "does not enforce of the sandbox: the filter of system calls (" in said


@pytest.mark.parametrize("landlock", ["require", "best-effort"])
@pytest.mark.parametrize("fields", [{"namespaces": ["net"]}, {"private_tmp": True}])
def test_a_kernel_without_namespaces_is_refused_in_either_case(
    landlock: str, fields: dict[str, object]
) -> None:
    with pytest.raises(privsep.StartError, match="unshare: Function not implemented"):
        _start_elsewhere(_WITHOUT_NAMESPACES, {**fields, "landlock": landlock})


# -- systems without user namespaces -------------------------------------------

_START_IN_USER_NAMESPACE = """
import privsep, service
context = service.services["plain"].context
try:
    context.start("userns")
except privsep.StartError as error:
    print(error)
else:
    context.stop()
"""


def _refusal_of_userns(number: int, *before: str) -> str:
    """Return what start("userns") says where unshare(2) fails with `number`."""
    script = _without("unshare", number) + _START_IN_USER_NAMESPACE
    return "\n".join(scripts.run(script, before=before))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL])
def test_a_kernel_without_user_namespaces_is_named(number: int) -> None:
    said = _refusal_of_userns(number)
    assert "could not be started by userns: this kernel has no user namespaces" in said
    assert os.strerror(number) in said
    assert "Traceback" not in said


def test_user_namespaces_that_a_container_refuses_are_told() -> None:
    said = _refusal_of_userns(errno.EPERM)
    assert "not allowed to this process, by the seccomp profile of a container" in said
    assert "Traceback" not in said


def test_user_namespaces_that_are_too_many_are_told_with_the_sysctl() -> None:
    assert "see sysctl user.max_user_namespaces" in _refusal_of_userns(errno.ENOSPC)


@pytest.mark.parametrize(
    ("sysctl", "value"),
    [
        ("user.max_user_namespaces", "0"),
        ("kernel.unprivileged_userns_clone", "0"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1"),
    ],
)
def test_the_sysctl_that_forbids_user_namespaces_is_named(
    sysctl: str, value: str
) -> None:
    directory, name = sysctl.split(".")
    # A file in its place, seen in these namespaces only: few systems have them all.
    said = _refusal_of_userns(
        errno.EPERM,
        *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c"),
        f"mount -t tmpfs none /proc/sys/{directory} && "
        f'echo {value} > /proc/sys/{directory}/{name} && exec "$@"',
        "sh",
    )
    assert f"user namespaces are forbidden: sysctl {sysctl} is {value} (" in said
