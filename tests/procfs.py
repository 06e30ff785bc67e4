"""What /proc says of a process; importable by any daemon."""

from __future__ import annotations

import os
from pathlib import Path


def open_files(pid: int | str = "self") -> dict[int, str]:
    """Return the descriptors of a process, and what the kernel calls each."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:  # the listing's own, or closed in between
            continue
    return found


def children(pid: int | str = "self") -> set[int]:
    """Return the living and dead children of a process."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found.update(map(int, (task / "children").read_text().split()))
        except FileNotFoundError:  # a thread that has ended in between
            continue
    return found
