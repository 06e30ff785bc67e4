"""What client, daemon, worker and their programs may do, as the kernel says."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest
from conftest import METHOD
from service import Service, services

import privsep
import scripts
from privsep._lockdown import attributes

if TYPE_CHECKING:
    from collections.abc import Callable

    from public_python import PublicPython

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

NONE = "0" * 16
NET_ADMIN = f"{1 << 12:016x}"


def parsed(text: str) -> dict[str, str]:
    lines = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in lines}


def status_of(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status") as file:
        return parsed(file.read())


def sets(status: dict[str, str]) -> tuple[str, ...]:
    """Inheritable, permitted, effective, bounding, ambient; no_new_privs."""
    names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")
    return tuple(status[name] for name in names)


# -- the client drops ----------------------------------------------------------

DROP = """
    import os, sys, privsep, service
    started = service.services["plain"]
    started.context.start("fork")
    privsep.drop_privileges(*sys.argv[1:])
    with open("/proc/self/status") as file:
        print(file.read())
"""


@needs_root
def test_a_dropped_client_is_the_user_and_has_no_capability_in_any_set(
    unprivileged_user: str,
) -> None:
    entry = pwd.getpwnam(unprivileged_user)
    status = parsed("\n".join(scripts.run(DROP, unprivileged_user)))
    assert status["Uid"].split() == [str(entry.pw_uid)] * 4
    assert status["Gid"].split() == [str(entry.pw_gid)] * 4
    assert status["Groups"].split() == [str(entry.pw_gid)]
    assert sets(status) == (NONE, NONE, NONE, NONE, NONE, "1")


@needs_root
def test_a_dropped_client_has_the_group_that_it_asked_for(
    unprivileged_user: str,
) -> None:
    entry = pwd.getpwnam(unprivileged_user)
    status = parsed("\n".join(scripts.run(DROP, unprivileged_user, "adm")))
    assert status["Uid"].split() == [str(entry.pw_uid)] * 4
    assert len(set(status["Gid"].split())) == 1
    assert status["Gid"].split()[0] != str(entry.pw_gid)
    assert sets(status) == (NONE, NONE, NONE, NONE, NONE, "1")


@needs_root
def test_a_dropped_client_regains_nothing(unprivileged_user: str) -> None:
    lines = scripts.run(
        """
        import os, sys, privsep
        privsep.drop_privileges(sys.argv[1])
        for regain in (
            lambda: os.setuid(0),
            lambda: os.setgid(0),
            lambda: os.setgroups([0]),
            lambda: os.open("/etc/shadow", os.O_RDONLY),
        ):
            try:
                regain()
            except PermissionError:
                print("refused")
        """,
        unprivileged_user,
    )
    assert lines == ["refused"] * 4


@needs_root
def test_calls_work_after_the_client_has_dropped(unprivileged_user: str) -> None:
    lines = scripts.run(
        """
        import os, sys, privsep, service
        started = service.services["network"]
        started.context.start("fork")
        privsep.drop_privileges(sys.argv[1])
        status = started.status()
        print(os.getuid() == 0, status["Uid"].split()[0], status["CapEff"])
        started.context.stop()
        """,
        unprivileged_user,
    )
    assert lines == [f"False 0 {NET_ADMIN}"]


@needs_root
def test_after_exec_a_dropped_client_is_told_to_restart(unprivileged_user: str) -> None:
    lines = scripts.run(
        """
        import os, signal, sys, privsep, service
        started = service.services["network"]
        started.context.start("exec")
        with open("/proc/thread-self/children") as file:
            (daemon,) = map(int, file.read().split())
        os.kill(daemon, signal.SIGKILL)
        os.waitid(os.P_PID, daemon, os.WEXITED | os.WNOWAIT)
        privsep.drop_privileges(sys.argv[1])
        try:
            started.echo(1)
        except privsep.StartError as error:
            print(error)
        """,
        unprivileged_user,
    )
    (said,) = lines
    assert said == (
        "the daemon of context 'network' is gone; it was started by exec before this "
        "process dropped its privileges (CAP_NET_ADMIN is missing now): restart the "
        "service"
    )


@needs_root
def test_dropping_with_a_second_thread_is_an_error_that_says_so(
    unprivileged_user: str,
) -> None:
    # Capabilities belong to a thread: the other would keep all of its own.
    lines = scripts.run(
        """
        import sys, threading, privsep
        done = threading.Event()
        thread = threading.Thread(target=done.wait)
        thread.start()
        try:
            privsep.drop_privileges(sys.argv[1])
        except privsep.PrivsepError as error:
            print(error)
        finally:
            done.set()
            thread.join()
        with open("/proc/self/status") as file:
            print(*[line.split()[1] for line in file if line.startswith("Uid")])
        """,
        unprivileged_user,
    )
    assert "2 threads run" in lines[0]
    assert "before the first thread starts" in lines[0]
    assert lines[1] == "0"


@pytest.mark.parametrize("root", ["root", 0])
def test_dropping_to_root_is_a_value_error(root: str | int) -> None:
    with pytest.raises(ValueError, match="root"):
        privsep.drop_privileges(root)


def test_dropping_to_an_unknown_user_names_the_nearest_and_drops_nothing() -> None:
    before = status_of(os.getpid())
    message = "there is no user 'nobdy' on this system; did you mean 'nobody'"
    with pytest.raises(privsep.PrivsepError, match=message):
        privsep.drop_privileges("nobdy")
    assert sets(status_of(os.getpid())) == sets(before)


def test_dropping_to_an_unknown_group_names_the_nearest() -> None:
    message = "there is no group 'nogruop' on this system; did you mean 'nogroup'"
    with pytest.raises(privsep.PrivsepError, match=message):
        privsep.drop_privileges("nobody", "nogruop")


DROP_TO_NOBODY = """
    import privsep
    try:
        privsep.drop_privileges("nobody")
    except privsep.PrivsepError as error:
        print(error)
