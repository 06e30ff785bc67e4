"""Start method ``socket``: daemons that listen, and the clients that share one.

The test plays systemd: it makes the socket, starts the daemon with it, hears what the
daemon says to its manager, and starts it again.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trivial
from forks import Child, in_child
from hostile import PROMPTLY
from listening import (
    LISTENING,
    Manager,
    connect,
    greeting,
    greeting_of,
    manage,
    own_mounts,
    public_path,
)
from observe import Fifo, Release, wait_for_rest
from service import Service, services

import privsep
import scripts

if TYPE_CHECKING:
    import pwd
    from collections.abc import Callable, Iterator

    from public_python import PublicPython

__all__ = ["manage", "public_path"]

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0,
    reason="needs root: a daemon does not let its own user in, and others it cannot be",
)

NET_ADMIN = 1 << 12
OTHERS = 4_000_000_001  # a uid, a gid, that nobody has


@pytest.fixture
def reach() -> Iterator[Callable[..., Service]]:
    """Return a function that connects this process, which is root, to a daemon."""
    reached: list[Service] = []

    def connect_to(manager: Manager, name: str = "plain") -> Service:
        service = services[name]
        service.context.start("socket", path=manager.path, deadline=PROMPTLY)
        reached.append(service)
        return service

    yield connect_to
    for service in reached:
        service.context.stop()


# -- it works -------------------------------------------------------------------


def test_a_daemon_that_systemd_started_serves_with_the_capability_of_its_context(
    manage: Callable[..., Manager], reach: Callable[..., Service]
) -> None:
    manager = manage("service:network")
    service = reach(manager, "network")
    status = service.context.status()
    assert (status.method, status.pid) == ("socket", manager.pid)
    assert status.permitted == status.bounding == NET_ADMIN
    assert service.echo("value") == "value"


CLIENT = """
    import sys, service
    plain = service.services["plain"]
    plain.context.start("socket", path=sys.argv[1])
    print(plain.context.status().pid)
    print(plain.echo("value"), flush=True)
    sys.stdin.read()
    print(plain.echo("again"))
    plain.context.stop()
