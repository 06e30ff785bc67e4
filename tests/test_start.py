"""Every way to start a daemon."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from typing import TYPE_CHECKING

import failing
import pytest
from service import Service, services
from start_scripts import (
    START_AND_FAIL,
    fails_at_once,
    said_at_once,
)

import privsep
import scripts

if TYPE_CHECKING:
    from collections.abc import Callable

    from public_python import PublicPython

__all__ = ["fails_at_once"]


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

START_AND_CALL = """
    import json, os, sys, service
    name, method, options = sys.argv[1:]
    started = service.services[name]
    started.context.start(method, **json.loads(options))
    found = started.status()
    print(started.echo("value"), found["Uid"].split()[0], found["CapEff"])
    started.context.stop()
"""

NET_ADMIN = f"{1 << 12:016x}"


@pytest.mark.parametrize("method", ["fork", "exec", "userns"])
def test_a_daemon_starts_and_answers(
    start: Callable[..., Service], method: str
) -> None:
    assert start("plain", method).echo("value") == "value"


@pytest.mark.parametrize("method", ["fork", "exec"])
@needs_root
def test_a_daemon_of_root_has_the_capability_of_its_context(
    start: Callable[..., Service], method: str
) -> None:
    assert start("network", method).status()["CapEff"] == NET_ADMIN


def test_the_first_call_starts_the_daemon() -> None:
    service = services["plain"]
    try:
        assert service.echo("value") == "value"
    finally:
        service.context.stop()


def test_with_starts_the_daemon_and_stops_it() -> None:
    service = services["plain"]
    with service.context:
        pid = service.process_id()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_unprivileged_user_starts_a_daemon_of_root_through_sudo(
    public_python: PublicPython,
    unprivileged_user: str,
    sudoers_rule: Callable[[str], None],
) -> None:
    sudoers_rule("service:network")
    lines = public_python.run(
        START_AND_CALL, "network", "sudo", "{}", user=unprivileged_user
    )
    assert lines == [f"value 0 {NET_ADMIN}"]


def test_a_start_through_sudo_makes_no_name_in_the_filesystem(
    public_python: PublicPython,
    unprivileged_user: str,
    sudoers_rule: Callable[[str], None],
) -> None:
    sudoers_rule("service:network")
    script = """
    import sys
    from service import services
    from privsep._start.meeting import Meeting
    names = {"socket.bind", "tempfile.mkdtemp", "tempfile.mkstemp"}
    made = []
    sys.addaudithook(lambda event, _: event in names and made.append(event))
    context = services["network"].context
    context.start("sudo")
    context.stop()
    print(made)
    Meeting().close()  # what would have been seen
    print(sorted(made))
    """
    seen = ["socket.bind", "tempfile.mkdtemp"]
    lines = public_python.run(script, user=unprivileged_user)
    assert lines == ["[]", str(seen)]


def test_sudo_starts_a_daemon_from_a_terminal_too(
    public_python: PublicPython,
    unprivileged_user: str,
    sudoers_rule: Callable[[str], None],
) -> None:
    # With a terminal, sudo (use_pty) makes another one and a process group of
    # its own for the command.
    sudoers_rule("service:network")
    outer, inner = os.openpty()
    with open(outer, "rb", 0), open(inner, "rb", 0) as terminal:
        os.chown(inner, 0, 0)
        os.chmod(inner, 0o666)  # noqa: S103 - the user is to open it, sudo too
        lines = public_python.run(
            "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
            + textwrap.dedent(START_AND_CALL),
            "network",
            "sudo",
            "{}",
            user=unprivileged_user,
            stdin=terminal,
        )
    assert lines == [f"value 0 {NET_ADMIN}"]


def test_an_unprivileged_user_starts_a_daemon_of_root_through_doas(
    public_python: PublicPython,
    unprivileged_user: str,
    doas_rule: Callable[[str], None],
) -> None:
    doas_rule("service:network")
    lines = public_python.run(
        START_AND_CALL,
        "network",
        "sudo",
        '{"helper": ["doas", "-n"]}',
        user=unprivileged_user,
    )
    assert lines == [f"value 0 {NET_ADMIN}"]


@needs_root
def test_any_command_that_runs_another_may_be_the_helper(
    public_python: PublicPython,
) -> None:
    lines = public_python.run(START_AND_CALL, "network", "sudo", '{"helper": ["env"]}')
    assert lines == [f"value 0 {NET_ADMIN}"]


HAVING_NET_ADMIN = ("--inh-caps=+net_admin", "--ambient-caps=+net_admin")


def as_user(user: str, *options: str) -> list[str]:
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *options]


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_exec_hands_on_the_capability_of_a_process_that_is_not_root(
    public_python: PublicPython, unprivileged_user: str
) -> None:
    before = as_user(unprivileged_user, *HAVING_NET_ADMIN)
    (line,) = public_python.run(START_AND_CALL, "network", "exec", "{}", before=before)
    _, uid, effective = line.split()
    assert uid != "0"
    assert effective == NET_ADMIN


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
@pytest.mark.parametrize(
    "inheritable",
    [0, 1 << 12],
    ids=["nothing inheritable", "the capability inheritable"],
)
def test_exec_leaves_the_capability_sets_of_the_client_as_they_were(
    public_python: PublicPython, unprivileged_user: str, inheritable: int
) -> None:
    lines = public_python.run(
        """
        import ctypes, os, struct, sys, service
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(47, 4, 0, 0, 0) == 0  # PR_CAP_AMBIENT_CLEAR_ALL
        bits = 1 << 12
        sets = struct.pack("6I", bits, bits, int(sys.argv[1]), 0, 0, 0)
        assert libc.capset(struct.pack("Ii", 0x20080522, 0), sets) == 0
        def sets():
            with open("/proc/self/status") as file:
                return [line.strip() for line in file if line.startswith("Cap")]
        before = sets()
        with service.network:
            print(service.services["network"].status()["CapEff"])
        print(sets() == before, before[-1], sets())
        """,
        inheritable,
        before=as_user(unprivileged_user, *HAVING_NET_ADMIN),
    )
    assert lines[0] == NET_ADMIN
    assert lines[1].startswith("True CapAmb:\t0000000000000000")


def test_a_context_in_main_is_started_by_fork() -> None:
    lines = scripts.run(
        """
        import os, privsep
        context = privsep.Context("here", capabilities=[])
        @context.entrypoint
        def parent():
            return os.getppid()
        context.start("fork")
        print(parent() == os.getpid(), parent() not in (os.getpid(), 1))
        context.stop()
        """
    )
    assert lines == ["False True"]


@pytest.mark.usefixtures("fails_at_once")
def test_a_context_in_no_variable_is_started_by_fork() -> None:
    failing.in_no_variable[0].start("fork")
    failing.in_no_variable[0].stop()


def test_a_second_start_is_refused_and_changes_nothing(plain: Service) -> None:
    before = plain.process_id()
    with pytest.raises(privsep.StartError, match=r"started already.*stop\(\) it first"):
        plain.context.start("exec")
    assert plain.process_id() == before


def test_a_start_that_failed_may_be_tried_again() -> None:
    context = services["plain"].context
    with pytest.raises(privsep.StartError):
        context.start("sudo", helper=["privsep-no-such-helper"])
    context.start("exec")
    try:
        assert services["plain"].echo(1) == 1
    finally:
        context.stop()


def test_root_of_a_user_namespace_makes_bridges_mounts_and_names(
    public_python: PublicPython, unprivileged_user: str
) -> None:
    if shutil.which("ip") is None:
        pytest.skip("ip is not installed")
    lines = public_python.run(
        """
        import os, socket, service
        started = service.services["spacious"]
        started.context.start("userns")
        run = started.run_program
        run("ip", "link", "add", "privsep0", "type", "bridge")
        print("privsep0" in run("ip", "link", "show"))
        run("mount", "-t", "tmpfs", "none", "/mnt")
        print(*started.own_file("/mnt/privsep-file"))
        run("hostname", "privsep-host")
        print(run("hostname").strip())
        print(os.path.exists("/mnt/privsep-file"), socket.gethostname())
        print(os.path.exists("/sys/class/net/privsep0"))
        started.context.stop()
        """,
        user=unprivileged_user,
    )
    outside = os.uname().nodename
    assert lines == ["True", "0 0", "privsep-host", f"False {outside}", "False"]


def test_a_daemon_in_a_user_namespace_has_the_namespaces_that_were_asked_for(
    public_python: PublicPython, unprivileged_user: str
) -> None:
    lines = public_python.run(
        """
        import os, service
        started = service.services["spacious"]
        for options in ({}, {"namespaces": ["net", "ipc"]}):
            started.context.start("userns", **options)
            print(*(
                name
                for name in ("user", "net", "mnt", "pid", "uts", "ipc")
                if started.run_program("readlink", f"/proc/self/ns/{name}").strip()
                != os.readlink(f"/proc/self/ns/{name}")
            ))
            started.context.stop()
        """,
        user=unprivileged_user,
    )
    assert lines == ["user net mnt pid uts ipc", "user net ipc"]


def test_in_a_user_namespace_the_supervisor_is_init_and_one_id_is_mapped(
    public_python: PublicPython, unprivileged_user: str
) -> None:
    lines = public_python.run(
        """
        import service
        started = service.services["spacious"]
        started.context.start("userns")
        print(started.run_program("sh", "-c", '''
            grep ^PPid: /proc/$PPID/status
            mount -t tmpfs none /mnt; touch /mnt/file
            chown 0:0 /mnt/file && echo root
            chown 1:1 /mnt/file 2>&1
            cat /proc/self/setgroups
        '''), end="")
        started.context.stop()
        """,
        user=unprivileged_user,
    )
    assert lines[0] == "PPid:\t1"
    assert lines[1] == "root"
    assert "Invalid argument" in lines[2]
    assert lines[3] == "deny"


# -- auto ----------------------------------------------------------------------


AUTO = """
    import service, privsep
    service.network.start()
    try:
        service.network.start()
    except privsep.StartError as error:
        print(error)
    service.network.stop()
