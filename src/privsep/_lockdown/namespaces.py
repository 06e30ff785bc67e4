"""Namespaces of its own for a daemon: namespaces(7), unshare(2), mount(2).

Runs in the privileged process, before it drops CAP_SYS_ADMIN.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from privsep._lockdown import libc

if TYPE_CHECKING:
    from collections.abc import Iterable

FLAGS = {
    "net": 0x40000000,
    "mount": 0x00020000,
    "pid": 0x20000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
}
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_REMOUNT, MS_BIND, MS_REC = 0x20, 0x1000, 0x4000
MS_PRIVATE, MS_SLAVE = 0x40000, 0x80000

TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - these are what is replaced


def flags(names: Iterable[str]) -> int:
    """Return the flags of unshare(2) for the namespaces `names`."""
    result = 0
    for name in names:
        result |= FLAGS[name]
    return result


def enter(names: Iterable[str], *, private_tmp: bool, kept: Iterable[str]) -> None:
    """Leave the shared namespaces `names`; have own temporary directories.

    What the system mounts or unmounts later is seen here, too (a private copy
    would keep unmounted file systems busy), but nothing that is mounted here is
    seen outside.

    Args:
        names: of "net", "mount", "ipc", "uts".
        private_tmp: put empty file systems over `TEMPORARY`.
        kept: what stays visible of the old ones, read-only.

    Raises:
        OSError: as unshare(2) and mount(2); EPERM without CAP_SYS_ADMIN.

    """
    wanted = flags(names) | (FLAGS["mount"] if private_tmp else 0)
    if not wanted:
        return
    libc.unshare(wanted)
    if wanted & FLAGS["mount"]:
        libc.mount("none", "/", "none", MS_REC | MS_SLAVE)
    if private_tmp:
        _cover_temporary(kept)


def _cover_temporary(kept: Iterable[str]) -> None:
    below = [p for p in kept if p.startswith(tuple(f"{t}/" for t in TEMPORARY))]
    opened = {
        p: os.open(p, os.O_PATH | os.O_CLOEXEC) for p in below if os.path.isdir(p)
    }
    for directory in {os.path.realpath(t) for t in TEMPORARY if os.path.isdir(t)}:
        libc.mount("privsep", directory, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    for path, descriptor in opened.items():
        os.makedirs(path, exist_ok=True)
        libc.mount(f"/proc/self/fd/{descriptor}", path, "none", MS_BIND)
        # In a user namespace a remount must repeat the flags that were there.
        same = os.statvfs(path).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
        libc.mount("none", path, "none", MS_REMOUNT | MS_BIND | MS_RDONLY | same)
        os.close(descriptor)