"""


def test_several_clients_of_several_users_share_one_daemon(
    manage: Callable[..., Manager],
    reach: Callable[..., Service],
    public_python: PublicPython,
    unprivileged_user: str,
) -> None:
    manager = manage("service:plain", f'users = ["{unprivileged_user}"]')
    service = reach(manager)
    with public_python.begin(
        CLIENT, manager.path, user=unprivileged_user, stdin=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        assert client.stdin is not None
        pid = int(client.stdout.readline())
        assert client.stdout.readline() == "value\n"
        assert pid == service.context.status().pid == manager.pid
        service.context.stop()  # the other one's daemon stays
        client.stdin.close()
        assert client.stdout.readline() == "again\n"


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_a_client_that_is_monkey_patched_connects(
    manage: Callable[..., Manager], library: str
) -> None:
    patch = {
        "gevent": "from gevent import monkey; monkey.patch_all()",
        "eventlet": "import eventlet; eventlet.monkey_patch()",
    }
    script = f"""
        {patch[library]}
        import sys, service
        plain = service.services["plain"]
        plain.context.start("socket", path=sys.argv[1])
        print(plain.echo("value"))
        plain.context.stop()
    """
    manager = manage("service:plain")
    variables = {"EVENTLET_HUB": "poll", "PYTHONWARNINGS": "ignore"}
    assert scripts.run(script, manager.path, variables=variables) == ["value"]


def test_a_daemon_that_listens_loads_neither_the_command_line_nor_the_client(
    manage: Callable[..., Manager],
) -> None:
    trivial.context.start("socket", path=manage("trivial:context").path)
    try:
        loaded = trivial.loaded_modules()
    finally:
        trivial.context.stop()
    unwanted = {"argparse", "logging", "privsep.cli", "privsep._client", "tomllib"}
    assert not unwanted.intersection(loaded)


def test_who_is_not_let_in_is_in_the_audit(
    manage: Callable[..., Manager],
) -> None:
    manager = manage("generated:audited")
    file = Path(manager.path).parent / "etc" / "audit.jsonl"
    greeting_of(manager.path, OTHERS, OTHERS)
    manager.end()
    records = [json.loads(line) for line in file.read_text().splitlines()]
    (refused,) = [record for record in records if record["event"] == "refused"]
    assert refused["peer"]["uid"] == OTHERS
    assert refused["reason"] == f"uid {OTHERS}, gid {OTHERS} may not connect"


def test_a_daemon_without_clients_stays(manage: Callable[..., Manager]) -> None:
    manager = manage("service:plain")
    for _ in range(2):
        with connect(manager.path) as sock:
            assert greeting(sock) == "ready"


def test_a_forked_client_shares_the_connection(
    manage: Callable[..., Manager], reach: Callable[..., Service]
) -> None:
    service = reach(manage("service:plain"))
    assert in_child(lambda: service.echo("of the child")) == "of the child"
    assert service.echo("of the parent") == "of the parent"


def test_what_a_function_prints_and_logs_reaches_its_own_client(
    manage: Callable[..., Manager],
    reach: Callable[..., Service],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    service = reach(manage("service:plain"))
    service.write_output("printed")
    service.log_message(30, "logged")
    service.context.stop()
    assert "logged" in caplog.messages
    assert any("printed" in message for message in caplog.messages)


def test_what_threads_print_and_log_goes_to_the_journal_and_to_no_client(
    manage: Callable[..., Manager],
    reach: Callable[..., Service],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    manager = manage("service:threaded")
    service = reach(manager, "threaded")
    service.log_message(30, "of the call")
    service.log_from_thread("of a thread")
    service.write_output("printed")
    service.context.stop()
    said = manager.end()
    assert "of a thread" in said
    assert "printed" in said
    assert caplog.messages == ["of the call"]


def test_a_worker_has_of_all_sockets_its_channel_and_its_log_line(
    manage: Callable[..., Manager], reach: Callable[..., Service]
) -> None:
    """Not the one where clients connect, nor the manager's, nor what was inherited."""
    before = ["sh", "-c", 'exec 5<&3 && exec "$@"', "sh"]
    for name in ("plain", "network"):
        service = reach(manage(f"service:{name}", before=before), name)
        assert len(service.sockets()) == 2


# -- who is let in --------------------------------------------------------------


def test_root_alone_is_let_in_without_a_file_of_root(
    manage: Callable[..., Manager], user_entry: pwd.struct_passwd
) -> None:
    path = manage("service:plain").path
    assert greeting_of(path, 0, 0) == "ready"
    refusal = greeting_of(path, user_entry.pw_uid, user_entry.pw_gid)
    assert refusal == (
        f"uid {user_entry.pw_uid}, gid {user_entry.pw_gid} may not connect"
    )


def test_a_user_is_let_in_by_name_or_number_and_by_any_of_its_groups(
    manage: Callable[..., Manager], user_entry: pwd.struct_passwd
) -> None:
    user, uid, gid = user_entry.pw_name, user_entry.pw_uid, user_entry.pw_gid
    admission = f'users = ["{user}", {OTHERS}]\ngroups = ["{user}", {OTHERS + 1}]'
    path = manage("service:plain", admission).path
    nobody = OTHERS - 1
    for expected, uid_of_peer, gid_of_peer, groups in (
        (True, uid, OTHERS, []),
        (True, OTHERS, OTHERS, []),
        (True, nobody, gid, []),
        (True, nobody, OTHERS + 1, []),
        (True, nobody, OTHERS, [1, gid]),
        (False, nobody, OTHERS, []),
        (False, OTHERS + 1, OTHERS, [0, 1]),
    ):
        said = greeting_of(path, uid_of_peer, gid_of_peer, groups)
        assert (said == "ready") == expected, (uid_of_peer, gid_of_peer, groups)


