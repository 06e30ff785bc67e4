"""The main function of a fresh interpreter that becomes the daemon.

Runs in the helper, with the privileges that the start method gave it.  The
control socket is its standard input; it takes that and the name of a context.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
from typing import TYPE_CHECKING, NoReturn

from privsep._daemon import main as daemon

if TYPE_CHECKING:
    from privsep.context import Context


def main() -> NoReturn:
    """Be the daemon of the context that the only argument names (``sudo``)."""
    if len(sys.argv) != 2:  # noqa: PLR2004
        sys.exit("usage: privsep-daemon MODULE:CONTEXT (privsep starts it)")
    _serve(sys.argv[1])


def serve_own() -> NoReturn:
    """Be the daemon, started by ``exec`` with the starter's path."""
    _serve(sys.argv[1])


def serve_userns() -> NoReturn:
    """Be the daemon in new namespaces; the first process stays as its parent."""
    from privsep._start import namespaces  # noqa: PLC0415 - for this method only

    names = sys.argv[2].split(",") if sys.argv[2] else []
    control = _control()

    def load() -> Context:
        return find(sys.argv[1])

    try:
        namespaces.enter(names)
    except namespaces.Forbidden as error:
        daemon.fail(control, error)
    daemon.run(control, load)


def _serve(variable: str) -> NoReturn:
    daemon.run(_control(), lambda: find(variable))


def _control() -> socket.socket:
    try:
        control = socket.socket(fileno=os.dup(0))
    except OSError:
        sys.exit("privsep-daemon: standard input is not a control socket")
    if (control.family, control.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
        sys.exit("privsep-daemon: standard input is not a control socket")
    return control


def find(variable: str) -> Context:
    """Import and return the context that ``module:name`` names.

    Raises:
        LookupError: it is none.

    """
    from privsep.context import Context, begin_loading  # noqa: PLC0415

    begin_loading()
    module, _, name = variable.partition(":")
    found = getattr(importlib.import_module(module), name, None)
    if not isinstance(found, Context):
        msg = f"{variable} is not a privsep.Context"
        raise LookupError(msg)  # noqa: TRY004 - the daemon reports it as it is
    return found
