"""Filters of system calls, on real processes.

Each test runs what it tries in a forked child that restricts itself first.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import importlib
import mmap
import os
import pickle
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from conftest import IS_ROOT
from observe import WITHIN
from service import Service, services

import privsep
from privsep._lockdown import attributes, libseccomp, seccomp, syscall_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_libc = ctypes.CDLL(None, use_errno=True)

on_x86_64 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="it has the numbers of x86_64"
)


class Outcome(NamedTuple):
    """What became of a function in a restricted child."""

    value: Any = None
    error: BaseException | None = None
    signal: int = 0

    @property
    def errno(self) -> int | None:
        """The errno of the error, if it has one."""
        return self.error.errno if isinstance(self.error, OSError) else None


class Restricted:
    """Runs functions in children that are restricted first."""

    def run(
        self,
        function: Callable[[], object],
        syscalls: Iterable[str] | None = None,
        *,
        action: Any = "errno",
        network: Any = True,
        signals: bool = True,
        execute: Any = None,
    ) -> Outcome:
        """Run `function` under a filter; return what became of it."""
        sandbox = privsep.Sandbox(
            syscalls=syscalls,
            syscall_action=action,
            network=network,
            signals=signals,
            execute=execute,
        )

        def restrict_and_run() -> object:
            attributes.forbid_new_privileges()
            seccomp.restrict(seccomp.prepare(), sandbox)
            return function()

        return self.run_free(restrict_and_run)

    def run_free(self, function: Callable[[], object]) -> Outcome:
        """Run `function` in a child, not restricted; return what became of it."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                try:
                    outcome = Outcome(function())
                except BaseException as error:  # noqa: BLE001 - it is told
                    outcome = Outcome(error=error)
                os.write(writer, pickle.dumps(tuple(outcome)))
            finally:
                os._exit(0)
        os.close(writer)
        with open(reader, "rb") as file:
            data = file.read()
        status = os.waitpid(pid, 0)[1]
        if os.WIFSIGNALED(status):
            return Outcome(signal=os.WTERMSIG(status))
        return Outcome(*pickle.loads(data))  # noqa: S301 - of our own child


@pytest.fixture
def restricted() -> Restricted:
    """What runs functions under a filter."""
    return Restricted()


def syscall(number: int, *arguments: int) -> int:
    """Make a system call by number; return its value or minus its errno."""
    result: int = _libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    return -ctypes.get_errno() if result < 0 else result


def change_directory() -> None:
    """Do what nobody needs privileges for, and no daemon needs."""
    os.chdir("/")


# -- names ---------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd")
def test_the_groups_are_those_of_systemd() -> None:
    text = subprocess.check_output(
        ["systemd-analyze", "syscall-filter", "--no-pager"], text=True
    )
    theirs: dict[str, list[str]] = {}
    members: list[str] = []
    for line in text.splitlines():
        if line.startswith("@"):
            members = theirs[line] = []
        elif re.match(r" +[@\w]", line):
            members.append(line.strip())

    def expand(group: str) -> set[str]:
        names = (expand(x) if x[0] == "@" else {x} for x in theirs[group])
        return set().union(*names)

    assert theirs.keys() <= syscall_groups.GROUPS.keys()
    ours_alone = set()
    for group in theirs:
        ours = syscall_groups.members(group)
        assert expand(group) <= ours, group
        ours_alone |= {(group, name) for name in ours - expand(group)}
    newer = {name for group, name in ours_alone if group != "@known"}
    print("newer than the installed systemd:", sorted(ours_alone))
    assert newer <= {
        *("file_getattr", "file_setattr", "getxattrat", "listxattrat"),
        *("open_tree_attr", "removexattrat", "setxattrat"),
    }


