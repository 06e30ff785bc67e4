"""Entering new namespaces: namespaces(7), user_namespaces(7), unshare(2).

Runs in the helper of the start method ``userns``, unprivileged at first.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

from privsep._lockdown import libc
from privsep._lockdown import namespaces as ns

if TYPE_CHECKING:
    from collections.abc import Iterable

_NEW_USER = 0x10000000
_SYSCTLS = {
    "/proc/sys/user/max_user_namespaces": "0",
    "/proc/sys/kernel/unprivileged_userns_clone": "0",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1",
}


class Forbidden(LookupError):
    """The system does not allow user namespaces; the message says what does."""


def enter(names: Iterable[str]) -> None:
    """Unshare a user namespace, as root in it, and those of `names`.

    With a pid namespace this returns in a child, its init; the process that
    called waits for it and exits as it did.

    Raises:
        Forbidden: with the sysctl that forbids it, if it is one.

    """
    flags = _NEW_USER | ns.flags(names)
    uid, gid = os.getuid(), os.getgid()
    try:
        libc.unshare(flags)
        _map_to_root(uid, gid)
    except OSError as error:
        raise Forbidden(_why(error)) from error
    if flags & ns.FLAGS["pid"]:
        _become_init()
    if flags & ns.FLAGS["mount"]:
        libc.mount("none", "/", "none", ns.MS_REC | ns.MS_PRIVATE)
        if flags & ns.FLAGS["pid"]:
            _mount_proc()


def _map_to_root(uid: int, gid: int) -> None:
    """Map root of the namespace to who we are outside; one id is allowed."""
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {uid} 1"),
        ("gid_map", f"0 {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _become_init() -> None:
    child = os.fork()
    if child:
        os.closerange(0, os.sysconf("SC_OPEN_MAX"))  # the control socket is init's
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os._exit(status if status >= 0 else 128 - status)


def _mount_proc() -> None:
    try:
        safe = ns.MS_NOSUID | ns.MS_NODEV | ns.MS_NOEXEC
        libc.mount("proc", "/proc", "proc", safe)
    except OSError as error:  # a container that hides parts of its own /proc
        sys.stderr.write(f"/proc shows the outer processes: {error}\n")


def _why(error: OSError) -> str:
    for path, forbidding in _SYSCTLS.items():
        try:
            with open(path) as file:
                value = file.read().strip()
        except OSError:
            continue
        if value == forbidding:
            name = path.removeprefix("/proc/sys/").replace("/", ".")
            return f"user namespaces are forbidden: sysctl {name} is {value} ({error})"
    if error.errno == errno.ENOSPC:
        return (
            f"too many user namespaces: see sysctl user.max_user_namespaces ({error})"
        )
    if error.errno in (errno.ENOSYS, errno.EINVAL):
        return f"this kernel has no user namespaces (CONFIG_USER_NS): {error}"
    return (
        "user namespaces are not allowed to this process, by the seccomp profile of a "
        f"container, perhaps: {error}"
    )
