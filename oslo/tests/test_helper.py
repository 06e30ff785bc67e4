"""``privsep-helper``: what it takes, whom it serves, and what it leaves."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import environments
import pytest
from clients import needs_root, place, run

__all__ = ["place"]


def _helper(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    program = Path(environments.python("ours")).with_name("privsep-helper")
    return subprocess.run(
        [program, *words],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_the_helper_says_what_it_takes() -> None:
    assert _helper("--help").returncode == 0
    for words in (
        (),
        ("--nonsense",),
        ("--privsep_context", "a.b"),
        ("--config-file",),
    ):
        done = _helper(*words)
        assert done.returncode == 2
        assert done.stderr.startswith("privsep-helper: ")


def test_the_helper_takes_the_options_of_oslo_log(place: Path) -> None:
    done = _helper(
        "--debug",
        "--log-file",
        "/x",
        "--log-dir=/y",
        "--use-syslog",
        "--privsep_context",
        "a.b",
        "--privsep_sock_path",
        str(place / "none"),
    )
    assert done.returncode == 1
    assert "No such file" in done.stderr


def _listen(place: Path) -> tuple[socket.socket, str]:
    path = str(place / "sock")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen()
    return listener, path


def test_the_helper_serves_none_but_whoever_called_sudo(place: Path) -> None:
    listener, path = _listen(place)
    with listener:
        words = (
            "--privsep_context",
            "neutronlike.default",
            "--privsep_sock_path",
            path,
        )
        done = _helper(*words, SUDO_UID="12345", SUDO_GID="12345")
        assert done.returncode == 1
        _check_nobody_came(listener)


def _check_nobody_came(listener: socket.socket) -> None:
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()


@needs_root
@pytest.mark.parametrize("variables", [{}, {"SUDO_UID": "65533", "SUDO_GID": "65533"}])
def test_the_helper_does_not_come_to_a_socket_that_another_user_made(
    place: Path, variables: dict[str, str]
) -> None:
    """Its mode keeps the caller from it, and would not keep root."""
    listener, path = _listen(place)
    place.chmod(0o755)
    os.chown(path, 65534, 65534)
    os.chmod(path, 0o600)
    with listener:
        words = ("--privsep_context", "os.path", "--privsep_sock_path", path)
        done = _helper(*words, **variables)
        assert done.returncode == 1
        assert "is not a socket that uid" in done.stderr
        _check_nobody_came(listener)


@needs_root
@pytest.mark.parametrize("name", ["there", "missing"])
def test_the_helper_does_not_tell_what_is_in_a_directory_that_its_caller_cannot_enter(
    place: Path, name: str
) -> None:
    hidden = place / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "there").touch()
    place.chmod(0o755)
    listener, path = _listen(place)
    os.chown(path, 65534, 65534)
    os.setegid(65534)
    os.seteuid(65534)
    listener.listen()  # what the kernel notes of it
    os.seteuid(0)
    os.setegid(0)
    caller = {"SUDO_UID": "65534", "SUDO_GID": "65534"}
    with listener:
        words = ("--privsep_context", "os.path", "--privsep_sock_path")
        done = _helper(*words, str(hidden / name), **caller)
        assert f"Permission denied: '{hidden / name}'" in done.stderr
        _helper(*words, path, "--config-file", str(hidden / name), **caller)
        control, _ = listener.accept()
        with control:
            said = control.recv(64 * 1024)
    assert f"--config-file {hidden / name}: Permission denied".encode() in said


@needs_root
def test_the_helper_opens_no_device_that_a_configuration_file_leads_to(
    place: Path,
) -> None:
    """The open alone may do something; this one makes a terminal."""
    listener, path = _listen(place)
    link = place / "link"
    link.symlink_to("/dev/ptmx")
    os.chown(place, 65534, 65534)
    trace = place / "trace"
    helper = Path(environments.python("ours")).with_name("privsep-helper")
    tracing = ("strace", "-f", "-e", "trace=openat", "-o", str(trace))
    words = ("--privsep_context", "os.path", "--privsep_sock_path", path)
    with listener:
        subprocess.run(
            [*tracing, helper, *words, "--config-file", str(link)],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        control, _ = listener.accept()
        with control:
            assert b"it is no file" in control.recv(64 * 1024)
    opened = [line for line in trace.read_text().splitlines() if str(link) in line]
    assert opened
    assert all("O_PATH" in line for line in opened)


@pytest.mark.parametrize(
    "name", ["os.path", "neutronlike.operations.STATE", "none.none", "neutronlike.copy"]
)
def test_the_helper_refuses_what_is_no_context_under_its_own_name(
    place: Path, name: str
) -> None:
    listener, path = _listen(place)
    with listener:
        done = _helper("--privsep_context", name, "--privsep_sock_path", path)
        assert done.returncode == 1
        control, _ = listener.accept()
        with control:
            reply = control.recv(64 * 1024)
            assert b"is not the pypath" in reply or b"ModuleNotFoundError" in reply
            assert control.recv(1) == b""


@pytest.mark.parametrize("helper", ["", "false", "/nonexistent"])
def test_nothing_is_left_of_the_socket_however_a_start_ends(helper: str) -> None:
    said = run(
        f"""
logging.getLogger("oslo.privsep.daemon").setLevel(logging.INFO)
if {helper!r}:
    cfg.CONF.set_override("helper_command", {helper!r}, group="neutronlike")
try:
    operations.echo(1)
except (daemon.FailedToDropPrivileges, OSError):
    pass
(line,) = [text for _, text in logged if text.startswith("Running privsep helper")]
path = line.split("'")[-2]
print(json.dumps([path, os.path.lexists(os.path.dirname(path))]))
"""
    )
    assert said[0].startswith("/tmp/")
    assert said[1] is False


@needs_root
def test_a_helper_in_whose_place_another_user_connects_is_not_used(
    place: Path,
) -> None:
    # Whoever could enter the directory: only root can, and lets another in here.
    impostor = place / "impostor"
    impostor.write_text(
        """#!/usr/bin/env python3
import os, socket, sys
path = sys.argv[sys.argv.index("--privsep_sock_path") + 1]
os.chmod(os.path.dirname(path), 0o711); os.chmod(path, 0o777)
os.setuid(65534)
control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
control.connect(path)
control.recv(1)
"""
    )
    impostor.chmod(0o755)
    said = run(
        f"""
cfg.CONF.set_override("helper_command", {str(impostor)!r}, group="neutronlike")
try:
    operations.echo(1)
except daemon.FailedToDropPrivileges as error:
    print(json.dumps(str(error)))
"""
    )
    assert "uid 65534" in said
