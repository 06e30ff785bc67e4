"""Channels to a daemon, and the helper that becomes one.

The channels run in the client, `helper_main` in the privileged process.  The rest is
what oslo.privsep has here under these names, for a daemon that a program runs itself.
"""

from __future__ import annotations

import enum
import fcntl
import grp
import io
import os
import pwd
from typing import TYPE_CHECKING, Any, NoReturn

from oslo_privsep import _values
from oslo_privsep.comm import Message, PrivsepTimeout
from privsep import CallTimeout, StartError

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from oslo_privsep._by_hand import Daemon, PrivsepLogHandler, replace_logging
    from oslo_privsep._engine import Engine
    from oslo_privsep.priv_context import PrivContext
    from privsep._client.client import Client
    from privsep.context import Entry

__all__ = [
    "Daemon",
    "FailedToDropPrivileges",
    "ForkingClientChannel",
    "Message",
    "PrivsepLogHandler",
    "PrivsepTimeout",
    "ProtocolError",
    "RootwrapClientChannel",
    "StdioFd",
    "fdopen",
    "helper_main",
    "replace_logging",
    "set_cloexec",
    "setgid",
    "setuid",
]

_START_DEADLINE = 60.0  # seconds: a busy host, an LDAP directory behind sudo


class FailedToDropPrivileges(Exception):
    """A daemon could not be started with the privileges that it is to have."""


class ProtocolError(Exception):
    """The other side sent what it must not."""


