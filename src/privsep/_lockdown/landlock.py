"""Landlock: landlock(7), landlock_create_ruleset(2), landlock_add_rule(2).

Runs in the privileged process.  The rules are made before it drops anything,
while it may open every path, and enforced afterwards.  Landlock takes rights
away from whoever has them, so root with every capability is held as anybody is.
"""

from __future__ import annotations

import errno
import operator
import os
import stat
import struct
from typing import TYPE_CHECKING, NamedTuple

from privsep._lockdown import libc, runtime
from privsep._lockdown.namespaces import TEMPORARY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from privsep.sandbox import Ports, Sandbox

# linux/landlock.h; the numbers are the same on every architecture
_SYS_CREATE_RULESET, _SYS_ADD_RULE, _SYS_RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH, _RULE_NET_PORT = 1, 2

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_AND_MAKE = 0b1_1111_1111 << 4
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

_READ = _READ_FILE | _READ_DIR
_WRITE = _WRITE_FILE | _REMOVE_AND_MAKE | _REFER | _TRUNCATE | _IOCTL_DEV

_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1
_TCP = _BIND_TCP | _CONNECT_TCP
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1 << 0, 1 << 1

_RULESET = struct.Struct("=QQQ")  # handled_access_fs, handled_access_net, scoped
_PATH_BENEATH = struct.Struct("=Qi")  # allowed_access, parent_fd
_NET_PORT = struct.Struct("=QQ")  # allowed_access, port


class Unopenable(LookupError):
    """A path of the sandbox that cannot be opened."""


class Ruleset(NamedTuple):
    """Rules that are made and not yet enforced."""

    descriptor: int | None  #: None: there is nothing to enforce
    abi: int  #: of the kernel; 0: it has no Landlock
    not_enforced: tuple[str, ...]  #: what the kernel cannot do, by name

    def enforce(self) -> None:
        """Hold this process, and what it forks and executes, to the rules.

        Raises:
            OSError: as landlock_restrict_self(2).

        """
        if self.descriptor is not None:
            libc.syscall(_SYS_RESTRICT_SELF, self.descriptor, 0)
            os.close(self.descriptor)


class _Handled(NamedTuple):
    """Which kinds of access are refused unless a rule allows them."""

    files: int
    ports: int
    scopes: int


# What each ABI brought.  Without the second, moves between directories are
# refused everywhere, so nothing is lost that would have to be named.
_SINCE = (
    (1, "paths", _Handled(_EXECUTE | _READ | _WRITE_FILE | _REMOVE_AND_MAKE, 0, 0)),
    (2, "", _Handled(_REFER, 0, 0)),
    (3, "truncation of files", _Handled(_TRUNCATE, 0, 0)),
    (4, "TCP ports", _Handled(0, _TCP, 0)),
    (5, "ioctl on devices", _Handled(_IOCTL_DEV, 0, 0)),
    (6, "abstract sockets", _Handled(0, 0, _SCOPE_ABSTRACT_SOCKETS)),
    (6, "signals", _Handled(0, 0, _SCOPE_SIGNALS)),
)


def best_abi() -> int:
    """Return the ABI of the running kernel; 0: it has none, or it is off."""
    try:
        return libc.syscall(_SYS_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            return 0
        raise


def prepare(sandbox: Sandbox) -> Ruleset:
    """Make the rules of `sandbox`, as far as the kernel can enforce them.

    Raises:
        Unopenable: a path is not there.
        OSError: as the system calls.

    """
    abi = best_abi()
    handled, missing = _possible(_wanted(sandbox, abi), abi)
    if not any(handled):
        return Ruleset(None, abi, missing)
    attributes = _RULESET.pack(*handled)
    descriptor = libc.syscall(_SYS_CREATE_RULESET, attributes, len(attributes), 0)
    if handled.files:
        _allow_paths(descriptor, sandbox, handled.files)
    if isinstance(sandbox.network, tuple):
        _allow_ports(descriptor, sandbox.network, handled.ports)
    return Ruleset(descriptor, abi, missing)


def _wanted(sandbox: Sandbox, abi: int) -> _Handled:
    files = 0
    if sandbox.read is not None:
        files |= _READ
    if sandbox.write is not None:
        files |= _WRITE
    if sandbox.execute is not None:
        files |= _EXECUTE
    if files:
        files |= _REFER  # refused even if it is not handled, so a rule must allow it
    scopes = 0 if sandbox.abstract_sockets else _SCOPE_ABSTRACT_SOCKETS
    scopes |= 0 if sandbox.signals else _SCOPE_SIGNALS
    return _Handled(files, _wanted_ports(sandbox.network, abi), scopes)


def _wanted_ports(network: bool | Ports, abi: int) -> int:  # noqa: FBT001 - declared
    if isinstance(network, bool):
        # False is enforced by the filter of system calls; here only a socket
        # that came as a descriptor is held, where the kernel can.
        return _TCP if not network and abi >= 4 else 0  # noqa: PLR2004
    bind = 0 if network.bind is None else _BIND_TCP
    return bind | (0 if network.connect is None else _CONNECT_TCP)


def _possible(wanted: _Handled, abi: int) -> tuple[_Handled, tuple[str, ...]]:
    """Return what of `wanted` the kernel can do, and the names of the rest."""
    handled = wanted
    missing = []
    for since, name, bits in _SINCE:
        if abi < since:
            if name and any(map(operator.and_, wanted, bits)):
                missing.append(f"{name} (ABI {since})")
            handled = _Handled(*map(operator.and_, handled, map(operator.inv, bits)))
    return handled, tuple(missing)


def _allow_paths(ruleset: int, sandbox: Sandbox, handled: int) -> None:
    def allow(paths: Iterable[str], access: int, field: str | None = None) -> None:
        for path in paths:
            _allow_path(ruleset, path, access & handled, field)

    if sandbox.read is not None:
        allow(runtime.SYSTEM, _READ)
        allow(runtime.python_paths(), _READ)
    allow(["/dev/null"], _WRITE)
    allow(TEMPORARY if sandbox.private_tmp else (), _READ | _WRITE)
    allow(sandbox.read or (), _READ, "read")
    allow(sandbox.write or (), _WRITE, "write")
    if sandbox.write is None:
        allow(["/"], _REFER)
    if sandbox.execute:
        allow(runtime.loaders(), _EXECUTE)
        allow(sandbox.execute, _EXECUTE | _READ, "execute")


def _allow_path(ruleset: int, path: str, access: int, field: str | None) -> None:
    """Allow `access` to `path` and beneath; a rule on a file takes what fits it.

    Raises:
        Unopenable: it is a path of the sandbox's `field`, and is not there.

    """
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if field is None:
            return
        from privsep._lockdown.nearest import nearest_path  # noqa: PLC0415 - as above

        msg = (
            f"{field}={path!r} of the sandbox cannot be opened: {error.strerror}; "
            f"the nearest that is there is {nearest_path(path)!r}"
        )
        raise Unopenable(msg) from None
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _OF_FILES
        if access:
            rule = _PATH_BENEATH.pack(access, descriptor)
            libc.syscall(_SYS_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)


def _allow_ports(ruleset: int, ports: Ports, handled: int) -> None:
    for access, numbers in ((_BIND_TCP, ports.bind), (_CONNECT_TCP, ports.connect)):
        for number in numbers or () if access & handled else ():
            rule = _NET_PORT.pack(access, number)
            libc.syscall(_SYS_ADD_RULE, ruleset, _RULE_NET_PORT, rule, 0)
