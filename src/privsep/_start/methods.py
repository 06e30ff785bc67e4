"""The start methods by name, and ``auto``, which chooses one.

Runs in the client.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from privsep._lockdown import capabilities
from privsep._lockdown.capability_names import describe
from privsep._start import exec as exec_
from privsep._start import fork, sudo, userns
from privsep._start import socket as socket_
from privsep._start.handshake import wait_until_ready
from privsep._start.process import Reached
from privsep.context import NAMESPACES
from privsep.errors import StartError

if TYPE_CHECKING:
    from privsep._start.process import Launched
    from privsep.context import Context, StartOptions

_METHODS = ("auto", "fork", "exec", "sudo", "socket", "userns")


def chosen(context: Context, options: StartOptions) -> StartOptions:
    """Return `options` with the method that "auto" takes.

    Raises:
        StartError: none would work.
        ValueError: no such method or namespace.

    """
    check(options)
    if options.method != "auto":
        return options
    return options._replace(method=_choose(context, options))


def reach(context: Context, options: StartOptions) -> tuple[Launched | Reached, str]:
    """Connect to the daemon of `context`, or start it; and return the method.

    Raises:
        StartError: it did not start, or does not let this process in.
        ValueError: no such method or namespace.

    """
    options = chosen(context, options)
    if options.method != "socket":
        return launch(context, options)
    control, missing = socket_.connect(context, options.path, options.deadline)
    _warn(context, *missing)
    return Reached(control), options.method


def launch(context: Context, options: StartOptions) -> tuple[Launched, str]:
    """Start the daemon of `context`; return it when it is ready, and the method.

    Raises:
        StartError: it did not start.
        ValueError: no such method or namespace.

    """
    options = chosen(context, options)
    what = f"context {context.name!r} could not be started by {options.method}"
    try:
        launched, remedy = _launch(context, options)
    except OSError as error:
        msg = f"{what}: {error}"
        raise StartError(msg) from error
    if context.client is not None:
        context.client.prepare()
    missing, launched = wait_until_ready(launched, what, remedy, options.deadline)
    _warn(context, *missing)
    return launched, options.method


def _warn(context: Context, abi: object, *missing: object) -> None:
    """Say, once, what of the sandbox the kernel does not enforce."""
    if missing:
        logging.getLogger(f"privsep.{context.name}").warning(
            "the kernel (Landlock ABI %s) does not enforce of the sandbox: %s",
            abi,
            ", ".join(map(str, missing)),
        )


def check(options: StartOptions) -> None:
    if options.method not in _METHODS:
        msg = f"no start method {options.method!r}; there are: {', '.join(_METHODS)}"
        raise ValueError(msg)
    unknown = set(options.namespaces).difference(NAMESPACES)
    if unknown:
        msg = f"no namespace {min(unknown)!r}; there are: {', '.join(NAMESPACES)}"
        raise ValueError(msg)


def _launch(context: Context, options: StartOptions) -> tuple[Launched, str]:
    if options.method == "fork":
        return fork.launch(context), ""
    if options.method == "exec":
        return exec_.launch(context), ""
    if options.method == "userns":
        return userns.launch(context, options.namespaces), ""
    remedy = sudo.remedy(context, options.helper)
    return sudo.launch(context, options.helper), remedy


def _choose(context: Context, options: StartOptions) -> str:
    """Return the first method that would work.

    Raises:
        StartError: none would; the message says why each, and what to do.

    """
    if socket_.is_there(context):
        return "socket"
    missing = exec_.needed(context) & ~capabilities.permitted()
    if not missing:
        return "exec"
    try:
        allowed, said = sudo.is_allowed(context, options.helper[:1], options.deadline)
        said = (
            f"{said}\n        (a rule that allows it, where root owns that environment:"
            f"\n        {sudo.rule(context)})"
        )
    except StartError as error:
        allowed, said = False, str(error)
    if allowed:
        return "sudo"
    msg = (
        f"context {context.name!r} could not be started:\n"
        "  socket: there is none in /run/privsep, where a daemon that systemd starts "
        "would listen (privsep generate systemd)\n"
        f"  exec: this process (uid {os.getuid()}) lacks {describe(missing)}: start "
        "the service with that (systemd: AmbientCapabilities=), or call "
        "start('fork') before it drops privileges\n"
        f"  sudo: {said}\n"
        "  userns: for development, start('userns') needs no privilege"
    )
    raise StartError(msg)
