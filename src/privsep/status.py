"""What a daemon says about itself.

Runs in the client, which asks by `Context.status`.
"""

from __future__ import annotations

from dataclasses import dataclass

from privsep._lockdown.capability_names import describe


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """The daemon of a context, as it verified itself at its start, and its work.

    Capability sets are bit masks (capabilities(7)); printed, they are names.
    """

    context: str
    method: str  #: how it was started
    pid: int  #: in its own pid namespace
    uids: tuple[int, ...]  #: real, effective, saved, of the file system
    gids: tuple[int, ...]  #: likewise
    groups: tuple[int, ...]  #: supplementary
    permitted: int
    effective: int
    inheritable: int
    bounding: int
    ambient: int
    no_new_privs: bool
    seccomp: int  #: 2: system calls are filtered
    landlock_abi: int  #: 0: not asked for, or the kernel has none
    not_enforced: tuple[str, ...]  #: what of the sandbox the kernel cannot do
    isolation: str
    workers: int  #: how many there may be
    busy: int  #: how many of them run a call now, this one among them
    calls: int  #: how many have ended
    uptime: float  #: seconds since it got ready

    def __str__(self) -> str:
        """Return it as lines of text."""
        rows = {
            "context": f"{self.context}, started by {self.method}",
            "process": f"pid {self.pid}, up {self.uptime:.1f} s",
            "ids": f"uid {self.uids[1]}, gid {self.gids[1]}, groups {self.groups}",
            "permitted": describe(self.permitted),
            "effective": describe(self.effective),
            "inheritable": describe(self.inheritable),
            "bounding": describe(self.bounding),
            "ambient": describe(self.ambient),
            "no_new_privs": "yes" if self.no_new_privs else "no",
            "system calls": "filtered" if self.seccomp else "not filtered",
            "Landlock": f"ABI {self.landlock_abi}" if self.landlock_abi else "not used",
            "not enforced": ", ".join(self.not_enforced) or "nothing that was asked",
            "workers": f"{self.workers} ({self.isolation}), {self.busy} busy",
            "calls": str(self.calls),
        }
        return "\n".join(f"{name:13} {value}" for name, value in rows.items())
