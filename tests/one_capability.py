"""Contexts with a single capability each, or none, importable by any daemon."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from capability_table import TABLE, Stage, outcomes

import privsep

USERS = {"root": None, "nobody": "nobody"}


def try_every_action(directory: str, file: str, process: int) -> dict[str, str]:
    """Return what comes of the table's actions, by capability."""
    return outcomes(Stage(directory, file, process))


def capability_sets() -> dict[str, list[str]]:
    """Return the sets of the daemon, its worker and a program that this one runs."""
    program = subprocess.run(
        ["cat", "/proc/self/status"], check=True, capture_output=True, text=True
    )
    statuses = {
        "daemon": Path(f"/proc/{os.getppid()}/status").read_text(),
        "worker": Path("/proc/self/status").read_text(),
        "program": program.stdout,
    }
    return {
        whose: [
            line.split()[1] for line in status.splitlines() if line.startswith("Cap")
        ]
        for whose, status in statuses.items()
    }


class OneCapability:
    """A context and its entrypoints."""

    def __init__(self, capability: str | None, user: str) -> None:
        self.context = privsep.Context(
            f"{capability} of {user}",
            capabilities=[] if capability is None else [capability],
            user=USERS[user],
        )
        self.try_every_action = self.context.entrypoint(try_every_action)
        self.capability_sets = self.context.entrypoint(capability_sets)


served = {
    (capability, user): OneCapability(capability, user)
    for capability in (None, *(row.name for row in TABLE))
    for user in USERS
}
# A fresh interpreter finds a context by a variable.
globals().update(
    (f"{capability}_{user}", one.context) for (capability, user), one in served.items()
)
