"""Who called, for those commands that serve nobody else.

Runs in the privileged process.  A daemon of privsep that rootwrap starts compares the
maker of its socket with whom sudo or doas names; a command's environment has neither
otherwise, as other programs trust what is SUDO_UID's.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import Mapping

    from privsep.rootwrap.judge import Verdict

_DAEMONS = frozenset(("privsep-helper", "privsep-daemon", "privsep-rootwrap-daemon"))
_VARIABLES = ("SUDO_UID", "SUDO_GID", "DOAS_USER", "PKEXEC_UID")


def own() -> dict[str, str]:
    """Return what says who called this process."""
    return {name: os.environ[name] for name in _VARIABLES if name in os.environ}


def tell(verdict: Verdict, caller: Mapping[str, str]) -> None:
    """Have the command of an allowed verdict know who called, if it is to.

    Args:
        verdict: of the command; it may be a word of another's, as with env(1).
        caller: variables, as `own` returns them.

    """
    if not _DAEMONS.isdisjoint(map(os.path.basename, verdict.argv)):
        verdict.environment.update(caller)