@pytest.mark.parametrize(
    ("syscalls", "message"),
    [
        (["@system-services"], "'@system-services'; did you mean @system-service?"),
        (["@system-service", "~@mnt"], "'@mnt'; did you mean @mount?"),
        (["opnat"], "'opnat'; did you mean openat?"),
        (["~unshar"], "'unshar'; did you mean unshare?"),
        ([""], "no system call is named ''"),
        (["@system-service", "~read"], "'~read': the daemon itself needs read"),
        (["~clone"], "the daemon itself needs clone"),
        (["~ioctl"], "the daemon itself needs ioctl"),
        ("@system-service", r"write \['@system-service'\]"),
    ],
)
def test_a_wrong_name_is_told_with_the_nearest(
    syscalls: Iterable[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        seccomp.check(syscalls)


def test_right_names_pass() -> None:
    seccomp.check([])
    seccomp.check(["@system-service", "~@mount", "mount", "~umount2"])
    seccomp.check(["~@process", "~@network-io"])


# -- the list ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("syscalls", "refused"),
    [
        ([], True),
        (["@system-service"], False),
        (["@system-service", "~chdir"], True),
        (["@system-service", "~@file-system"], True),
        (["@system-service", "~@file-system", "chdir"], False),
        (["@default"], True),
        (["chdir"], False),
        (["~chdir"], True),
        (["~@file-system"], True),
        (["~@file-system", "chdir"], False),
        (["~@file-system", "@file-system"], False),
        (["~@mount"], False),
        (None, False),
    ],
)
def test_a_list_refuses_what_it_says(
    restricted: Restricted, syscalls: list[str] | None, *, refused: bool
) -> None:
    outcome = restricted.run(change_directory, syscalls)
    assert outcome.errno == (errno.EPERM if refused else None)


@pytest.mark.parametrize("syscalls", [["~chdir"], ["@default"]])
def test_kill_kills_the_process(restricted: Restricted, syscalls: list[str]) -> None:
    def from_a_thread() -> None:
        thread = threading.Thread(target=change_directory)
        thread.start()
        thread.join()

    for function in (change_directory, from_a_thread):
        outcome = restricted.run(function, syscalls, action="kill")
        assert outcome.signal == signal.SIGSYS


@pytest.mark.parametrize("action", ["errno", "kill"])
def test_what_the_daemon_needs_works_under_an_empty_list(
    restricted: Restricted, action: str
) -> None:
    def live() -> str:
        found: list[str] = []
        thread = threading.Thread(target=found.append, args=("thread",))
        thread.start()
        thread.join()
        pid = os.fork()
        if pid == 0:
            os._exit(7)
        assert os.waitpid(pid, 0)[1] == 7 << 8
        sys.path.insert(0, "")  # as under python -c; the importer asks for its name
        import colorsys  # a module that nothing has loaded

        found.append(Path(colorsys.__file__).read_text()[:3])
        return " ".join(found)

    assert "colorsys" not in sys.modules
    outcome = restricted.run(live, [], action=action)
    assert outcome == Outcome('thread """')


def test_a_late_import_does_not_try_to_write(
    restricted: Restricted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_module.py").write_text("value = 1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)

    def load() -> object:
        return importlib.import_module("late_module").value

    assert restricted.run(load, [], action="kill") == Outcome(1)


@pytest.mark.parametrize("syscalls", [[], ["~@file-system"]])
def test_what_is_read_cannot_be_written(
    restricted: Restricted, syscalls: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text("text")
    assert restricted.run(path.read_text, syscalls) == Outcome("text")
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC):
        attempt = functools.partial(os.open, path, flags)
        assert restricted.run(attempt, syscalls).errno == errno.EPERM


@pytest.mark.parametrize(
    "syscalls", [["~@file-system"], ["@file-system", "~@file-system"]]
)
def test_a_call_that_is_newer_than_libseccomp_is_refused_too(
    restricted: Restricted, syscalls: list[str]
) -> None:
    def attempt() -> int:
        return syscall(463, -1, 0, 0, 0, 0, 0)  # setxattrat

    assert restricted.run_free(attempt).value in (-errno.EINVAL, -errno.ENOSYS)
    assert restricted.run(attempt, syscalls) == Outcome(-errno.EPERM)


@pytest.mark.parametrize("syscalls", [[], ["~execve", "~execveat"]])
def test_programs_can_be_refused(restricted: Restricted, syscalls: list[str]) -> None:
    attempt = functools.partial(os.execv, "/bin/true", ["true"])
    assert restricted.run(attempt, syscalls).errno == errno.EPERM


def test_a_program_runs_under_a_list_for_it(restricted: Restricted) -> None:
    def run() -> bytes:
        return subprocess.check_output(["/bin/echo", "text"])

    assert restricted.run(run, ["@default", "access"]) == Outcome(b"text\n")


def test_an_allow_list_refuses_ioctl_and_prctl_but_what_is_needed(
    restricted: Restricted,
) -> None:
    def attempt() -> list[int]:
        argument = ctypes.create_string_buffer(8)
        reader, _ = os.pipe()
        os.set_blocking(reader, False)
        winsize, name, get_name = 0x5413, 15, 16
        results = [
            _libc.ioctl(reader, winsize, argument) or -ctypes.get_errno(),
            _libc.prctl(name, argument),
            _libc.prctl(get_name, argument),
        ]
        return [*results, ctypes.get_errno()]

    assert restricted.run(attempt, []) == Outcome([-1, 0, -1, errno.EPERM])


# -- namespaces ----------------------------------------------------------------


@on_x86_64
@pytest.mark.parametrize(
    "syscalls", [[], ["@system-service", "~unshare"], ["~unshare"]]
)
def test_where_unshare_is_refused_nothing_makes_namespaces(
    restricted: Restricted, syscalls: list[str]
) -> None:
    sighand, sys_clone, sys_unshare, sys_clone3 = 0x800, 56, 272, 435
    kinds = [0x20000, *(1 << bit for bit in range(25, 31))]

    def attempt() -> list[int]:
        return [
            syscall(sys_unshare, 0),
            syscall(sys_clone3, 0, 0),
            # invalid without CLONE_VM, so that none is made if it is not refused
            *(syscall(sys_clone, kind | sighand, 0, 0, 0, 0) for kind in kinds),
        ]

    free = [0, -errno.EINVAL, *(-errno.EINVAL for _ in kinds)]
    assert restricted.run_free(attempt) == Outcome(free)
    refused = [-errno.EPERM, -errno.ENOSYS, *(-errno.EPERM for _ in kinds)]
    assert restricted.run(attempt, syscalls) == Outcome(refused)
    assert restricted.run(attempt, ["@system-service"]) == Outcome(free)


# -- network -------------------------------------------------------------------


@pytest.mark.parametrize("syscalls", [None, ["@system-service"], ["~@mount"]])
@pytest.mark.parametrize("action", ["errno", "kill"])
def test_without_network_only_unix_sockets_are_made(
    restricted: Restricted, syscalls: list[str] | None, action: str
) -> None:
    def attempt() -> dict[str, int | None]:
        results = {}
        for name in dir(socket):
            if name.startswith("AF_"):
                try:
                    socket.socket(getattr(socket, name), socket.SOCK_DGRAM).close()
                except OSError as error:
                    results[name] = error.errno
                else:
                    results[name] = None
        ours, theirs = socket.socketpair()
        ours.send(b"text")
        assert theirs.recv(4) == b"text"
        return results

    outcome = restricted.run(attempt, syscalls, action=action, network=False)
    assert outcome.error is None
    assert {"AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET"} <= outcome.value.keys()
    assert outcome.value.pop("AF_UNIX") is None
    assert set(outcome.value.values()) == {errno.EAFNOSUPPORT}


def test_without_network_sockets_that_are_there_work(restricted: Restricted) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:

        def talk() -> bytes:
            client.connect(server.getsockname())
            accepted, _ = server.accept()
            client.sendall(b"text")
            return accepted.recv(4)

        assert restricted.run(talk, network=False) == Outcome(b"text")


def test_without_network_other_families_have_no_socketpair(
    restricted: Restricted,
) -> None:
    attempt = functools.partial(socket.socketpair, socket.AF_INET)
    assert restricted.run(attempt).errno == errno.EOPNOTSUPP
    assert restricted.run(attempt, network=False).errno == errno.EAFNOSUPPORT


@pytest.mark.parametrize("syscalls", [None, ["@system-service"], ["~@mount"]])
def test_without_network_there_is_no_io_uring(
    restricted: Restricted, syscalls: list[str] | None
) -> None:
    def attempt() -> int:
        return syscall(425, 1, 0)  # without parameters

    if restricted.run_free(attempt).value == -errno.EPERM:
        pytest.skip("this system has no io_uring for us (io_uring_disabled)")
    assert restricted.run(attempt, syscalls) == Outcome(-errno.EFAULT)
    assert restricted.run(attempt, syscalls, network=False) == Outcome(-errno.EPERM)


@pytest.mark.parametrize(
    "syscalls",
    [
        ["@system-service", "~connect"],
        ["@system-service", "~@file-system"],
        ["~connect"],
        ["~@file-system"],
        ["@default", "@aio"],
    ],
)
def test_an_io_uring_does_not_do_what_the_list_refuses(
    restricted: Restricted, syscalls: list[str]
) -> None:
    def attempt() -> int:
        return syscall(425, 1, 0)  # io_uring_setup, without parameters

    if restricted.run_free(attempt).value == -errno.EPERM:
        pytest.skip("this system has no io_uring for us (io_uring_disabled)")
    assert restricted.run(attempt, ["@system-service"]) == Outcome(-errno.EFAULT)
    assert restricted.run(attempt, ["~@mount"]) == Outcome(-errno.EFAULT)
    assert restricted.run(attempt, syscalls) == Outcome(-errno.EPERM)


@on_x86_64
@pytest.mark.parametrize("high", [0, 1 << 32])
@pytest.mark.parametrize("protocol", [256, 262])
def test_bits_that_the_kernel_does_not_look_at_hide_no_protocol(
    restricted: Restricted, high: int, protocol: int
) -> None:
    def attempt() -> int:
        return syscall(41, high | socket.AF_INET, high | 1, high | protocol)

    outcome = restricted.run(attempt, network={"connect": []})
    assert outcome == Outcome(-errno.EPROTONOSUPPORT)


@pytest.mark.parametrize("flags_in", ["sendto", "sendmsg"])
def test_with_ports_no_sending_connects(restricted: Restricted, flags_in: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 1)

        def send() -> int:
            with socket.socket() as client:
                to = server.getsockname()
                if flags_in == "sendto":
                    return client.sendto(b"text", socket.MSG_FASTOPEN, to)
                return client.sendmsg([b"text"], (), socket.MSG_FASTOPEN, to)

        assert restricted.run(send).errno in (None, errno.EINPROGRESS)
        outcome = restricted.run(send, network={"connect": []})
        assert outcome.errno == errno.EOPNOTSUPP


def _unix_socket() -> None:
    socket.socket(socket.AF_UNIX).close()


def test_with_network_a_list_without_sockets_refuses_them(
    restricted: Restricted,
) -> None:
    for network in (True, False):
        outcome = restricted.run(_unix_socket, ["@default"], network=network)
        assert outcome.errno == errno.EPERM


# -- other architectures -------------------------------------------------------

_FILTERS: list[dict[str, Any]] = [
    {"network": False},
    {"syscalls": ["@system-service"]},
    {"syscalls": ["~@mount"]},
]


@on_x86_64
@pytest.mark.parametrize("options", _FILTERS)
def test_a_32_bit_system_call_is_refused(
    restricted: Restricted, options: dict[str, Any]
) -> None:
    code = bytes.fromhex("b814000000cd80c3")  # mov eax,20 (getpid); int 0x80
    memory = mmap.mmap(-1, len(code), prot=7)
    memory.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    attempt = ctypes.CFUNCTYPE(ctypes.c_int)(address)

    if restricted.run_free(attempt).value in (None, -errno.ENOSYS):
        pytest.skip("this kernel has no 32 bit system calls")
    assert restricted.run(attempt, **options) == Outcome(-errno.EPERM)
    killed = restricted.run(attempt, **options, action="kill")
    assert killed.signal == signal.SIGSYS


@on_x86_64
@pytest.mark.parametrize("options", _FILTERS)
def test_an_x32_system_call_is_refused(
    restricted: Restricted, options: dict[str, Any]
) -> None:
    def attempt() -> int:
        return syscall(0x40000000 + 39)  # getpid

    assert restricted.run_free(attempt).value != -errno.EPERM
    assert restricted.run(attempt, **options) == Outcome(-errno.EPERM)


# -- what is missing -----------------------------------------------------------


def test_a_kernel_without_seccomp_is_an_error(restricted: Restricted) -> None:
    def attempt() -> None:
        library = libseccomp.Library()
        attributes.forbid_new_privileges()
        old = library.new_filter(libseccomp.ALLOW)
        old.add(libseccomp.fail_with(errno.ENOSYS), library.number("seccomp"))
        set_seccomp = libseccomp.Argument(0, libseccomp.EQUAL, 22)
        refused = libseccomp.fail_with(errno.EINVAL)
        old.add(refused, library.number("prctl"), set_seccomp)
        old.load()
        seccomp.prepare()

    outcome = restricted.run_free(attempt)
    assert outcome.errno == errno.EINVAL
    assert "does not filter system calls" in str(outcome.error)


def test_a_filter_that_the_kernel_refuses_is_an_error(restricted: Restricted) -> None:
    def attempt() -> None:
        library = libseccomp.Library()
        attributes.forbid_new_privileges()
        old = library.new_filter(libseccomp.ALLOW)
        old.add(libseccomp.fail_with(errno.ENOMEM), library.number("seccomp"))
        old.load()
        seccomp.restrict(library, privsep.Sandbox(syscalls=["@system-service"]))

    outcome = restricted.run_free(attempt)
    assert outcome.errno in (errno.ENOMEM, errno.ECANCELED)
    assert "cannot be made or loaded" in str(outcome.error)


def test_a_missing_library_is_told_by_its_package(
    restricted: Restricted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_not_there(name: str) -> None:
        msg = f"{name}: cannot open shared object file"
        raise OSError(msg)

    monkeypatch.setattr(ctypes, "CDLL", is_not_there)
    outcome = restricted.run_free(seccomp.prepare)
    assert isinstance(outcome.error, OSError)
    assert "needs libseccomp (libseccomp2)" in str(outcome.error)


def test_a_call_that_libseccomp_does_not_know_is_told(restricted: Restricted) -> None:
    def attempt(syscalls: list[str]) -> tuple[str, ...]:
        attributes.forbid_new_privileges()
        syscall_groups.GROUPS["@new"] = "chdir unheard_of"
        sandbox = privsep.Sandbox(syscalls=syscalls)
        return seccomp.restrict(seccomp.prepare(), sandbox)

    for syscalls, unknown in ((["~@new"], ("unheard_of",)), (["@new"], ())):
        outcome = restricted.run_free(functools.partial(attempt, syscalls))
        assert outcome == Outcome(unknown)


@pytest.mark.skipif(not IS_ROOT, reason="needs CAP_AUDIT_READ")
@on_x86_64
def test_the_kernel_logs_a_refused_call(restricted: Restricted) -> None:
    actions = Path("/proc/sys/kernel/seccomp/actions_logged").read_text()
    if "errno" not in actions.split():
        pytest.skip("this system does not log it")
    netlink_audit, group_readlog, so_rcvbufforce, sys_chdir = 9, 1, 33, 80
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink_audit) as log:
        try:
            log.bind((0, group_readlog))
        except PermissionError:
            pytest.skip("the kernel's log is not for this namespace")
        log.settimeout(WITHIN)
        # What others cause meanwhile shall not fill it.
        log.setsockopt(socket.SOL_SOCKET, so_rcvbufforce, 1 << 24)
        restricted.run(change_directory, ["~chdir"])
        record = b""
        while b"syscall=%d " % sys_chdir not in record:
            record = log.recv(9000)
        assert b"comm=" in record


# -- a whole daemon ------------------------------------------------------------


@pytest.fixture(params=["plain", "threaded"])
def isolation(request: pytest.FixtureRequest) -> str:
    """Each isolation, by the name of its service."""
    name: str = request.param
    return name


def test_a_list_that_libseccomp_cannot_refuse_is_a_start_error(
    monkeypatch: pytest.MonkeyPatch, start_restricted: Callable[..., Service]
) -> None:
    monkeypatch.setitem(syscall_groups.GROUPS, "@new", "chdir unheard_of")
    with pytest.raises(privsep.StartError, match=r"too old to refuse .* unheard_of: "):
        start_restricted("plain", "~@new")


@pytest.fixture
def start_restricted(
    monkeypatch: pytest.MonkeyPatch, start: Callable[..., Service]
) -> Callable[..., Service]:
    """Return a function that starts a service whose daemon is restricted."""
    if not IS_ROOT:
        pytest.skip("the daemon must be a fork of this process")

    def start_service(name: str, *syscalls: str, action: Any = "errno") -> Service:
        sandbox = privsep.Sandbox(write=None, syscalls=syscalls, syscall_action=action)
        monkeypatch.setattr(services[name].context, "sandbox", sandbox)
        return start(name, "fork")

    return start_service


def test_a_daemon_with_an_audit_works_under_the_shortest_list(
    start_restricted: Callable[..., Service],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    audit = privsep.Audit(file=tmp_path / "audit.jsonl")
    monkeypatch.setattr(services["plain"].context, "audit", audit)
    service = start_restricted("plain", action="kill")
    assert service.echo(1) == 1
    service.context.stop()
    assert "service.echo" in (tmp_path / "audit.jsonl").read_text()


@pytest.mark.parametrize("action", ["errno", "kill"])
@pytest.mark.parametrize("syscalls", [(), ("@system-service",)])
def test_a_daemon_works_under(
    start_restricted: Callable[..., Service],
    isolation: str,
    syscalls: tuple[str, ...],
    action: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = start_restricted(isolation, *syscalls, action=action)
    assert service.status()["Seccomp"] == "2"
    assert service.echo({"some": [1, 2.5]}) == {"some": [1, 2.5]}
    with pytest.raises(KeyError) as caught:
        service.fail("KeyError", 1)
    assert "in fail" in str(caught.value.__cause__)
    reader, writer = os.pipe()
    with privsep.Fd(reader) as pipe, pytest.raises(privsep.CallTimeout):
        service.read_briefly(pipe)
    os.close(writer)
    service.log_message(30, "a record")
    assert "a record" in caplog.text
    service.log_from_thread("of a thread")
    threads = [threading.Thread(target=service.sleep, args=(0.05,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if isolation == "plain":
        with pytest.raises(privsep.WorkerDied, match="exited with 3"):
            service.exit_with(3)
        with pytest.raises(privsep.WorkerDied, match="SIGSEGV"):
            service.kill_self(int(signal.SIGSEGV))
    assert len(service.echo(b"x" * 10_000_000)) == 10_000_000  # type: ignore[arg-type]
    service.context.stop()


@pytest.mark.parametrize("syscalls", [("@default", "access"), ("@system-service",)])
def test_a_restricted_daemon_runs_programs(
    start_restricted: Callable[..., Service],
    isolation: str,
    syscalls: tuple[str, ...],
) -> None:
    start_restricted(isolation, *syscalls).write_output("text")


def test_a_restricted_daemon_refuses_programs(
    start_restricted: Callable[..., Service], isolation: str
) -> None:
    service = start_restricted(isolation)
    with pytest.raises(PermissionError):
        service.write_output("text")


def test_a_worker_that_is_killed_for_its_call_is_told(
    start_restricted: Callable[..., Service],
) -> None:
    service = start_restricted("plain", action="kill")
    with pytest.raises(privsep.WorkerDied, match="SIGSYS"):
        service.own_file("/nowhere/privsep")  # its first system call is refused
    assert service.echo(1) == 1


def test_services_are_not_restricted_without_a_filter() -> None:
    service = services["plain"]
    with service.context:
        assert service.status()["Seccomp"] == "0"
