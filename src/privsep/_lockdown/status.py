"""What the kernel says about a process: /proc/PID/status, proc_pid_status(5).

Runs in the privileged process; the text is parsed once, for the proof.
"""

from __future__ import annotations

import os
from typing import NamedTuple


class Status(NamedTuple):
    """The identity and the privileges of one process or thread."""

    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: frozenset[int]
    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int
    no_new_privs: int
    seccomp: int
    threads: int

    @classmethod
    def read(cls, descriptor: int) -> Status:
        """Read it through `descriptor`, open on a status file.

        Raises:
            OSError: as pread(2).
            KeyError: the kernel leaves out a field.

        """
        text = os.pread(descriptor, 1 << 16, 0).decode("ascii", "replace")
        pairs = (line.partition(":") for line in text.splitlines())
        field = {name: value.split() for name, _, value in pairs}

        def bits(name: str) -> int:
            return int(field[name][0], 16)

        def numbers(name: str) -> tuple[int, ...]:
            return tuple(map(int, field[name]))

        return cls(
            uids=numbers("Uid"),
            gids=numbers("Gid"),
            groups=frozenset(numbers("Groups")),
            inheritable=bits("CapInh"),
            permitted=bits("CapPrm"),
            effective=bits("CapEff"),
            bounding=bits("CapBnd"),
            ambient=bits("CapAmb"),
            no_new_privs=numbers("NoNewPrivs")[0],
            seccomp=numbers("Seccomp")[0],
            threads=numbers("Threads")[0],
        )