"""


def test_dropping_without_the_privilege_to_change_users_is_an_error(
    public_python: PublicPython, unprivileged_user: str
) -> None:
    lines = public_python.run(
        DROP_TO_NOBODY,
        user=unprivileged_user,
    )
    assert "could not drop privileges to 'nobody'" in lines[0]
    assert "Operation not permitted" in lines[0]


# -- nobody looks into the daemon ----------------------------------------------

LOOK_INTO = """
    import ctypes, os, sys
    libc = ctypes.CDLL(None, use_errno=True)
    for pid in map(int, sys.argv[1:]):
        looks = {
            "mem": lambda path: open(path, "rb").read(1),
            "environ": lambda path: open(path, "rb").read(1),
            "maps": lambda path: open(path, "rb").read(1),
            "fd": os.listdir,
            "map_files": os.listdir,
            "root": os.readlink,
            "cwd": os.readlink,
            "exe": os.readlink,
            "ns/net": os.readlink,
        }
        for name, look in looks.items():
            try:
                look(f"/proc/{pid}/{name}")
            except PermissionError:
                continue
            print("saw", name)
        pages = (ctypes.c_void_p * 2)(None, 1)
        attempts = {
            "ptrace": lambda: libc.ptrace(16, pid, None, None),  # PTRACE_ATTACH
            "process_vm_readv": lambda: libc.process_vm_readv(
                pid, pages, 1, pages, 1, 0
            ),
            "pidfd_getfd": lambda: libc.syscall(438, os.pidfd_open(pid), 0, 0),
        }
        for name, attempt in attempts.items():
            if attempt() != -1 or ctypes.get_errno() != 1:
                print("did", name, os.strerror(ctypes.get_errno()))
        print("looked into", pid)
