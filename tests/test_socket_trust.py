"""To which socket a client connects: what root alone can have put there."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest
from hostile import PROMPTLY
from listening import Manager, manage, needs_root, public_path
from service import services

import privsep

if TYPE_CHECKING:
    import pwd
    from collections.abc import Callable
    from pathlib import Path

    from public_python import PublicPython

__all__ = ["manage", "public_path"]

pytestmark = needs_root


def _listening_at(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.bind(str(path))
    sock.listen(0)
    return sock


def _start_error(path: Path | str, deadline: float = PROMPTLY) -> str:
    with pytest.raises(privsep.StartError) as caught:
        services["plain"].context.start("socket", path=str(path), deadline=deadline)
    return str(caught.value)


def test_a_socket_that_root_does_not_own_is_not_connected_to(
    public_path: Path, user_entry: pwd.struct_passwd
) -> None:
    path = public_path / "plain.sock"
    with _listening_at(path) as listening:
        listening.settimeout(0)
        os.chown(path, user_entry.pw_uid, -1)
        said = _start_error(path)
        assert f"{path} belongs to uid {user_entry.pw_uid}" in said
        with pytest.raises(BlockingIOError):
            listening.accept()


@pytest.mark.parametrize(
    ("owner", "mode"), [(None, 0o777), (None, 0o1777), (None, 0o775), ("other", 0o755)]
)
def test_a_socket_in_a_directory_of_others_is_not_connected_to(
    public_path: Path, user_entry: pwd.struct_passwd, owner: str | None, mode: int
) -> None:
    directory = public_path / "directory"
    directory.mkdir()
    with _listening_at(directory / "plain.sock") as listening:
        listening.settimeout(0)
        directory.chmod(mode)
        if owner:
            os.chown(directory, user_entry.pw_uid, -1)
        said = _start_error(directory / "plain.sock")
        assert f"{directory} belongs to uid " in said
        assert f"mode {mode:04o}" in said
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_a_path_that_is_no_socket_is_told(public_path: Path) -> None:
    (public_path / "file").touch()
    (public_path / "link").symlink_to("file")
    assert "Socket operation on non-socket" in _start_error(public_path / "file")
    assert "Socket operation on non-socket" in _start_error(public_path / "link")
    said = _start_error(public_path / "absent")
    assert "No such file or directory; is its socket unit installed" in said
    with _listening_at(public_path / "sock"):
        pass
    said = _start_error(public_path / "sock")
    assert "Connection refused; nobody listens there: start its unit" in said


def test_a_link_to_a_socket_is_not_followed_to_where_others_may_write(
    public_path: Path,
) -> None:
    with _listening_at(public_path / "sock") as listening:
        listening.settimeout(0)
        (public_path / "link").symlink_to("sock")
        assert "Socket operation on non-socket" in _start_error(public_path / "link")
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_a_daemon_that_does_not_answer_is_given_up_at_the_deadline(
    public_path: Path,
) -> None:
    with _listening_at(public_path / "sock") as listening:
        expected = "did not answer within 0.2 s"
        assert expected in _start_error(public_path / "sock", 0.2)  # it is not accepted
        assert expected in _start_error(public_path / "sock", 0.2)  # the queue is full
        listening.accept()[0].close()


START = """
    import sys, service, privsep
    try:
        service.plain.start("socket", path=sys.argv[1], deadline=float(sys.argv[2]))
    except privsep.StartError as error:
        print(error)
"""


def test_what_the_socket_does_not_let_a_user_do_is_told(
    manage: Callable[..., Manager],
    public_python: PublicPython,
    unprivileged_user: str,
) -> None:
    manager = manage("service:plain")
    lines = public_python.run(START, manager.path, PROMPTLY, user=unprivileged_user)
    assert "may not connect" in lines[0]
    os.chmod(manager.path, 0o600)
    lines = public_python.run(START, manager.path, PROMPTLY, user=unprivileged_user)
    assert "Permission denied; the socket's mode" in lines[0]
