"""Who may connect to a daemon that listens."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from forks import Child
from hostile import PROMPTLY
from listening import (
    OTHERS,
    Manager,
    connect,
    greeting,
    greeting_of,
    manage,
    needs_root,
    public_path,
)

if TYPE_CHECKING:
    import pwd
    from collections.abc import Callable

__all__ = ["manage", "public_path"]

pytestmark = needs_root


def test_root_alone_is_let_in_without_a_file_of_root(
    manage: Callable[..., Manager], user_entry: pwd.struct_passwd
) -> None:
    path = manage("service:plain").path
    assert greeting_of(path, 0, 0) == "ready"
    refusal = greeting_of(path, user_entry.pw_uid, user_entry.pw_gid)
    assert refusal == (
        f"uid {user_entry.pw_uid}, gid {user_entry.pw_gid} may not connect: "
        "root's file /etc/privsep/contexts.d/service:plain.toml does not list it "
        "(users, groups, units)"
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
    "/user.slice/given.slice/my.service": False,
    "/user.slice/open.slice/my.service": False,
    "/user.slice/given.slice/own.slice/my.service": False,
    "/../my.service": False,
    "/my.slice/my": False,
    "/": False,
}


def _cgroups(place: Path) -> Path:
    """Make the directories, some of which were given away (delegation)."""
    for cgroup in OF_UNIT:
        if ".." not in cgroup:
            (place / cgroup[1:]).mkdir(parents=True, exist_ok=True)
    os.chown(place / "system.slice/my.service", OTHERS, OTHERS)  # Delegate=, User=
    os.chown(place / "user.slice/given.slice", OTHERS, OTHERS)
    (place / "user.slice/open.slice").chmod(0o775)
    return place


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
    mounts["/sys/fs/cgroup"] = _cgroups(public_path / "cgroups")
    path = manage("service:plain", 'units = ["my.service"]', mounts=mounts).path
    found = {cgroup: each.knock(path) for cgroup, each in waiting.items()}
    assert {cgroup: words == "ready" for cgroup, words in found.items()} == OF_UNIT
    assert "of other.service may not connect" in found["/system.slice/other.service"]
    delegated = found["/user.slice/given.slice/my.service"]
    assert "others than root can make cgroups in /sys/fs/cgroup/user.slice" in delegated


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


def test_a_client_with_the_uid_of_the_daemon_is_refused(
    manage: Callable[..., Manager], user_entry: pwd.struct_passwd
) -> None:
    uid = user_entry.pw_uid
    before = ["setpriv", f"--reuid={uid}", "--clear-groups"]
    path = manage("service:plain", f"users = [{uid}, {OTHERS}]", before=before).path
    assert f"uid {uid} is the daemon's own" in greeting_of(path, uid, OTHERS)
    assert greeting_of(path, OTHERS, OTHERS) == "ready"


def test_a_unit_whose_name_is_no_text_is_in_the_audit(
    manage: Callable[..., Manager], public_path: Path
) -> None:
    """A user who has a cgroup of his own gives those that he makes there any name."""
    waiting = [Waiting(OTHERS), Waiting(OTHERS)]
    cgroup = public_path / "cgroup"
    cgroup.write_bytes(b"0::/my\xff.service\n")
    mounts = {f"/proc/{each.pid}/cgroup": cgroup for each in waiting}
    manager = manage("generated:audited", 'units = ["my.service"]', mounts=mounts)
    for each in waiting:
        assert "may not connect" in each.knock(manager.path)
    manager.end()
    file = Path(manager.path).parent / "etc" / "audit.jsonl"
    lines = file.read_text().splitlines()
    reasons = [json.loads(line).get("reason", "") for line in lines]
    assert sum("of my\\udcff.service may not" in reason for reason in reasons) == 2


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
    said = f"uid {OTHERS}, gid {OTHERS} may not connect: "
    assert refused["reason"].startswith(said)
