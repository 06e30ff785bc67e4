"""The drop, in the order that works, and its verification.

Runs in the privileged process while it has one thread: capabilities, the
bounding set and no_new_privs belong to a thread, so a second one would keep
what it has.

The order.  The status file is opened first, because later it could be out of
reach.  Namespaces and mounts need CAP_SYS_ADMIN; Landlock's rules are made right
after them, as long as every path may be opened and is the one that the daemon will
see.  Groups, gid and uid go before the capabilities that allow to change them;
keepcaps carries the permitted set over the change of uid.  The securebits and
the bounding set need CAP_SETPCAP, so that one goes last, if the context does
not have it.  Landlock is enforced after no_new_privs, which it asks for.  Then come
the attempts to regain what was given up, and last the filter of system calls, which
would refuse them, too.  The kernel's own account is compared with what was asked at
the end, through the descriptor opened first; any difference is an error.
"""

from __future__ import annotations

import os

from privsep._lockdown import attributes, capabilities, proof
from privsep._lockdown.capability_names import SETPCAP, SYS_ADMIN, describe, mask
from privsep._lockdown.status import Status
from privsep._wire.typed import NamedTuple

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from privsep._lockdown.ids import Ids
    from privsep._lockdown.landlock import Ruleset
    from privsep._lockdown.libseccomp import Library
    from privsep.sandbox import Sandbox


_FILTERED = 2  #: as the field Seccomp of the status says it


class LockdownError(Exception):
    """The process could not give up, or keep, what was asked."""


class Kept(NamedTuple):
    """All that the process is to have afterwards."""

    ids: Ids
    capabilities: int
    sandbox: Sandbox | None = None
    #: False: programs that it runs have what their user and their file give them
    bounds_programs: bool = True


class Lockdown(NamedTuple):
    """What a lockdown came to."""

    status: Status  #: verified
    landlock_abi: int = 0  #: 0: not asked for, or the kernel has none
    not_enforced: tuple[str, ...] = ()  #: what of the sandbox the kernel cannot do


def lock_down(kept: Kept) -> Lockdown:
    """Give up everything but `kept`, irrevocably; return the verified outcome.

    Raises:
        LookupError: a path of the sandbox is not there.
        LockdownError: a capability is missing, another thread runs, the kernel
            refused a step, or the result differs from what was asked.  The
            process may be half way and must end.

    """
    descriptor = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        before = Status.read(descriptor)
        _check_before(before, kept)
        try:
            library, missing = _prepare_filter(kept.sandbox)
            ruleset = _prepare(kept.sandbox)
            _drop(before, kept)
            if ruleset is not None:
                ruleset.enforce()
            enforced = kept.sandbox if ruleset is not None and ruleset.abi else None
            regained = proof.regained(Status.read(descriptor), enforced)
            dumpable = attributes.is_dumpable()
            bits = attributes.securebits()
            unknown = _filter_system_calls(library, kept.sandbox)
            if library is not None:
                regained += proof.passed_filter(kept.sandbox)
        except OSError as error:
            msg = f"a step of the lockdown failed: {error}"
            raise LockdownError(msg) from error
        after = Status.read(descriptor)
    finally:
        os.close(descriptor)
    differences = _differences(before, after, kept, filtered=library is not None)
    if _may_bound(before, kept) and bits != attributes.SECUREBITS:
        differences.append(f"securebits is {bits}, asked for {attributes.SECUREBITS}")
    if dumpable and kept.bounds_programs:
        differences.append("the process is dumpable")
    if regained:
        differences.append(f"could be regained: {', '.join(regained)}")
    if differences:
        raise LockdownError("; ".join(differences))
    if ruleset is None:
        return Lockdown(after)
    missing = (*ruleset.not_enforced, *missing, *unknown)
    return Lockdown(after, ruleset.abi, missing)


def _check_before(before: Status, kept: Kept) -> None:
    if before.threads > 1:
        msg = (
            f"{before.threads} threads run ({', '.join(_thread_names())}), and "
            "capabilities belong to a thread: drop privileges before the first thread "
            "starts, and before the first call, which starts one that reads the log"
        )
        raise LockdownError(msg)
    missing = kept.capabilities & ~before.permitted
    if missing:
        msg = (
            f"{describe(missing)} is not among the capabilities that this process "
            f"has (uid {before.uids[1]}; it has: {describe(before.permitted)}): give "
            "it to the service (systemd: AmbientCapabilities=), or start the context "
            "before privileges are dropped, or by sudo"
        )
        raise LockdownError(msg)
    if kept.sandbox is not None:
        _check_sandbox(before, kept.capabilities, kept.sandbox)


def _check_sandbox(before: Status, capabilities: int, sandbox: Sandbox) -> None:
    from privsep._lockdown import limits  # noqa: PLC0415 - see _prepare

    if needed(sandbox) & ~before.permitted:
        msg = (
            "the sandbox asks for namespaces= or private_tmp=, which need "
            f"CAP_SYS_ADMIN at the start (this is uid {before.uids[1]}; it has: "
            f"{describe(before.permitted)})"
        )
        raise LockdownError(msg)
    refused = limits.check(sandbox.rlimits, capabilities)
    if refused:
        raise LockdownError("; ".join(refused))


