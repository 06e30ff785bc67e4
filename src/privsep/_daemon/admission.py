"""Who may connect to a daemon that listens, judged by what the kernel says.

Runs in the supervisor.  Nothing that a peer sends is looked at: its uid, gid and
groups are those that the kernel noted at connect(2), and the unit is that of the
very process that connected, which a pidfd holds, so that no other can have taken its
number.  Sources: unix(7) on SO_PEERCRED, socket(7) on SO_PEERGROUPS, pidfd_open(2),
cgroups(7).
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
from itertools import takewhile
from typing import NamedTuple

from privsep._wire.descriptors import peer_credentials, peer_groups

_SO_PEERPIDFD = 77
_CGROUPS = "/sys/fs/cgroup"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Admission(NamedTuple):
    """Whom the administrator lets connect, beside root.

    One that fits is enough.  The daemon's own user is never let in: processes of one
    user can stop each other and change each other's limits.
    """

    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()
    units: frozenset[str] = frozenset()
    path: str = ""  #: root's file, which says so

    def refusal(self, sock: socket.socket) -> str:
        """Return why the peer that connected `sock` is not let in; "" if it is."""
        peer = peer_credentials(sock)
        if peer.uid == 0:
            return ""
        if peer.uid == os.geteuid():
            return (
                f"uid {peer.uid} is the daemon's own: processes of one user can stop "
                "each other; give the daemon, or the service, a user of its own"
            )
        if peer.uid in self.users or self.groups.intersection(peer_groups(sock)):
            return ""
        unit = trouble = ""
        if self.units:
            try:
                unit = _unit(sock, peer.pid)
            except OSError as error:
                trouble = f" (its unit cannot be told: {error.strerror})"
        if unit in self.units:
            return ""
        of_unit = f" of {unit}" if unit else ""
        return (
            f"uid {peer.uid}, gid {peer.gid}{of_unit} may not connect{trouble}: root's "
            f"file {self.path} does not list it (users, groups, units)"
        )


def _unit(sock: socket.socket, pid: int) -> str:
    """Return the systemd unit of the process that connected.

    Raises:
        OSError: the kernel has no SO_PEERPIDFD (before Linux 6.5), or the process
            has ended, or somebody else than root could have made its cgroup.

    """
    pidfd = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    try:
        with open(f"/proc/{pid}/cgroup", "rb") as file:
            text = file.read()
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if poll.poll(0):  # it has ended: the file may be another process's
            raise ProcessLookupError(3, "it has ended")
    finally:
        os.close(pidfd)
    *above, unit = _way_to_unit(text)
    if unit:
        _check_roots(above)
    return unit


def _way_to_unit(cgroups: bytes) -> list[str]:
    """Return the slices, and the unit, that the text of /proc/PID/cgroup names.

    The unit is the first name on the way that is no slice, "" if it is none: what
    stands below it, a unit's own processes, or a user's, have made.
    """
    for line in cgroups.splitlines():
        if line.startswith(b"0::/"):
            names = os.fsdecode(line[4:]).split("/")
            slices = list(takewhile(lambda name: name.endswith(".slice"), names))
            unit = "".join(names[len(slices) :][:1])
            return [*slices, unit if unit.endswith((".service", ".scope")) else ""]
    return [""]


def _check_roots(slices: list[str]) -> None:
    """See that nobody else than root can make a cgroup in these.

    Whoever was given one of them (cgroups(7), delegation) gives what he makes there
    any name.

    Raises:
        OSError: he can, or they cannot be looked at.

    """
    directory = _CGROUPS
    for name in ("", *slices):
        directory = os.path.join(directory, name)
        status = os.stat(directory)
        if status.st_uid != 0 or status.st_mode & _OTHERS_WRITE:
            why = f"others than root can make cgroups in {directory}"
            raise PermissionError(errno.EPERM, why)
