"""A daemon that a program runs itself, on a channel of its own, as oslo.privsep has it.

Runs in that program's privileged process.  `PrivContext.start` uses none of this.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from oslo_privsep import _values, capabilities, daemon
from oslo_privsep.comm import Message

if TYPE_CHECKING:
    from oslo_privsep import comm
    from oslo_privsep.priv_context import PrivContext


class PrivsepLogHandler(logging.Handler):
    """Sends records over a channel.

    Args:
        channel: takes them by ``send((None, message))``.
        processName: the name of the process in them; None: its own.

    """

    def __init__(
        self,
        channel: comm.ServerChannel,
        processName: str | None = None,  # noqa: N803 - as oslo.privsep has it
    ) -> None:
        super().__init__()
        self.channel = channel
        self.processName = processName

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record, with its message and its traceback as text."""
        fields = dict(vars(record), msg=record.getMessage(), args=(), exc_info=None)
        if record.exc_info and not record.exc_text:
            formatter = self.formatter or logging.Formatter()
            fields["exc_text"] = formatter.formatException(record.exc_info)
        if self.processName:
            fields["processName"] = self.processName
        self.channel.send((None, (Message.LOG.value, fields)))


def replace_logging(
    handler: logging.Handler, log_root: logging.Logger | None = None
) -> None:
    """Make `handler` the only one of a logger; those below it keep theirs.

    Args:
        handler: it.
        log_root: the logger; None: the root.

    """
    logger = logging.root if log_root is None else log_root
    logger.handlers[:] = [handler]


class Daemon:
    """Serves one channel in this process, for a program that starts it itself.

    `PrivContext.start` does not use it.

    Args:
        channel: yields and takes ``(id, message)``.
        context: whose entrypoints are served.

    """

    def __init__(self, channel: comm.ServerChannel, context: PrivContext) -> None:
        self.channel = channel
        self.context = context

    def run(self) -> None:
        """Give up what the context does not need, and serve.

        Raises:
            FailedToDropPrivileges: this process has not what it is to keep.

        """
        conf = self.context.conf
        os.chdir("/")
        if conf.user is not None or conf.group is not None:
            capabilities.set_keepcaps(True)
            os.setgroups([])
            if conf.group is not None:
                daemon.setgid(conf.group)
            if conf.user is not None:
                daemon.setuid(conf.user)
        kept = set(conf.capabilities)
        try:
            capabilities.drop_all_caps_except(kept, kept, ())
        except OSError as error:
            raise daemon.FailedToDropPrivileges(str(error)) from error
        self.loop()

    def loop(self) -> None:
        """Serve calls, so many at once as the options say, until the channel closes."""
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - no helper's

        self.context.set_client_mode(False)
        with ThreadPoolExecutor(self.context.conf.thread_pool_size) as pool:
            for identity, message in self.channel:
                pool.submit(self._answer, identity, message)

    def _answer(self, identity: object, message: tuple[Any, ...]) -> None:
        try:
            reply = self._process(*message)
        except BaseException as error:  # noqa: BLE001 - every call gets an answer
            _values.make_plain(error)
            name = f"{type(error).__module__}.{type(error).__qualname__}"
            reply = (Message.ERR.value, name, error.args)
        try:
            self.channel.send((identity, reply))
        except (TypeError, ValueError, OverflowError) as error:
            name = f"builtins.{type(error).__name__}"
            self.channel.send((identity, (Message.ERR.value, name, error.args)))

    def _process(self, kind: int, *arguments: Any) -> tuple[Any, ...]:  # noqa: ANN401
        from oslo_privsep import _engine  # noqa: PLC0415 - as above

        if kind == Message.PING:
            return (Message.PONG.value,)
        if kind != Message.CALL:
            msg = f"unknown message {kind}"
            raise daemon.ProtocolError(msg)
        name, args, kwargs = arguments
        function = _engine.find(self.context, name)
        return (Message.RET.value, function(*args, **kwargs))
