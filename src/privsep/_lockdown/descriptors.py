"""Inherited descriptors: what a process has open when a fork made it.

Runs in the privileged process.  A fresh interpreter needs none of this: it closes
them, before it imports anything (`privsep._start.exec`).
"""

from __future__ import annotations

import os


def replace_all_except(kept: set[int]) -> None:
    """Put /dev/null in place of every descriptor above 2 but `kept`.

    They are replaced and not closed: objects that a fork inherited still name
    them, and would close whatever got the same number later.
    """
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2 and descriptor != null and descriptor not in kept:  # noqa: PLR2004
            try:
                os.get_inheritable(descriptor)
            except OSError:  # the listing's own
                continue
            try:
                os.dup2(null, descriptor, inheritable=False)
            except OSError:  # beyond the soft limit, where dup2(2) makes none
                os.close(descriptor)
    os.close(null)
