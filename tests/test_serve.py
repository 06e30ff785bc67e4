"""``privsep serve``: its socket, what it drops, and what its manager hears."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trivial
from hostile import PROMPTLY
from listening import (
    LISTENING,
    NET_ADMIN,
    OTHERS,
    Manager,
    greeting_of,
    manage,
    needs_root,
    public_path,
    reach,
)
from observe import wait_for_rest
from public_python import etc_as_it_is
from service import Service, services

if TYPE_CHECKING:
    import pwd
    from collections.abc import Callable

    from public_python import PublicPython

__all__ = ["etc_as_it_is", "manage", "public_path", "reach"]

pytestmark = needs_root


# -- where it listens -------------------------------------------------------------


needs_activate = pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None,
    reason="systemd-socket-activate is not installed",
)


@needs_activate
@pytest.mark.usefixtures("etc_as_it_is")
def test_systemd_socket_activate_starts_the_daemon_at_the_first_connection(
    public_python: PublicPython, public_path: Path
) -> None:
    path = str(public_path / "daemon.sock")
    activate = subprocess.Popen(
        [
            *("systemd-socket-activate", "--seqpacket", f"--listen={path}"),
            *(public_python.command, "serve", "service:network"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert activate.stderr is not None
    with activate:
        assert "Listening on" in activate.stderr.readline()
        services["network"].context.start("socket", path=path, deadline=PROMPTLY)
        try:
            status = services["network"].context.status()
        finally:
            services["network"].context.stop()
            activate.terminate()
    assert (status.pid, status.permitted) == (activate.pid, NET_ADMIN)


@pytest.mark.usefixtures("etc_as_it_is")
def test_a_daemon_listens_at_a_path_in_the_place_of_one_that_has_ended(
    public_python: PublicPython, public_path: Path
) -> None:
    path = public_path / "daemon.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as earlier:
        earlier.bind(str(path))
    before = path.stat().st_ino
    command = [public_python.command, "serve", "--listen", str(path), "service:plain"]
    notify = public_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.settimeout(PROMPTLY)
        notices.bind(str(notify))
        daemon = subprocess.Popen(command, env={"NOTIFY_SOCKET": str(notify)})
        said = notices.recv(4096)
    try:
        assert said == b"READY=1"
        assert path.stat().st_ino != before
        service = services["plain"]
        service.context.start("socket", path=str(path), deadline=PROMPTLY)
        assert service.context.status().pid == daemon.pid
        service.context.stop()
    finally:
        daemon.terminate()
        daemon.wait(PROMPTLY)
    assert {*os.listdir(public_path)} == {"daemon.sock", "notify"}


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (["serve", "service:plain"], {}, "0 listening sockets were passed"),
        (
            ["serve", "service:plain"],
            {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
            "0 listening sockets were passed",
        ),
        (["serve"], {}, "usage: privsep serve"),
        (["serve", "--listen", "/tmp"], {}, "usage: privsep serve"),
        (["serve", "--help"], {}, "usage: privsep serve"),
        (
            ["serve", "--listen", "/nowhere/plain.sock", "service:plain"],
            {},
            (
                "privsep serve: cannot listen at /nowhere/plain.sock: No such file or "
                "directory\n"
            ),
        ),
    ],
)
def test_a_daemon_that_cannot_listen_says_why(
    public_python: PublicPython,
    words: list[str],
    environment: dict[str, str],
    said: str,
) -> None:
    done = subprocess.run(
        [public_python.command, *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert said in done.stderr


def test_who_may_not_listen_is_told_where_and_to_be_root(
    public_python: PublicPython, user_entry: pwd.struct_passwd
) -> None:
    uid = user_entry.pw_uid
    become = ["setpriv", f"--reuid={uid}", "--clear-groups"]
    words = ["serve", "--listen", "/etc/plain.sock", "service:plain"]
    done = subprocess.run(
        [*become, public_python.command, *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        1,
        (
            "privsep serve: cannot listen at /etc/plain.sock: Permission denied: run "
            f"it as root (this is uid {uid})\n"
        ),
    )


@pytest.mark.parametrize(("uid", "mode"), [(OTHERS, 0o755), (0, 0o1777)])
def test_a_daemon_listens_at_no_path_where_others_may_write(
    public_python: PublicPython, public_path: Path, uid: int, mode: int
) -> None:
    """They could exchange the name between bind(2) and chmod(2), or rename(2)."""
    place = public_path / "place"
    place.mkdir()
    place.chmod(mode)
    os.chown(place, uid, uid)
    (public_path / "link").symlink_to(place)
    for directory in ("place", "link", "place/.."):
        path = f"{public_path}/{directory}/daemon.sock"
        command = [public_python.command, "serve", "--listen", path, "service:plain"]
        # Where it is not refused, it ends because nobody hears that it is ready.
        notify = {"NOTIFY_SOCKET": "/nowhere"}
        done = subprocess.run(
            command, env=notify, capture_output=True, text=True, check=False
        )
        refused = f"{place} belongs to uid {uid}" in done.stderr
        assert refused is (directory != "place/.." or uid != 0), done.stderr
    assert not os.listdir(place)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, None])
def test_a_socket_of_another_kind_is_refused(
    public_python: PublicPython, public_path: Path, kind: int | None
) -> None:
    with socket.socket(socket.AF_UNIX, kind or socket.SOCK_SEQPACKET) as sock:
        if kind == socket.SOCK_STREAM:
            sock.bind(str(public_path / "sock"))
            sock.listen()
        done = subprocess.run(
            [
                *("sh", "-c", LISTENING, "sh", public_python.command),
                "serve",
                "service:plain",
            ],
            stdin=sock.fileno(),
            capture_output=True,
            text=True,
            check=False,
            timeout=PROMPTLY,
        )
    assert done.returncode == 1
    assert "ListenSequentialPacket=" in done.stderr


def test_a_module_that_does_not_import_is_told_on_stderr(
    manage: Callable[..., Manager],
) -> None:
    manager = manage("failing:raises", ready=False)
    said = manager.begin().communicate(timeout=PROMPTLY)[1]
    assert "RuntimeError: this module does not want to" in said
    assert "broken/raises.py" in said


# -- what it holds, and what it drops ----------------------------------------------


def test_a_daemon_that_listens_loads_neither_the_command_line_nor_the_client(
    manage: Callable[..., Manager],
) -> None:
    path = manage("trivial:context").path
    trivial.context.start("socket", path=path, deadline=PROMPTLY)
    try:
        loaded = trivial.loaded_modules()
    finally:
        trivial.context.stop()
    unwanted = {"argparse", "logging", "privsep.cli", "privsep._client", "tomllib"}
    assert not unwanted.intersection(loaded)


def test_a_worker_has_of_all_sockets_its_channel_and_its_log_line(
    manage: Callable[..., Manager], reach: Callable[..., Service]
) -> None:
    """Not the one where clients connect, nor the manager's, nor what was inherited."""
    before = ["sh", "-c", 'exec 5<&3 && exec "$@"', "sh"]
    for name in ("plain", "network"):
        service = reach(manage(f"service:{name}", before=before), name)
        assert len(service.sockets()) == 2