"""


@needs_root
@pytest.mark.parametrize("name", ["plain", "network"])
def test_a_user_cannot_look_into_a_daemon_of_root(
    start: Callable[..., Service],
    public_python: PublicPython,
    unprivileged_user: str,
    name: str,
) -> None:
    service = start(name)
    worker = service.process_id()
    daemon = int(status_of(worker)["PPid"])
    lines = public_python.run(LOOK_INTO, worker, daemon, user=unprivileged_user)
    assert lines == [f"looked into {worker}", f"looked into {daemon}"]


@needs_root
def test_a_user_cannot_look_into_a_daemon_that_runs_as_the_same_user(
    public_python: PublicPython,
) -> None:
    service = services["network_nobody"]
    with service.context:
        worker = service.process_id()
        daemon = int(status_of(worker)["PPid"])
        # setpriv and not Popen(user=): nobody's primary group has another name.
        before = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        lines = public_python.run(LOOK_INTO, worker, daemon, before=before)
    assert lines == [f"looked into {worker}", f"looked into {daemon}"]


@needs_root
def test_nobody_looks_into_a_client_that_has_dropped(
    public_python: PublicPython, unprivileged_user: str
) -> None:
    with scripts.begin(
        """
        import sys, privsep
        privsep.drop_privileges(sys.argv[1])
        print("dropped", flush=True)
        sys.stdin.read()
        """,
        unprivileged_user,
        stdin=subprocess.PIPE,
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "dropped\n"
        lines = public_python.run(LOOK_INTO, client.pid, user=unprivileged_user)
        client.communicate("")
    assert lines == [f"looked into {client.pid}"]


# -- a user of its own ---------------------------------------------------------


@needs_root
def test_a_daemon_does_not_start_as_its_client_s_own_user(
    public_python: PublicPython, unprivileged_user: str
) -> None:
    lines = public_python.run(
        """
        import os, pwd, privsep
        for user in (os.getuid(), pwd.getpwuid(os.getuid()).pw_name):
            context = privsep.Context("own", capabilities=[], user=user)
            try:
                context.start("fork")
            except privsep.StartError as error:
                print(error)
        """,
        user=unprivileged_user,
    )
    uid = pwd.getpwnam(unprivileged_user).pw_uid
    assert len(lines) == 2
    assert all(f"user= is uid {uid}, the client's own: " in line for line in lines)


@needs_root
def test_a_client_does_not_drop_to_the_user_of_its_daemon() -> None:
    lines = scripts.run(
        """
        import os, privsep, service
        context = service.services["network_nobody"].context
        context.start("fork")
        try:
            privsep.drop_privileges("nobody")
        except privsep.PrivsepError as error:
            print(error)
        print(os.getresuid())
        context.stop()
        """
    )
    assert "the daemon of context 'network_nobody' runs as 'nobody', too" in lines[0]
    assert lines[1] == "(0, 0, 0)"


# -- the daemon drops ----------------------------------------------------------

ONLY_NET_ADMIN = (NONE, NET_ADMIN, NET_ADMIN, NET_ADMIN, NONE, "1")


@needs_root
@pytest.mark.parametrize("method", ["fork", "exec"])
def test_a_daemon_of_root_has_its_one_capability_and_no_other_anywhere(
    start: Callable[..., Service], method: str
) -> None:
    service = start("network", method)
    worker = service.status()
    assert sets(worker) == ONLY_NET_ADMIN
    assert sets(status_of(int(worker["PPid"]))) == ONLY_NET_ADMIN
    assert worker["Uid"].split() == ["0"] * 4


@needs_root
@pytest.mark.parametrize("method", ["fork", "exec"])
def test_a_program_that_a_daemon_of_root_runs_has_no_more_than_the_daemon(
    start: Callable[..., Service], method: str
) -> None:
    program = start("network", method).run_program("cat", "/proc/self/status")
    assert sets(parsed(program)) == ONLY_NET_ADMIN


@needs_root
def test_a_program_that_a_daemon_of_root_runs_may_have_a_daemon_of_its_own(
    start: Callable[..., Service],
) -> None:
    script = """if True:
        import sys
        sys.path[:] = sys.argv[1:]
        import service
        with service.network:
            print(service.services["network"].status()["CapEff"])
    """
    program = start("network").run_program(
        sys.executable, "-I", "-c", script, *map(os.path.abspath, sys.path)
    )
    assert program.strip() == NET_ADMIN


@needs_root
@pytest.mark.parametrize("method", ["fork", "exec"])
def test_a_daemon_of_another_user_has_its_capability_and_the_user_s_groups(
    start: Callable[..., Service], method: str
) -> None:
    nobody = pwd.getpwnam("nobody")
    service = start("network_nobody", method)
    worker = service.status()
    daemon = status_of(int(worker["PPid"]))
    for status in (worker, daemon):
        assert sets(status) == ONLY_NET_ADMIN
        assert status["Uid"].split() == [str(nobody.pw_uid)] * 4
        assert status["Gid"].split() == [str(nobody.pw_gid)] * 4
        assert set(map(int, status["Groups"].split())) == set(
            os.getgrouplist("nobody", nobody.pw_gid)
        )


@needs_root
def test_a_program_that_a_daemon_of_another_user_runs_has_no_capability(
    start: Callable[..., Service],
) -> None:
    program = start("network_nobody").run_program("cat", "/proc/self/status")
    assert sets(parsed(program)) == (NONE, NONE, NONE, NET_ADMIN, NONE, "1")


BOTH = f"{1 << 12 | 1 << 21:016x}"  # CAP_NET_ADMIN and CAP_SYS_ADMIN


@needs_root
@pytest.mark.parametrize("method", ["fork", "exec"])
@pytest.mark.parametrize(
    ("name", "of_program"),
    [
        ("two", (NONE, BOTH, BOTH, BOTH, NONE, "1")),
        ("two_nobody", (NONE, NONE, NONE, BOTH, NONE, "1")),
        ("two_inherited", (BOTH, BOTH, BOTH, BOTH, BOTH, "1")),
    ],
)
def test_daemon_worker_and_program_have_the_two_capabilities_of_their_context(
    start: Callable[..., Service], name: str, of_program: tuple[str, ...], method: str
) -> None:
    service = start(name, method)
    worker = service.status()
    own = of_program if name == "two_inherited" else (NONE, BOTH, BOTH, BOTH, NONE, "1")
    assert sets(worker) == own
    assert sets(status_of(int(worker["PPid"]))) == own
    assert sets(parsed(service.run_program("cat", "/proc/self/status"))) == of_program


@needs_root
def test_a_program_that_root_made_setuid_gains_nothing(
    start: Callable[..., Service],
) -> None:
    """Neither root's id nor a capability: no_new_privs and the bounding set."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        os.chmod(place, 0o755)  # noqa: S103 - the daemon has to reach it
        program = f"{place}/cat"
        shutil.copy("/bin/cat", program)
        os.chmod(program, 0o4755)  # noqa: S103 - this is the test
        of_nobody = parsed(
            start("two_nobody").run_program(program, "/proc/self/status")
        )
        of_root = parsed(start("two").run_program(program, "/proc/self/status"))
    assert of_nobody["Uid"].split() == [str(pwd.getpwnam("nobody").pw_uid)] * 4
    assert sets(of_nobody) == (NONE, NONE, NONE, BOTH, NONE, "1")
    assert sets(of_root) == (NONE, BOTH, BOTH, BOTH, NONE, "1")