class StdioFd(enum.IntEnum):
    """The standard descriptors."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2


# -- in the client -------------------------------------------------------------


def load_client() -> None:
    """Load what a start needs, with the service, so that its first call need not."""
    import importlib  # noqa: PLC0415 - no daemon's

    for module in (
        "oslo_privsep._launch",
        "privsep._client.client",
        "privsep._start.methods",
    ):
        importlib.import_module(module)


def logger_of(context: PrivContext) -> logging.Logger:
    """Return the logger that handles what the daemon of `context` logs."""
    import logging  # noqa: PLC0415 - not in every daemon

    name: str = context.conf.logger_name
    if name.startswith("oslo_"):  # as oslo.log calls it
        name = f"oslo.{name.removeprefix('oslo_')}"
    return logging.getLogger(name)


class _ClientChannel:
    """Calls functions of a daemon, which it has started.

    Args:
        context: whose daemon it is.
        forks: whether the first start is by fork.

    Raises:
        FailedToDropPrivileges: it did not start.

    """

    def __init__(self, context: PrivContext, *, forks: bool) -> None:
        from oslo_privsep import _engine  # noqa: PLC0415
        from privsep._client.client import new_client  # noqa: PLC0415 - no daemon's
        from privsep.context import StartOptions  # noqa: PLC0415

        self._context = context
        self._engine: Engine = _engine.in_client(context, forks=forks)
        self._client: Client = new_client(self._engine)
        self._entry_of = _engine.entry
        self._entries: dict[tuple[str, float | None], Entry] = {}
        try:
            self._client.start(StartOptions("fork", deadline=_START_DEADLINE))
        except StartError as error:
            raise FailedToDropPrivileges(str(error)) from error

    def remote_call(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
    ) -> Any:  # noqa: ANN401 - the function's own
        """Call an entrypoint; return its result or raise its exception.

        Args:
            name: module and name of the function.
            args: its arguments.
            kwargs: its keyword arguments.
            timeout: seconds; None: no limit.

        Raises:
            PrivsepTimeout: it did not end in time.
            TypeError: an argument or the result is of a type that does not cross.
            OverflowError: an integer that 64 bits do not hold.
            FailedToDropPrivileges: the daemon was gone, and did not start again.
            OSError: the daemon ended meanwhile.

        """
        packed = _values.pack((args, kwargs))
        try:
            entry = self._entries[name, timeout]
        except KeyError:
            entry = self._entry_of(name, timeout=timeout)
            self._entries[name, timeout] = entry
        try:
            reply = self._client.call(entry, (packed,), {})
        except CallTimeout as error:
            raise PrivsepTimeout(str(error)) from None
        except StartError as error:
            raise FailedToDropPrivileges(str(error)) from error
        except BaseException as error:
            if self._context.conf.log_daemon_traceback:
                self._log_traceback(error)
            raise
        return _values.unpack(reply)  # type: ignore[arg-type]  # a worker's own bytes

    def _log_traceback(self, error: BaseException) -> None:
        from privsep._client.exceptions import (  # noqa: PLC0415 - see __init__
            remote_traceback,
        )

        text = remote_traceback(error)
        if text is not None:
            logger_of(self._context).warning("Privsep daemon traceback: %s", text)

    def close(self) -> None:
        """Let go of the daemon, and wait until it has ended."""
        self._engine.stop()


class ForkingClientChannel(_ClientChannel):
    """A channel to a daemon that is forked off this process.

    Args:
        context: whose daemon it is.

    Raises:
        FailedToDropPrivileges: it did not start.

    """

    def __init__(self, context: PrivContext) -> None:
        super().__init__(context, forks=True)


class RootwrapClientChannel(_ClientChannel):
    """A channel to a daemon that a command starts, such as ``sudo privsep-helper``.

    Args:
        context: whose daemon it is.

    Raises:
        FailedToDropPrivileges: it did not start.

    """

    def __init__(self, context: PrivContext) -> None:
        super().__init__(context, forks=False)


# -- in the privileged process ---------------------------------------------------


def helper_main() -> NoReturn:
    """Be the daemon that the command line asks for; see ``privsep-helper --help``."""
    import sys  # noqa: PLC0415 - as below

    from oslo_privsep import _begin  # noqa: PLC0415 - in the helper only

    _begin.main(None, sys.argv[1:])


def setuid(user_id_or_name: str | int) -> None:
    """Become a user, in every kind of id.

    Args:
        user_id_or_name: name or number.

    Raises:
        FailedToDropPrivileges: it is not allowed.
        KeyError: there is no such user.

    """
    _change(os.setuid, user_id_or_name, lambda name: pwd.getpwnam(name).pw_uid)


def setgid(group_id_or_name: str | int) -> None:
    """Become a member of one group, in every kind of id.

    Args:
        group_id_or_name: name or number.

    Raises:
        FailedToDropPrivileges: it is not allowed.
        KeyError: there is no such group.

    """
    _change(os.setgid, group_id_or_name, lambda name: grp.getgrnam(name).gr_gid)


def _change(
    call: Callable[[int], None], wanted: str | int, look_up: Callable[[str], int]
) -> None:
    try:
        number = int(wanted)
    except ValueError:
        number = look_up(str(wanted))
    try:
        call(number)
    except OSError as error:
        msg = f"Failed to set {call.__name__.removeprefix('set')} {number}"
        raise FailedToDropPrivileges(msg) from error


def set_cloexec(fd: int) -> None:
    """Have a descriptor closed by execve(2).

    Args:
        fd: the descriptor.

    Raises:
        OSError: as fcntl(2).

    """
    fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.fcntl(fd, fcntl.F_GETFD) | fcntl.FD_CLOEXEC)


def fdopen(fd: int, *args: Any, **kwargs: Any) -> io.IOBase:  # noqa: ANN401 - open()'s
    """Return a file object of a descriptor; the arguments are those of `open`."""
    file: io.IOBase = io.open(fd, *args, **kwargs)  # noqa: SIM115, UP020
    return file


#: what few programs use, and no helper, is loaded when it is asked for
_LAZY = ("Daemon", "PrivsepLogHandler", "replace_logging")


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from oslo_privsep import _by_hand  # noqa: PLC0415

    found: object = getattr(_by_hand, name)
    return found
