"""Every way to start a daemon, and every way in which it fails."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import textwrap
import time
from typing import TYPE_CHECKING

import failing
import pytest
from conftest import METHOD
from service import Service, services

import privsep
import scripts
from privsep._start import sudo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Method
    from public_python import PublicPython

# Seconds: what waits for the deadline, which comes twice as late, has failed.
AT_ONCE = 60.0
LATE = 2 * AT_ONCE

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

START_AND_FAIL = f"""
    import json, sys, importlib, time, privsep
    variable, method, options = sys.argv[1:]
    module, name = variable.split(":")
    context = getattr(importlib.import_module(module), name)
    begun = time.monotonic()
    try:
        context.start(method, **{{"deadline": {LATE}, **json.loads(options)}})
    except privsep.StartError as error:
        print(f"{{time.monotonic() - begun:.1f}}", error)
"""

NET_ADMIN = f"{1 << 12:016x}"


@pytest.fixture
def fails_at_once() -> Iterator[None]:
    """The test, which only waits for a start that fails, is over soon."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < AT_ONCE


def said_at_once(lines: list[str]) -> str:
    """Return what START_AND_FAIL caught, after seeing that it came soon."""
    seconds, _, first = lines[0].partition(" ")
    assert float(seconds) < AT_ONCE
    return "\n".join([first, *lines[1:]])


# -- what works ----------------------------------------------------------------


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


# -- what fails: the daemon's own words ----------------------------------------


@pytest.mark.parametrize("method", ["fork", "exec", "userns"])
@pytest.mark.parametrize(
    ("context", "words"),
    [
        (
            failing.raises,
            [
                "could not be started by {method}",
                "RuntimeError: this module does not want to",
                "broken/raises.py",
                "Traceback",
            ],
        ),
        (failing.absent, ["ModuleNotFoundError", "broken.absent"]),
        (failing.exits, ["it ended with status 3"]),
    ],
    ids=["raises", "is absent", "exits"],
)
@pytest.mark.usefixtures("fails_at_once")
def test_a_module_that_does_not_import_is_told(
    context: privsep.Context, words: list[str], method: Method
) -> None:
    with pytest.raises(privsep.StartError) as caught:
        context.start(method, deadline=LATE)
    for word in words:
        assert word.format(method=method) in str(caught.value)


@pytest.mark.parametrize("method", ["fork", "exec"])
@pytest.mark.usefixtures("fails_at_once")
def test_a_daemon_that_is_killed_while_it_starts_is_told(method: Method) -> None:
    with pytest.raises(privsep.StartError, match="ended with status -9"):
        failing.killed.start(method, deadline=LATE)


@pytest.mark.parametrize("method", ["fork", "exec", "userns"])
@pytest.mark.usefixtures("fails_at_once")
def test_an_import_that_hangs_ends_with_the_deadline_and_so_does_the_daemon(
    method: Method,
) -> None:
    with pytest.raises(privsep.StartError, match=r"not ready within 0\.5 s"):
        failing.hangs.start(method, deadline=0.5)


def test_an_import_that_hangs_behind_sudo_ends_with_the_deadline_too(
    public_python: PublicPython,
    unprivileged_user: str,
    sudoers_rule: Callable[[str], None],
) -> None:
    sudoers_rule("failing:hangs")
    lines = public_python.run(
        START_AND_FAIL,
        "failing:hangs",
        "sudo",
        '{"deadline": 0.5}',
        user=unprivileged_user,
    )
    assert "not ready within 0.5 s" in said_at_once(lines)


@pytest.mark.parametrize("method", ["fork", "exec", "userns"])
def test_an_import_that_hangs_ends_when_the_starter_is_killed(
    method: str, tmp_path: Path
) -> None:
    # The leak check sees that the daemon has gone, too.
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    with scripts.begin(
        "import failing, sys; failing.hangs.start(sys.argv[1])",
        method,
        variables={"PRIVSEP_TEST_BEGUN": str(begun)},
    ) as process:
        assert begun.read_text() == "begun"
        process.kill()


