"""What lets a user start a daemon through sudo: sudoers(5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from privsep._lockdown.capability_names import describe
from privsep._start import sudo

if TYPE_CHECKING:
    from privsep.context import Context


def generate(context: Context, user: str) -> str:
    """Return the file that allows `user` the daemon of `context`, and no more.

    Raises:
        StartError: the context is in no importable variable.

    """
    command = sudo.escaped(sudo.command(context, ()))
    launcher = command.partition(" ")[0]
    lines = [
        # sudo does not read files with a dot in their name.
        f"# /etc/sudoers.d/privsep-{context.variable.replace('.', '_')}, mode 0440",
        f"# Nobody is there to type a password. In full, with the context: what {user}",
        "# could choose, root would import. The daemon keeps of root's capabilities:",
        f"# {describe(context.capability_mask)}",
        f"{user} ALL=(root) NOPASSWD: {command}",
        "# A service has no terminal, and its variables are not root's to keep:",
        f"Defaults!{launcher} !requiretty, env_reset",
    ]
    if context.environment:
        names = " ".join(context.environment)
        lines += [
            "# but those that the context names (environment=):",
            f'Defaults!{launcher} env_keep += "{names}"',
        ]
    return "\n".join(lines) + "\n"