OF_UNIT = {
    "/system.slice/my.service": True,
    "/system.slice/my.service/of/its/own": True,
    "/my.service": True,
    "/system.slice/other.service": False,
    "/system.slice/other.service/my.service": False,
    "/user.slice/user-1.slice/user@1.service/app.slice/my.service": False,
    "/../my.service": False,
    "/my.slice/my": False,
    "/": False,
}


class Waiting:
    """A user's process that connects when it is told where."""

    def __init__(self, uid: int) -> None:
        self._ours, theirs = socket.socketpair()

        def knock() -> str:
            self._ours.close()
            os.setresuid(uid, uid, uid)
            with connect(theirs.recv(4096).decode()) as sock:
                return greeting(sock)

        self._child = Child(knock)
        self.pid = self._child.pid
        theirs.close()

    def knock(self, path: str) -> str:
        with self._ours:
            self._ours.send(path.encode())
            return self._child.result()


def test_a_process_is_let_in_by_the_unit_that_its_cgroup_is_of(
    manage: Callable[..., Manager], public_path: Path
) -> None:
    # The daemon sees for each a file of its own in the place of /proc/PID/cgroup.
    waiting = {cgroup: Waiting(OTHERS) for cgroup in OF_UNIT}
    mounts = {}
    for number, (cgroup, process) in enumerate(waiting.items()):
        file = public_path / f"cgroup{number}"
        file.write_text(f"1:name=systemd:/my.service\n0::{cgroup}\n")
        mounts[f"/proc/{process.pid}/cgroup"] = file
    path = manage("service:plain", 'units = ["my.service"]', mounts=mounts).path
    found = {cgroup: each.knock(path) for cgroup, each in waiting.items()}
    assert {cgroup: words == "ready" for cgroup, words in found.items()} == OF_UNIT
    assert "of other.service may not connect" in found["/system.slice/other.service"]


def test_a_file_of_root_that_cannot_be_used_ends_the_start(
    manage: Callable[..., Manager], unprivileged_user: str
) -> None:
    for admission, words in (
        ("users = [", "network.toml: "),
        ('users = "root"', "network.toml: users: it is 'root'; it must be a list"),
        ('capabilities = ["CAP_CHOWN"]', "network asks for CAP_NET_ADMIN, which"),
        ('users = ["nobody-has-this"]', "there is no user 'nobody-has-this'"),
    ):
        manager = manage("service:network", admission, ready=False)
        said = manager.begin().communicate(timeout=PROMPTLY)[1]
        assert manager.daemon is not None
        assert manager.daemon.returncode == 1
        assert words in said


def test_a_file_that_somebody_else_could_write_lets_nobody_in(
    manage: Callable[..., Manager], user_entry: pwd.struct_passwd
) -> None:
    admission = f"users = [{user_entry.pw_uid}]"
    manager = manage("service:plain", admission, ready=False)
    file = Path(manager.path).parent / "etc/privsep/contexts.d/service:plain.toml"
    os.chown(file, user_entry.pw_uid, -1)
    said = manager.begin().communicate(timeout=PROMPTLY)[1]
    assert (
        f"/etc/privsep/contexts.d/service:plain.toml belongs to uid {user_entry.pw_uid}"
        in said
    )


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


# -- the end, and the next daemon -----------------------------------------------


def test_running_calls_are_finished_when_the_manager_stops_the_daemon(
    manage: Callable[..., Manager], reach: Callable[..., Service], tmp_path: Path
) -> None:
    manager = manage("service:plain")
    service = reach(manager)
    with Fifo(tmp_path, "begun") as begun, Release(tmp_path) as release:
        results: list[object] = []
        caller = threading.Thread(
            target=lambda: results.append(
                service.tell_and_wait(begun.path, release.path)
            )
        )
        caller.start()
        begun.wait_until_let_go()
        manager.send_signal(signal.SIGTERM)
        assert manager.hear() == "STOPPING=1"
        release.let_go()
        caller.join()
    assert results == ["waited"]
    assert manager.daemon is not None
    assert manager.daemon.wait(PROMPTLY) == 0