@pytest.mark.parametrize("method", ["fork", "exec"])
@pytest.mark.parametrize(
    ("context", "what"),
    [(failing.no_such_user, "user"), (failing.no_such_group, "group")],
    ids=["user", "group"],
)
@pytest.mark.usefixtures("fails_at_once")
def test_a_user_or_group_that_does_not_exist_is_told(
    context: privsep.Context, what: str, method: Method
) -> None:
    with pytest.raises(privsep.StartError) as caught:
        context.start(method, deadline=LATE)
    expected = f"there is no {what} 'privsep-nobody-has-this-name' on this system"
    assert expected in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("method", ["fork", "exec"])
def test_a_capability_that_the_process_does_not_have_is_named(
    public_python: PublicPython, unprivileged_user: str, method: str
) -> None:
    lines = public_python.run(
        START_AND_FAIL, "service:network", method, "{}", user=unprivileged_user
    )
    said = said_at_once(lines)
    assert "CAP_NET_ADMIN is not among the capabilities" in said
    assert "it has: none" in said
    assert "AmbientCapabilities=" in said  # what to do


def test_sudo_that_wants_a_password_is_told_with_the_rule_to_add(
    public_python: PublicPython, unprivileged_user: str
) -> None:
    lines = public_python.run(
        START_AND_FAIL, "service:network", "sudo", "{}", user=unprivileged_user
    )
    said = said_at_once(lines)
    assert "sudo: a password is required" in said
    assert "let sudoers allow it" in said
    assert rf"{public_python.launcher} service\:network" in said


@pytest.mark.usefixtures("fails_at_once")
def test_a_helper_that_does_not_exist_is_named() -> None:
    with pytest.raises(privsep.StartError, match="privsep-no-such-helper"):
        services["plain"].context.start(
            "sudo", helper=["privsep-no-such-helper"], deadline=LATE
        )


@pytest.mark.usefixtures("fails_at_once")
def test_a_helper_that_hangs_is_ended_with_the_deadline() -> None:
    hanging = ["sh", "-c", "echo password? >&2; exec tail -f /dev/null"]
    with pytest.raises(privsep.StartError) as caught:
        services["plain"].context.start("sudo", helper=hanging, deadline=0.5)
    assert "not ready within 0.5 s" in str(caught.value)
    assert "password?" in str(caught.value)


_ASKS = """
echo privsep-daemon: waiting for the path of a socket >&2
dd bs=4096 count=1 >/dev/null 2>&1
"""
_INTERRUPT = "kill -INT $PPID; exec tail -f /dev/null"
#: after each, the client of `_MEETS` fails in its own way
_AFTER_ASKING = {
    "the helper ends": "exit 1",
    "the helper hangs": "exec tail -f /dev/null",
    "the client is interrupted": _INTERRUPT,
    "the client is interrupted as it gives up": f"cat; {_INTERRUPT}",
}
_MEETS = """
    import os, sys
    import privsep
    from service import services
    try:
        services["plain"].context.start(
            "sudo", helper=["sh", "-c", sys.argv[1]], deadline=1
        )
    except (privsep.StartError, OSError, KeyboardInterrupt):
        print(os.listdir(os.environ["TMPDIR"]))
"""


@pytest.mark.parametrize("way", _AFTER_ASKING)
def test_a_start_that_fails_when_it_had_a_path_leaves_no_name(
    way: str, tmp_path: Path
) -> None:
    helper = _ASKS + _AFTER_ASKING[way]
    variables = {"TMPDIR": str(tmp_path)}
    assert scripts.run(_MEETS, helper, variables=variables) == ["[]"]


