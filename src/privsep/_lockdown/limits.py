"""Resource limits: getrlimit(2).

Runs in the privileged process.  Limits are the workers' (the daemon's, with
threads): the supervisor lives long and holds descriptors for all, and would fall
to RLIMIT_CPU or RLIMIT_NOFILE itself.
"""

from __future__ import annotations

import os
import resource

from privsep._lockdown.capability_names import SYS_RESOURCE

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import Iterable

    from privsep.sandbox import Limit


def check(limits: Iterable[Limit], capabilities: int) -> list[str]:
    """Return what a process with `capabilities` may not set, in words."""
    if capabilities >> SYS_RESOURCE & 1:
        return []
    return [
        f"{limit.name} is {most} here, and only CAP_SYS_RESOURCE may raise it"
        for limit in limits
        for most in [resource.getrlimit(getattr(resource, limit.name))[1]]
        if most != resource.RLIM_INFINITY
        and not resource.RLIM_INFINITY < limit.hard <= most
    ]


def apply_memory(size: int | None) -> None:
    """Let this process take `size` bytes of address space more; None: all it likes.

    More than it has: a fork has all of its service's.  The soft limit only: a
    program that the worker runs may raise it.
    """
    if size is None:
        return
    descriptor = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    size += int(os.read(descriptor, 16).split()[0]) * resource.getpagesize()
    os.close(descriptor)
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY or size < most:
        resource.setrlimit(resource.RLIMIT_AS, (size, most))


def apply(limits: tuple[Limit, ...], memory: int | None) -> None:
    """Set `limits`, and `memory` unless they bound it.

    Irrevocably, for a process without CAP_SYS_RESOURCE.

    Raises:
        ValueError: it may not raise a limit.

    """
    if not any(limit.name == "RLIMIT_AS" for limit in limits):
        apply_memory(memory)
    for limit in limits:
        number = getattr(resource, limit.name)
        resource.setrlimit(number, (limit.soft, limit.hard))
