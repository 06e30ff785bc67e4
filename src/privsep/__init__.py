"""Privilege separation for Python services on Linux.

A service runs without privileges; the few functions that need them run in a
small daemon that holds only the privileges they need.
"""

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from privsep._wire.open_files import Fd
    from privsep.audit import Audit
    from privsep.awaiting import aio
    from privsep.boundary import Len, Pattern, Predicate, Range, Secret
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
    from privsep.paths import Beneath, open_beneath
    from privsep.privileges import drop_privileges
    from privsep.sandbox import Sandbox

__all__ = [
    "Audit",
    "Beneath",
    "CallTimeout",
    "Context",
    "DaemonGone",
    "Fd",
    "Len",
    "MessageTooLarge",
    "Pattern",
    "Predicate",
    "PrivsepError",
    "Range",
    "Refused",
    "Sandbox",
    "Secret",
    "StartError",
    "Unserializable",
    "WorkerDied",
    "aio",
    "drop_privileges",
    "open_beneath",
]


#: what is loaded when it is used: a daemon loads what its context uses, and what judges
#: a start, before all else, nothing that it has not looked at
_LAZY = {
    "Audit": "privsep.audit",
    "Beneath": "privsep.paths",
    "CallTimeout": "privsep.errors",
    "Context": "privsep.context",
    "DaemonGone": "privsep.errors",
    "Fd": "privsep._wire.open_files",
    "Len": "privsep.boundary",
    "MessageTooLarge": "privsep.errors",
    "Pattern": "privsep.boundary",
    "Predicate": "privsep.boundary",
    "PrivsepError": "privsep.errors",
    "Range": "privsep.boundary",
    "Refused": "privsep.errors",
    "Sandbox": "privsep.sandbox",
    "Secret": "privsep.boundary",
    "StartError": "privsep.errors",
    "Unserializable": "privsep.errors",
    "WorkerDied": "privsep.errors",
    "aio": "privsep.awaiting",
    "drop_privileges": "privsep.privileges",
    "open_beneath": "privsep.paths",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    module = __import__(_LAZY[name], fromlist=[name])  # importlib would be 0.4 ms
    found: object = getattr(module, name)
    return found


def __dir__() -> list[str]:
    return [*globals(), *_LAZY]