def test_a_path_that_is_too_long_for_a_socket_leaves_no_name(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    helper = f"{_ASKS}exit 1"
    variables = {"TMPDIR": str(deep)}
    assert scripts.run(_MEETS, helper, variables=variables) == ["[]"]


def test_a_lack_of_descriptors_for_the_path_leaves_no_name(tmp_path: Path) -> None:
    script = """
    import os, resource
    from privsep._start.meeting import Meeting
    free = os.open("/", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
    try:
        Meeting()
    except OSError as error:
        print(error.strerror)
    """
    variables = {"TMPDIR": str(tmp_path)}
    assert scripts.run(script, variables=variables) == ["Too many open files"]
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("fails_at_once")
def test_a_helper_that_fails_is_told_with_its_words() -> None:
    with pytest.raises(privsep.StartError) as caught:
        services["plain"].context.start(
            "sudo", helper=["sh", "-c", "echo I will not >&2; exit 7"], deadline=LATE
        )
    assert "it ended with status 7" in str(caught.value)
    assert "I will not" in str(caught.value)
    assert "let sudoers allow it" in str(caught.value)


@pytest.mark.usefixtures("fails_at_once")
def test_doas_that_fails_is_told_with_the_line_of_its_own_file(tmp_path: Path) -> None:
    doas = tmp_path / "doas"
    doas.write_text("#!/bin/sh\nexit 1\n")
    doas.chmod(0o755)
    context = services["plain"].context
    with pytest.raises(privsep.StartError) as caught:
        context.start("sudo", helper=[str(doas), "-n"], deadline=LATE)
    said = str(caught.value)
    user = pwd.getpwuid(os.getuid()).pw_name
    assert "let doas.conf allow it (/etc/doas.conf):\n" in said
    assert f"  permit nopass {user} as root cmd " in said
    assert " args service:plain\n" in said
    assert "sudoers" not in said


def test_a_context_in_main_cannot_be_started_by_exec() -> None:
    lines = scripts.run(
        """
        import privsep
        context = privsep.Context("here", capabilities=[])
        for method in ("exec", "userns", "sudo", "auto"):
            try:
                context.start(method)
            except privsep.StartError as error:
                print(error)
        """
    )
    assert len(lines) == 4
    assert all("move it to a module, or start it with 'fork'" in x for x in lines)


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
def test_a_context_in_no_variable_cannot_be_started_by_exec() -> None:
    with pytest.raises(privsep.StartError, match="assign it to one"):
        failing.in_no_variable[0].start("exec")


@pytest.mark.usefixtures("fails_at_once")
def test_a_context_in_no_variable_is_started_by_fork() -> None:
    failing.in_no_variable[0].start("fork")
    failing.in_no_variable[0].stop()


@pytest.mark.usefixtures("fails_at_once")
def test_a_daemon_of_another_user_cannot_run_in_a_user_namespace() -> None:
    with pytest.raises(privsep.StartError, match=r"user='nobody'.*only root is mapped"):
        failing.for_nobody.start("userns")


def test_an_unknown_namespace_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="no namespace 'network'; there are: net, "):
        services["plain"].context.start("userns", namespaces=["network"])


def test_an_unknown_method_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="no start method 'spawn'; there are: auto, "):
        services["plain"].context.start("spawn")  # type: ignore[arg-type]  # what is tried


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


# -- user namespaces -----------------------------------------------------------


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


@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
def test_forbidden_user_namespaces_are_told_with_the_sysctl() -> None:
    # In a user namespace the sysctl is its own; nothing of the system changes.
    lines = scripts.run(
        START_AND_FAIL,
        "service:plain",
        "userns",
        "{}",
        before=[
            *("unshare", "--user", "--map-root-user", "sh", "-c"),
            'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"',
            "sh",
        ],
    )
    said = said_at_once(lines)
    assert "sysctl user.max_user_namespaces is 0" in said
    assert "Traceback" not in said


@pytest.mark.usefixtures("fails_at_once")
@pytest.mark.parametrize("method", ["exec", METHOD])
def test_a_module_that_starts_a_daemon_when_imported_is_told_by_the_first(
    method: str,
) -> None:
    with pytest.raises(privsep.StartError, match="a daemon starts no daemon"):
        failing.starts.start(method, deadline=LATE)  # type: ignore[arg-type]


def test_the_rule_in_the_message_is_one_that_sudoers_takes(tmp_path: Path) -> None:
    rule = tmp_path / "rule"
    rule.write_text(f"{sudo.rule(failing.raises)}\n")
    assert subprocess.run(["visudo", "-c", "-f", rule], check=False).returncode == 0
