"""`Sandbox`: what a daemon may touch, beside what its capabilities allow.

Runs on both sides: the service and the daemon import the same declaration; only
the daemon applies it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from privsep._wire.typed import NamedTuple
from privsep.context import sequence

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from typing import Literal, Self

NAMESPACES = ("net", "mount", "ipc", "uts")

_MAX_PORT = 0xFFFF
_UNLIMITED = -1
_MAX_LIMIT = 2**63 - 1  # what setrlimit() of Python takes


class Ports(NamedTuple):
    """The TCP ports that `Sandbox.network` allows; None: any."""

    bind: tuple[int, ...] | None = ()
    connect: tuple[int, ...] | None = ()


class Limit(NamedTuple):
    """One resource limit; -1 is no limit."""

    name: str  #: as in getrlimit(2), "RLIMIT_NOFILE"
    soft: int
    hard: int


class _Fields(NamedTuple):
    read: tuple[str, ...] | None
    write: tuple[str, ...] | None
    execute: tuple[str, ...] | None
    network: bool | Ports
    signals: bool
    abstract_sockets: bool
    namespaces: tuple[str, ...]
    private_tmp: bool
    rlimits: tuple[Limit, ...]
    syscalls: tuple[str, ...] | None
    syscall_action: Literal["errno", "kill"]
    inherit_capabilities: bool
    landlock: str


class Sandbox(_Fields):
    """What a daemon and the programs that it runs may touch.

    A sandbox is closed unless it says otherwise: ``Sandbox()`` reads and executes
    everywhere, but writes no file, opens no connection, and signals nobody
    outside.  It cannot be changed once it is made.  Landlock goes by path and by
    kind of access; docs/sandbox.md says what it cannot do.

    Args:
        read: files and directories that may be read, with all beneath; None:
            everything.  The interpreter's library, what is on `sys.path`, the
            loaded packages, the system's shared libraries and /proc stay
            readable, so that late imports work.
        write: where files may be written, made, renamed and removed; None:
            everywhere.  Reading what stands there is for `read` to say.
        execute: programs that may be executed, or directories of them; they are
            readable, too.  None: all that may be read; empty: none.
        network: False: no sockets but AF_UNIX and those that were there; True:
            no limit; or a mapping of "bind" and "connect" to TCP port numbers
            (None: any), what is left out being closed.
        signals: may signal processes that are not the daemon's own, and set their
            resource limits.
        abstract_sockets: may connect to abstract AF_UNIX sockets (unix(7)) that
            are not the daemon's own.
        namespaces: which namespaces are the daemon's own, of "net", "mount",
            "ipc", "uts" (namespaces(7)); needs CAP_SYS_ADMIN at the start.
        private_tmp: /tmp and /var/tmp are empty, writable, and the daemon's own;
            needs CAP_SYS_ADMIN at the start.
        rlimits: resource limits of a process worker and the programs that it
            runs, or of the whole daemon with threads: a name of getrlimit(2),
            such as "NOFILE" or "RLIMIT_NOFILE", to a number, or to the soft and
            the hard limit; -1: no limit.
        syscalls: groups and names of system calls that are allowed.
        syscall_action: what a refused system call does: "errno": it fails with
            EPERM; "kill": it kills the worker.
        inherit_capabilities: programs that a daemon which is not uid 0 runs have
            the context's capabilities, too.
        landlock: "require": the daemon does not start on a kernel that cannot
            enforce all of this; "best-effort": it starts, and the client logs
            what is not enforced.

    Raises:
        ValueError: a value that no field takes, a path that is not absolute, or
            a name that does not exist; the message has the nearest that does.

    Example:
        >>> Sandbox(read=["/srv"], write=["/srv/out"], rlimits={"NOFILE": 64})

    """

    __slots__ = ()

    def __new__(
        cls,
        *,
        read: Iterable[str | os.PathLike[str]] | None = None,
        write: Iterable[str | os.PathLike[str]] | None = (),
        execute: Iterable[str | os.PathLike[str]] | None = None,
        network: bool | Mapping[str, Iterable[int] | None] = False,
        signals: bool = False,
        abstract_sockets: bool = False,
        namespaces: Iterable[str] = (),
        private_tmp: bool = False,
        rlimits: Mapping[str, int | tuple[int, int]] | None = None,
        syscalls: Iterable[str] | None = None,
        syscall_action: Literal["errno", "kill"] = "errno",
        inherit_capabilities: bool = False,
        landlock: Literal["require", "best-effort"] = "require",
    ) -> Self:
        """Check everything; see the class."""
        _check_name("syscall_action", syscall_action, ("errno", "kill"))
        _check_name("landlock", landlock, ("require", "best-effort"))
        for field, value in (
            ("signals", signals),
            ("abstract_sockets", abstract_sockets),
            ("private_tmp", private_tmp),
            ("inherit_capabilities", inherit_capabilities),
        ):
            _check_bool(field, value)
        return super().__new__(
            cls,
            read=_paths("read", read),
            write=_paths("write", write),
            execute=_paths("execute", execute),
            network=network if isinstance(network, bool) else _ports(network),
            signals=signals,
            abstract_sockets=abstract_sockets,
            namespaces=_namespaces(namespaces),
            private_tmp=private_tmp,
            rlimits=_limits(rlimits),
            syscalls=_system_calls(syscalls),
            syscall_action=syscall_action,
            inherit_capabilities=inherit_capabilities,
            landlock=landlock,
        )


def _check_name(field: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        from privsep._lockdown.nearest import nearest  # noqa: PLC0415 - only to explain

        near = nearest(str(value), known)
        msg = f"{field}: there is no {value!r}; did you mean {near!r}?"
        raise ValueError(msg)


def _check_bool(field: str, value: object) -> None:
    """Refuse what is taken for True: the string "False", say."""
    if not isinstance(value, bool):
        msg = f"{field} is {value!r}; it must be True or False"
        raise ValueError(msg)  # noqa: TRY004 - every mistake here is a ValueError


def _strings(field: str, values: Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    try:
        return tuple([os.fsdecode(value) for value in sequence(field, values)])
    except TypeError:
        msg = f"{field} is {values!r}; it must be a sequence of strings"
        raise ValueError(msg) from None


def _paths(
    field: str, values: Iterable[str | os.PathLike[str]] | None
) -> tuple[str, ...] | None:
    if values is None:
        return None
    paths = _strings(field, values)
    for path in paths:
        if not os.path.isabs(path) or "\0" in path:
            msg = f"{field}: {path!r} is not an absolute path"
            raise ValueError(msg)
    return paths


def _system_calls(values: Iterable[str] | None) -> tuple[str, ...] | None:
    if values is None:
        return None
    from privsep._lockdown import seccomp  # noqa: PLC0415 - most ask for no filter

    names = _strings("syscalls", values)
    seccomp.check(names)
    return names


def _namespaces(values: Iterable[str]) -> tuple[str, ...]:
    names = _strings("namespaces", values)
    for name in names:
        _check_name("namespaces", name, NAMESPACES)
    return names


def _ports(mapping: Mapping[str, Iterable[int] | None]) -> Ports:
    _check_mapping("network", mapping, "True, False or a dict of 'bind' and 'connect'")
    found: dict[str, tuple[int, ...] | None] = {}
    for name, values in mapping.items():
        _check_name("network", name, Ports._fields)
        ports = None if values is None else sequence(f"network, {name!r},", values)
        for port in ports or ():
            if type(port) is not int or not 0 <= port <= _MAX_PORT:
                msg = f"network: {port!r} is not a port number (0 to {_MAX_PORT})"
                raise ValueError(msg)
        found[name] = ports
    return Ports(**found)


def _limits(mapping: Mapping[str, int | tuple[int, int]] | None) -> tuple[Limit, ...]:
    if mapping is None:
        return ()
    _check_mapping("rlimits", mapping, "a dict of names of getrlimit(2) to limits")
    return tuple([_limit(*item) for item in mapping.items()])


def _limit(name: str, value: int | tuple[int, int]) -> Limit:
    import resource  # noqa: PLC0415 - a service without limits need not load it

    known = [attr for attr in dir(resource) if attr.startswith("RLIMIT_")]
    upper = str(name).upper()
    full = upper if upper in known else f"RLIMIT_{upper}"
    _check_name("rlimits", full, known)
    pair = value if isinstance(value, tuple) else (value, value)
    numbers = [n for n in pair if type(n) is int and _UNLIMITED <= n <= _MAX_LIMIT]
    if len(pair) != 2 or len(numbers) != 2:  # noqa: PLR2004 - soft and hard
        msg = (
            f"rlimits: {name} is {value!r}; it must be a number or (soft, hard), each "
            f"up to {_MAX_LIMIT}, and -1 means no limit"
        )
        raise ValueError(msg)
    soft, hard = pair
    if hard != _UNLIMITED and not _UNLIMITED < soft <= hard:
        msg = f"rlimits: the soft limit of {name} is above the hard one: {value!r}"
        raise ValueError(msg)
    return Limit(full, soft, hard)


def _check_mapping(field: str, value: object, wanted: str) -> None:
    if not isinstance(value, Mapping):
        msg = f"{field} is {value!r}; it must be {wanted}"
        raise ValueError(msg)  # noqa: TRY004 - every mistake here is a ValueError