def test_a_daemon_that_starts_with_capabilities_and_without_root_drops_the_rest(
    manage: Callable[..., Manager],
    reach: Callable[..., Service],
    user_entry: pwd.struct_passwd,
) -> None:
    """As systemd grants them: AmbientCapabilities=, DynamicUser=, NoNewPrivileges=."""
    granted = "+net_admin,+chown"
    before = [
        *("setpriv", f"--reuid={user_entry.pw_uid}", f"--regid={user_entry.pw_gid}"),
        *("--clear-groups", "--no-new-privs", f"--bounding-set=-all,{granted}"),
        *(f"--inh-caps={granted}", f"--ambient-caps={granted}"),
    ]
    service = reach(manage("service:network", before=before), "network")
    status = service.context.status()
    assert status.uids == (user_entry.pw_uid,) * 4
    assert status.permitted == status.effective == NET_ADMIN
    assert status.ambient == status.inheritable == 0
    # Without CAP_SETPCAP it stays as the unit has it, and no_new_privs holds.
    assert status.bounding == NET_ADMIN | 1
    assert status.no_new_privs


def test_a_daemon_that_lacks_a_capability_of_its_context_does_not_start(
    manage: Callable[..., Manager], user_entry: pwd.struct_passwd
) -> None:
    before = ["setpriv", f"--reuid={user_entry.pw_uid}", "--clear-groups"]
    manager = manage("service:network", ready=False, before=before)
    said = manager.begin().communicate(timeout=PROMPTLY)[1]
    assert "CAP_NET_ADMIN is not among the capabilities" in said
    assert "AmbientCapabilities=" in said


# -- what the manager hears -----------------------------------------------------


def test_the_manager_hears_ready_reloading_and_stopping(
    manage: Callable[..., Manager], user_entry: pwd.struct_passwd
) -> None:
    manager = manage("service:plain")
    uid, gid = user_entry.pw_uid, user_entry.pw_gid
    file = Path(manager.path).parent / "etc/privsep/contexts.d/service:plain.toml"
    file.write_text(f"users = [{uid}]")
    assert greeting_of(manager.path, uid, gid) != "ready"
    manager.send_signal(signal.SIGHUP)
    name, when = manager.hear().split("\n")
    assert name == "RELOADING=1"
    assert when.startswith("MONOTONIC_USEC=")
    assert manager.hear() == "READY=1"
    assert greeting_of(manager.path, uid, gid) == "ready"
    file.write_text("users = 1")
    manager.send_signal(signal.SIGHUP)
    manager.hear()
    assert manager.hear() == "READY=1"
    assert greeting_of(manager.path, uid, gid) == "ready"
    said = manager.end()
    assert "who may connect stays as it was: " in said
    assert manager.hear() == "STOPPING=1"


def test_the_manager_hears_signs_of_life_at_twice_the_pace_that_it_asks_for(
    manage: Callable[..., Manager],
) -> None:
    manager = manage("service:plain", variables={"WATCHDOG_USEC": "100000"})
    assert [manager.hear() for _ in range(3)] == ["WATCHDOG=1"] * 3


def test_a_daemon_without_a_watchdog_gives_no_signs_of_life(
    manage: Callable[..., Manager],
) -> None:
    manager = manage("service:plain")
    wait_for_rest(manager.pid)
