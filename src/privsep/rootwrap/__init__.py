"""Run a command as another user if a filter that root wrote allows it.

A program of its own, ``privsep-rootwrap``; a daemon, by way of `Client`; and the same
as a library: `load` reads a policy, `judge` in the module of that name gives a verdict.
What is named here is loaded when it is used: the program's start is most of what it
costs.
"""

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from privsep._start.trust import Untrusted
    from privsep.rootwrap.client import Client, Completed
    from privsep.rootwrap.config import load
    from privsep.rootwrap.errors import BadPolicy
    from privsep.rootwrap.judge import Verdict
    from privsep.rootwrap.policy import Policy
    from privsep.rootwrap.running import Process

__all__ = [
    "BadPolicy",
    "Client",
    "Completed",
    "Policy",
    "Process",
    "Untrusted",
    "Verdict",
    "load",
]

_MODULES = {
    "BadPolicy": "privsep.rootwrap.errors",
    "Client": "privsep.rootwrap.client",
    "Completed": "privsep.rootwrap.client",
    "Policy": "privsep.rootwrap.policy",
    "Process": "privsep.rootwrap.running",
    "Untrusted": "privsep._start.trust",
    "Verdict": "privsep.rootwrap.judge",
    "load": "privsep.rootwrap.config",
}


def __getattr__(name: str) -> object:
    """Load what is named in ``__all__`` when it is asked for."""
    if name not in _MODULES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module  # noqa: PLC0415 - libraries only

    return getattr(import_module(_MODULES[name]), name)