def test_a_call_that_runs_when_the_daemon_is_killed_ends_and_is_not_sent_again(
    manage: Callable[..., Manager], reach: Callable[..., Service], tmp_path: Path
) -> None:
    manager = manage("service:plain")
    service = reach(manager)
    first = service.context.status().pid
    with Fifo(tmp_path, "begun") as begun, Release(tmp_path) as release:
        errors: list[BaseException] = []

        def call() -> None:
            try:
                service.tell_and_wait(begun.path, release.path)
            except privsep.PrivsepError as error:
                errors.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        begun.wait_until_let_go()
        manager.end(signal.SIGKILL)
        caller.join()
        assert [type(error) for error in errors] == [privsep.DaemonGone]
        manager.start()
        assert service.echo("again") == "again"
        assert not begun.is_held()
    assert service.context.status().pid == manager.pid != first


def test_whoever_connects_while_there_is_no_daemon_waits_for_the_next(
    manage: Callable[..., Manager], reach: Callable[..., Service]
) -> None:
    manager = manage("service:plain")
    manager.end()
    manager.hear()
    waiting = threading.Thread(target=reach, args=(manager,))
    waiting.start()
    manager.start()
    waiting.join()
    assert services["plain"].echo("value") == "value"


def test_the_next_call_of_each_thread_finds_the_daemon_that_was_restarted(
    manage: Callable[..., Manager], reach: Callable[..., Service]
) -> None:
    manager = manage("service:plain")
    service = reach(manager)
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        threads = [threading.Thread(target=service.echo, args=(1,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        manager.end(number)
        if number == signal.SIGTERM:
            assert manager.hear() == "STOPPING=1"
        manager.start()
        assert service.context.status().pid == manager.pid


# -- other ways to listen --------------------------------------------------------

needs_activate = pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None,
    reason="systemd-socket-activate is not installed",
)


@needs_activate
def test_systemd_socket_activate_starts_the_daemon_at_the_first_connection(
    public_python: PublicPython,
    public_path: Path,
    reach: Callable[..., Service],
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


def test_a_daemon_listens_at_a_path_in_the_place_of_one_that_has_ended(
    public_python: PublicPython, public_path: Path, reach: Callable[..., Service]
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


AUTO = """
    import service
    print(service.services["plain"].context.status().method)
"""


def test_auto_takes_the_socket_of_the_context_if_there_is_one(
    manage: Callable[..., Manager],
    public_python: PublicPython,
    unprivileged_user: str,
    public_path: Path,
) -> None:
    manager = manage("service:plain", f'users = ["{unprivileged_user}"]')
    directory = public_path / "run" / "privsep"
    directory.mkdir(parents=True)
    os.link(manager.path, directory / "service:plain.sock")
    become = ["setpriv", f"--reuid={unprivileged_user}", "--clear-groups"]
    before = [*own_mounts({"/run": public_path / "run"}), *become]
    assert public_python.run(AUTO, before=before) == ["socket"]


START = """
    import sys, service, privsep
    try:
        service.plain.start("socket", path=sys.argv[1], deadline=float(sys.argv[2]))
    except privsep.StartError as error:
        print(error)
"""


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
            "privsep serve: [Errno 2] No such file or directory",
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


@pytest.mark.parametrize(("uid", "mode"), [(4_000_000_001, 0o755), (0, 0o1777)])
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
                "sh",
                "-c",
                LISTENING,
                "sh",
                public_python.command,
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


# -- capabilities without root ---------------------------------------------------


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


def test_a_client_with_the_uid_of_the_daemon_is_refused(
    manage: Callable[..., Manager], user_entry: pwd.struct_passwd
) -> None:
    uid = user_entry.pw_uid
    before = ["setpriv", f"--reuid={uid}", "--clear-groups"]
    path = manage("service:plain", f"users = [{uid}, {OTHERS}]", before=before).path
    assert f"uid {uid} is the daemon's own" in greeting_of(path, uid, OTHERS)
    assert greeting_of(path, OTHERS, OTHERS) == "ready"


# -- what a client trusts --------------------------------------------------------


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
