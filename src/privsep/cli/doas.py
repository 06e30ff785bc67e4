"""What lets a user start a daemon through doas: doas.conf(5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from privsep._lockdown.capability_names import describe
from privsep._start import sudo

if TYPE_CHECKING:
    from privsep.context import Context


def generate(context: Context, user: str) -> str:
    """Return the lines of doas.conf that allow `user` the daemon of `context`.

    Raises:
        StartError: the context is in no importable variable.

    """
    lines = [
        "# /etc/doas.conf; look at it with doas -C /etc/doas.conf",
        "# nopass: nobody is there to type a password. args: in full, as what",
        f"# {user} could choose, root would import. The daemon keeps of root's",
        f"# capabilities: {describe(context.capability_mask)}",
    ]
    if context.environment:
        lines.append("# setenv: the variables that the context names (environment=).")
    lines.append(sudo.doas_rule(context, user))
    return "\n".join(lines) + "\n"