def needed(sandbox: Sandbox) -> int:
    """Return the capabilities without which the sandbox cannot be made."""
    return mask([SYS_ADMIN]) if sandbox.namespaces or sandbox.private_tmp else 0


def _prepare(sandbox: Sandbox | None) -> Ruleset | None:
    """Enter the sandbox's namespaces and make its rules, to be enforced later."""
    if sandbox is None:
        return None
    from privsep._lockdown import (  # noqa: PLC0415 - most daemons need none of it
        landlock,
        namespaces,
        runtime,
    )

    namespaces.enter(
        sandbox.namespaces,
        private_tmp=sandbox.private_tmp,
        kept=runtime.python_paths() if sandbox.private_tmp else (),
    )
    ruleset = landlock.prepare(sandbox)
    if ruleset.not_enforced and sandbox.landlock == "require":
        msg = (
            f"the kernel has Landlock ABI {ruleset.abi} (0: none), which cannot "
            f"enforce: {', '.join(ruleset.not_enforced)}; "
            "landlock='best-effort' starts without"
        )
        raise LockdownError(msg)
    return ruleset


def _inherited(kept: Kept) -> int:
    """Return the capabilities that programs of a daemon without uid 0 get."""
    if kept.sandbox is None or not kept.sandbox.inherit_capabilities:
        return 0
    return kept.capabilities


def _thread_names() -> list[str]:
    import threading  # noqa: PLC0415 - only to explain

    return [thread.name for thread in threading.enumerate()]


def _may_bound(before: Status, kept: Kept) -> bool:
    """Return whether what it runs shall be bound, and this process is able to."""
    return kept.bounds_programs and bool(before.permitted >> SETPCAP & 1)


def _drop(before: Status, kept: Kept) -> None:
    may_set_bounds = _may_bound(before, kept)
    # Only where it is needed: what a locked-down daemon runs may not ask for it.
    changes_user = kept.ids.uid is not None and before.uids != (kept.ids.uid,) * 4
    if changes_user:
        capabilities.keep_over_setuid(keep=True)
    kept.ids.apply()
    inherited = _inherited(kept)
    capabilities.set_all(kept.capabilities | may_set_bounds << SETPCAP, inherited)
    capabilities.clear_ambient()
    capabilities.raise_ambient(inherited)
    if may_set_bounds:
        attributes.lock_securebits()
        capabilities.drop_bounding_except(kept.capabilities)
    elif changes_user:
        capabilities.keep_over_setuid(keep=False)
    capabilities.set_all(kept.capabilities, inherited)
    if kept.bounds_programs:
        attributes.forbid_dumping()
        attributes.forbid_new_privileges()


def _filters(sandbox: Sandbox) -> bool:
    """Return whether the sandbox needs a filter of system calls."""
    return (
        sandbox.syscalls is not None
        or sandbox.network is not True
        or sandbox.execute is not None
        or not sandbox.signals
    )


def _prepare_filter(
    sandbox: Sandbox | None,
) -> tuple[Library | None, tuple[str, ...]]:
    """Load what makes the filter; return it, or what cannot be enforced.

    Raises:
        OSError: it is required, and the system lacks it.

    """
    if sandbox is None or not _filters(sandbox):
        return None, ()
    from privsep._lockdown import seccomp  # noqa: PLC0415 - see _prepare

    try:
        return seccomp.prepare(), ()
    except OSError as error:
        if sandbox.landlock == "require":
            raise
        return None, (f"the filter of system calls ({error})",)


def _filter_system_calls(
    library: Library | None, sandbox: Sandbox | None
) -> tuple[str, ...]:
    """Load the filter; return what it should refuse and cannot."""
    if library is None or sandbox is None:
        return ()
    from privsep._lockdown import seccomp  # noqa: PLC0415 - see _prepare

    unknown = seccomp.restrict(library, sandbox)
    if unknown and sandbox.landlock == "require":
        msg = (
            "the installed libseccomp is too old to refuse the system calls "
            f"{', '.join(unknown)}: list what is allowed instead, or "
            "landlock='best-effort' starts without"
        )
        raise LockdownError(msg)
    return tuple(f"system call {name}" for name in unknown)


def _differences(
    before: Status, after: Status, kept: Kept, *, filtered: bool
) -> list[str]:
    """Compare what the kernel says with what was asked."""
    uid, gid, groups = kept.ids
    may_set_bounds = _may_bound(before, kept)
    expected = after._replace(
        uids=before.uids if uid is None else (uid,) * 4,
        gids=before.gids if gid is None else (gid,) * 4,
        groups=before.groups if groups is None else frozenset(groups),
        inheritable=_inherited(kept),
        permitted=kept.capabilities,
        effective=kept.capabilities,
        # Without CAP_SETPCAP the bounding set stays; no_new_privs already keeps
        # programs from gaining what is in it.
        bounding=before.bounding & (kept.capabilities if may_set_bounds else -1),
        ambient=_inherited(kept),
        no_new_privs=1 if kept.bounds_programs else before.no_new_privs,
        seccomp=_FILTERED if filtered else before.seccomp,
        threads=1,
    )
    return [
        f"{name} is {found}, asked for {wanted}"
        for name, found, wanted in zip(Status._fields, after, expected, strict=True)
        if found != wanted
    ]