"""


@needs_root
def test_auto_is_exec_for_a_process_that_has_the_capabilities(
    public_python: PublicPython,
) -> None:
    assert "started already (exec)" in public_python.run(AUTO)[0]


def test_auto_is_sudo_for_a_user_whom_sudo_allows_the_command(
    public_python: PublicPython,
    unprivileged_user: str,
    sudoers_rule: Callable[[str], None],
) -> None:
    sudoers_rule("service:network")
    lines = public_python.run(AUTO, user=unprivileged_user)
    assert "started already (sudo)" in lines[0]


def test_auto_does_not_take_sudo_where_another_context_is_allowed(
    public_python: PublicPython,
    unprivileged_user: str,
    sudoers_rule: Callable[[str], None],
) -> None:
    sudoers_rule("service:plain")
    lines = public_python.run(
        START_AND_FAIL, "service:network", "auto", "{}", user=unprivileged_user
    )
    assert "exec:" in said_at_once(lines)


def test_auto_says_what_it_tried_and_what_to_do(
    public_python: PublicPython, unprivileged_user: str
) -> None:
    lines = public_python.run(
        START_AND_FAIL, "service:network", "auto", "{}", user=unprivileged_user
    )
    said = said_at_once(lines)
    assert "exec: this process" in said
    assert "lacks CAP_NET_ADMIN" in said
    assert "AmbientCapabilities=" in said
    assert "sudo: " in said
    assert rf"NOPASSWD: {public_python.launcher} service\:network" in said
    assert "start('userns')" in said


def test_auto_waits_for_sudo_no_longer_than_the_deadline(
    public_python: PublicPython, unprivileged_user: str
) -> None:
    silent = public_python.prefix / "bin" / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 60\n")
    silent.chmod(0o755)
    lines = public_python.run(
        START_AND_FAIL,
        "service:network",
        "auto",
        json.dumps({"helper": [str(silent)], "deadline": 0.3}),
        user=unprivileged_user,
    )
    assert f"no answer within 0.3 s: {silent} -n -l" in said_at_once(lines)
