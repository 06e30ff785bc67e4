"""The main function of a fresh interpreter that becomes the daemon.

Runs in the helper, with the privileges that the start method gave it.  The
control socket is its standard input; it takes that and the name of a context.
"""

from __future__ import annotations

import os
import sys

from privsep._daemon import main as daemon

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    import socket
    from typing import NoReturn

    from privsep._start.gate import Gate
    from privsep._start.rules import Rules
    from privsep.context import Context
else:
    import _socket as socket  # without enum and selectors: 4 ms


def serve_judged(variable: str, said: Rules, gate: Gate) -> NoReturn:
    """Be the daemon, started by ``sudo``, after `privsep._start.__main__` let it.

    Args:
        variable: ``MODULE:CONTEXT``.
        said: what root says of it.
        gate: has looked at what was imported, but not at what that is linked with.

    """

    def load() -> Context:
        context = find_judged(variable, said)
        gate.check_mapped()
        return context

    daemon.run(control_socket(), load, shared=True)


def find_judged(variable: str, said: Rules) -> Context:
    """Import and return the context, if it asks for no more than root allows.

    Raises:
        LookupError: it is none.
        StartError: it asks for more.

    """
    context = find(variable)
    said.check_capabilities(variable, context.capability_mask)
    return context


def serve_own() -> NoReturn:
    """Be the daemon, started by ``exec`` with the starter's path."""
    _serve(sys.argv[1])


def serve_userns() -> NoReturn:
    """Be the daemon in new namespaces; the first process stays as its parent."""
    from privsep._start import namespaces  # noqa: PLC0415 - for this method only

    names = sys.argv[2].split(",") if sys.argv[2] else []
    control = control_socket()

    def load() -> Context:
        return find(sys.argv[1])

    try:
        namespaces.enter(names)
    except namespaces.Forbidden as error:
        daemon.fail(control, error)
    daemon.run(control, load)


def _serve(variable: str) -> NoReturn:
    daemon.run(control_socket(), lambda: find(variable))


def control_socket() -> socket.socket:
    """Return what came as the standard input; exit if it is no control socket."""
    try:
        control = socket.socket(fileno=os.dup(0))
    except OSError:
        sys.exit("standard input is not a control socket: privsep starts this program")
    if (control.family, control.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
        sys.exit("standard input is not a control socket: privsep starts this program")
    return control


def find(variable: str) -> Context:
    """Import and return the context that ``module:name`` names.

    Raises:
        LookupError: it is none.

    """
    from privsep.context import Context, begin_loading  # noqa: PLC0415

    begin_loading()
    module, _, name = variable.partition(":")
    __import__(module)
    found = getattr(sys.modules[module], name, None)
    if not isinstance(found, Context):
        msg = f"{variable} is not a privsep.Context"
        raise LookupError(msg)  # noqa: TRY004 - the daemon reports it as it is
    return found
