"""What lets a service start a daemon through rootwrap: a file of filters.

The same file is for privsep-rootwrap and for oslo.rootwrap.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from privsep._lockdown.capability_names import describe
from privsep._start import sudo

if TYPE_CHECKING:
    from privsep.context import Context


def generate(context: Context, user: str) -> str:
    """Return the .filters file that allows the daemon of `context`, and no more.

    Raises:
        StartError: the context is in no importable variable.
        ValueError: the launcher's path has a comma, which no filter can hold.

    """
    launcher, variable = sudo.command(context, ())
    if "," in launcher:
        msg = f"{launcher} has a comma, which separates words in a filter"
        raise ValueError(msg)
    name = re.sub(r"\W", "_", f"privsep_{variable}")
    return f"""\
# privsep.filters, in a directory of filters_path, root's like all there.
[Filters]
# Whom the daemon serves is whoever runs rootwrap ({user}). Each word as a pattern that
# is met by that word alone: what the service could choose, root would import.
# The daemon keeps of root's capabilities: {describe(context.capability_mask)}
{name}: RegExpFilter, {launcher}, root, {re.escape(launcher)}, {re.escape(variable)}
"""