@needs_root
def test_the_capability_works_and_the_others_of_root_do_not(
    start: Callable[..., Service],
) -> None:
    service = start("network_nobody")
    with pytest.raises(PermissionError):
        service.own_file("/proc/sys/kernel/hostname")
    service = start("network")
    with pytest.raises(RuntimeError, match=r"Operation not permitted|ermission denied"):
        service.run_program("mount", "-t", "tmpfs", "none", "/mnt")


def test_a_daemon_without_capabilities_has_none_of_the_starter_s(
    plain: Service,
) -> None:
    status = plain.status()
    inheritable, permitted, effective, _, ambient, no_new_privs = sets(status)
    assert {inheritable, permitted, effective, ambient} == {NONE}
    assert no_new_privs == "1"


@needs_root
def test_what_is_printed_for_a_client_that_dropped_is_logged(
    unprivileged_user: str,
) -> None:
    script = """
        import logging, sys, privsep, service
        logging.basicConfig(level="INFO", stream=sys.stdout)
        started = service.services["plain"]
        started.context.start("fork")
        privsep.drop_privileges(sys.argv[1])
        started.write_output("printed")
        started.context.stop()
    """
    lines = scripts.run(script, unprivileged_user)
    assert sum(line.endswith(": printed") for line in lines) == 3


