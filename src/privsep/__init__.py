"""Privilege separation for Python services on Linux.

A service runs without privileges; the few functions that need them run in a
small daemon that holds only the privileges they need.
"""

from typing import TYPE_CHECKING

from privsep.context import Context
from privsep.errors import (
    CallTimeout,
    DaemonGone,
    MessageTooLarge,
    PrivsepError,
    Refused,
    StartError,
    Unserializable,
    WorkerDied,
)
from privsep.privileges import drop_privileges
from privsep.sandbox import Sandbox

if TYPE_CHECKING:
    from privsep.audit import Audit
    from privsep.paths import Beneath, open_beneath

__all__ = [
    "Audit",
    "Beneath",
    "CallTimeout",
    "Context",
    "DaemonGone",
    "MessageTooLarge",
    "PrivsepError",
    "Refused",
    "Sandbox",
    "StartError",
    "Unserializable",
    "WorkerDied",
    "drop_privileges",
    "open_beneath",
]


def __getattr__(name: str) -> object:
    """Load what few contexts use when it is used: a daemon loads all of this."""
    if name == "Audit":
        from privsep.audit import Audit  # noqa: PLC0415

        return Audit
    if name in ("Beneath", "open_beneath"):
        from privsep import paths  # noqa: PLC0415

        found: object = getattr(paths, name)
        return found
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
