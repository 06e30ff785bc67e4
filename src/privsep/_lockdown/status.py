"""What the kernel says about a process: /proc/PID/status, proc_pid_status(5).

Runs in the privileged process.  Only what is asked for is parsed: a process that
was just forked copies a page for almost every object that it makes.
"""

from __future__ import annotations

import os

from privsep._wire.typed import NamedTuple

SIZE = 1 << 16  #: more than the file has


def own() -> bytes:
    """Return the text of this process.

    Raises:
        OSError: as open(2).

    """
    descriptor = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, SIZE, 0)
    finally:
        os.close(descriptor)


def field(text: bytes, name: bytes) -> bytes:
    """Return what stands behind `name` in the `text` of a status file.

    Raises:
        ValueError: the kernel leaves out the field.

    """
    begin = text.index(b"\n%s:" % name) + len(name) + 2
    return text[begin : text.index(b"\n", begin)]


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
            ValueError: the kernel leaves out a field.

        """
        return cls.of(os.pread(descriptor, SIZE, 0))

    @classmethod
    def of(cls, text: bytes) -> Status:
        """Take it from the text of a status file.

        Raises:
            ValueError: the kernel leaves out a field.

        """

        def bits(name: bytes) -> int:
            return int(field(text, name), 16)

        def numbers(name: bytes) -> tuple[int, ...]:
            return tuple(map(int, field(text, name).split()))

        return cls(
            uids=numbers(b"Uid"),
            gids=numbers(b"Gid"),
            groups=frozenset(numbers(b"Groups")),
            inheritable=bits(b"CapInh"),
            permitted=bits(b"CapPrm"),
            effective=bits(b"CapEff"),
            bounding=bits(b"CapBnd"),
            ambient=bits(b"CapAmb"),
            no_new_privs=numbers(b"NoNewPrivs")[0],
            seccomp=numbers(b"Seccomp")[0],
            threads=numbers(b"Threads")[0],
        )
