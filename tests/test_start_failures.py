"""A start that fails says why, in the daemon's own words, and what to do."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from typing import TYPE_CHECKING

import failing
import pytest
from conftest import METHOD
from service import services
from start_scripts import LATE, START_AND_FAIL, fails_at_once, said_at_once

import privsep
import scripts
from privsep._start import sudo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Method
    from public_python import PublicPython

__all__ = ["fails_at_once"]


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
def test_a_helper_that_hangs_is_ended_with_the_deadline(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    hanging = f"echo password? >&2; : > {asked}; exec tail -f /dev/null"
    said = ""
    while not asked.exists():  # on a busy machine the deadline may pass before
        with pytest.raises(privsep.StartError) as caught:
            services["plain"].context.start(
                "sudo", helper=["sh", "-c", hanging], deadline=0.5
            )
        said = str(caught.value)
    assert "not ready within 0.5 s" in said
    assert "password?" in said


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


@pytest.mark.usefixtures("fails_at_once")
def test_a_context_in_no_variable_cannot_be_started_by_exec() -> None:
    with pytest.raises(privsep.StartError, match="assign it to one"):
        failing.in_no_variable[0].start("exec")


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
@pytest.mark.parametrize("context", [failing.starts, failing.enters, failing.asks])
def test_a_module_that_starts_a_daemon_when_imported_is_told_by_the_first(
    context: privsep.Context, method: Method
) -> None:
    with pytest.raises(privsep.StartError, match="a daemon starts no daemon"):
        context.start(method, deadline=LATE)


def test_the_rule_in_the_message_is_one_that_sudoers_takes(tmp_path: Path) -> None:
    rule = tmp_path / "rule"
    rule.write_text(f"{sudo.rule(failing.raises)}\n")
    assert subprocess.run(["visudo", "-c", "-f", rule], check=False).returncode == 0