@needs_root
def test_a_client_whose_effective_user_is_another_calls(unprivileged_user: str) -> None:
    script = """
        import os, pwd, sys, service
        started = service.services["plain"]
        started.context.start("fork")
        entry = pwd.getpwnam(sys.argv[1])
        os.setegid(entry.pw_gid)
        os.seteuid(entry.pw_uid)
        print(started.echo("echoed"))
        os.seteuid(0)
        started.context.stop()
    """
    assert scripts.run(script, unprivileged_user) == ["echoed"]


@needs_root
def test_a_proc_that_hides_other_processes_keeps_nobody_from_dropping(
    unprivileged_user: str,
) -> None:
    script = """
        import os, sys, privsep, service
        def hiding(path, *arguments, open=os.open, **options):  # mount -o hidepid=2
            if path == "/proc/1/status":
                raise FileNotFoundError(path)
            return open(path, *arguments, **options)
        os.open = hiding
        started = service.services["plain"]
        started.context.start("fork")
        privsep.drop_privileges(sys.argv[1])
        print(started.echo("echoed"))
        started.context.stop()
    """
    assert scripts.run(script, unprivileged_user) == ["echoed"]


@needs_root
def test_a_proc_without_sysctls_keeps_no_daemon_from_locking_down() -> None:
    # As a service has it with ProcSubset=pid, systemd.exec(5).
    hide = 'mount -t proc -o subset=pid none /proc && exec "$@"'
    script = """
        import os, service
        assert not os.path.exists("/proc/sys")
        started = service.services["network"]
        started.context.start("fork")
        print(started.status()["CapBnd"])
        started.context.stop()
    """
    before = ["unshare", "--mount", "--propagation=private", "sh", "-c", hide, "sh"]
    assert scripts.run(script, before=before) == [NET_ADMIN]


@pytest.mark.skipif(
    METHOD != "fork", reason="the daemon must be a fork of this process"
)
def test_securebits_that_are_not_locked_end_the_daemon_before_it_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attributes, "lock_securebits", lambda: None)
    with pytest.raises(privsep.StartError, match=r"securebits is \d+, asked for"):
        services["plain"].context.start("fork")


@needs_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_a_step_that_the_kernel_refuses_is_named(
    public_python: PublicPython, unprivileged_user: str
) -> None:
    before = ["setpriv", f"--reuid={unprivileged_user}", "--clear-groups"]
    lines = public_python.run(
        DROP_TO_NOBODY,
        before=before,
    )
    assert "setgroups(" in lines[0]
    assert "Operation not permitted" in lines[0]


@needs_root
def test_who_is_the_user_without_its_groups_is_told_that_they_differ(
    public_python: PublicPython, user_entry: pwd.struct_passwd
) -> None:
    uid, gid = user_entry.pw_uid, user_entry.pw_gid
    lines = public_python.run(
        """
        import sys, privsep
        try:
            privsep.drop_privileges(sys.argv[1])
        except privsep.PrivsepError as error:
            print(error)
        """,
        user_entry.pw_name,
        before=["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"],
    )
    assert f"its groups are [], not the user's, [{gid}]: start it with" in lines[0]
