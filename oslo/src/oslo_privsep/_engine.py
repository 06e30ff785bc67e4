"""One daemon of a PrivContext, as a `privsep.Context`.

Runs on both sides.  It is made at each start, with what the options say then.
"""

from __future__ import annotations

import importlib
import math
import os
import signal
import sys
from typing import TYPE_CHECKING, cast

import privsep
from oslo_privsep import _settings, _values, daemon
from oslo_privsep._settings import Settings
from oslo_privsep.priv_context import is_below
from privsep._wire.frames import call_head
from privsep.context import MAX_WORKERS, MEMORY, Entry

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable
    from typing import Literal

    from oslo_privsep.priv_context import PrivContext
    from privsep._start.process import Launched
    from privsep.context import StartOptions


class Engine(privsep.Context):
    """What the engine has to know of a PrivContext.

    Args:
        context: the PrivContext.
        settings: what its options say.
        environment: the names of the variables that the daemon keeps.
        forks: whether the first start is by fork; later ones are by command.

    """

    def __init__(
        self,
        context: PrivContext,
        settings: Settings,
        environment: Iterable[str],
        *,
        forks: bool = False,
    ) -> None:
        self._strict = settings.hardening == "strict"
        super().__init__(
            context.cfg_section,
            capabilities=settings.capabilities,
            user=_id(settings.user),
            group=_id(settings.group),
            prefix=context.prefix,
            modules=(),
            timeout=None,
            isolation=cast("Literal['thread', 'process']", settings.worker_type),
            workers=settings.thread_pool_size,
            memory=MEMORY if self._strict else None,
            environment=() if self._strict else environment,
            validate="off",
        )
        self.bounds_programs = self._strict
        self.owner = context
        self._forks = forks

    # -- in the daemon ---------------------------------------------------------

    def begin_serving(self) -> dict[bytes, Entry]:
        """Make this process the daemon; return the table, which fills itself."""
        super().begin_serving()
        self.owner.set_client_mode(False)
        if self._forks:
            _name_process_in_records(str(self.owner))
        if not self._strict:
            os.umask(0)
            sys.dont_write_bytecode = True  # or anybody could write where it lies
            signal.signal(signal.SIGINT, signal.default_int_handler)  # children have it
            _settings.say(
                f"{self.owner}: hardening is compatible: programs that this daemon "
                "runs as root have all capabilities, its umask is 0; to change that: "
                "hardening = strict"
            )
        # A worker that is a process ends what it left behind, unless it is detached.
        return Table(self.owner, detach=self.isolation == "process")

    # -- in the client ---------------------------------------------------------

    def launch(self, options: StartOptions) -> tuple[Launched, str]:
        """Start the daemon; see `privsep.Context.launch`."""
        if self._forks:
            from privsep._start import methods  # noqa: PLC0415 - as below

            launched, method = methods.launch(self, options)
            # What was forked is started again by command, where there can be one.
            self._forks = self.owner.pypath is None
            if not self._forks:
                method = "forked"
        else:
            from oslo_privsep import _launch  # noqa: PLC0415 - in the client only

            launched, method = _launch.launch(self), "rootwrap"
        import logging  # noqa: PLC0415 - not in every daemon

        logger = logging.getLogger(self.logger)
        logger.info("privsep daemon running as pid %s", launched.process.pid)
        return launched, method

    def may_import(self, module: str) -> bool:
        """Allow every module: what may raise here is anybody's."""
        del module
        return True

    def log_line(self, stream: str, pid: int | None, text: str) -> None:
        """Log what the daemon printed, as oslo.privsep does."""
        del stream, pid
        import logging  # noqa: PLC0415 - as above

        logging.getLogger(self.logger).warning("privsep log: %s", text)


def _name_process_in_records(name: str) -> None:
    """Have records say which daemon made them: a fork has its client's name."""
    import logging  # noqa: PLC0415 - the client has loaded it

    make = logging.getLogRecordFactory()

    def make_named(*args: object, **kwargs: object) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.processName = name
        return record

    logging.setLogRecordFactory(make_named)


def _id(name: str | None) -> str | int | None:
    """Return a user or group as the engine takes it: digits are a number."""
    return int(name) if name is not None and name.isdecimal() else name


class Table(dict[bytes, Entry]):
    """The daemon's table: a row is made when its name is first asked for.

    Args:
        context: whose entrypoints it has.
        detach: whether what an entrypoint leaves behind outlives a worker only so.

    """

    def __init__(self, context: PrivContext, *, detach: bool) -> None:
        super().__init__()
        self._context = context
        self._detach = detach

    def __missing__(self, wire_name: bytes) -> Entry:
        """Return the row of `wire_name`; one that raises if there is none."""
        name = wire_name.decode("utf-8", "backslashreplace")
        try:
            function = find(self._context, name)
        except Exception as error:  # noqa: BLE001 - the module's own, too
            return entry(name, _raiser(error))
        function = self._context.without_wrapper(function)
        row = entry(name, _served(function))._replace(detach=self._detach)
        self[wire_name] = row
        return row


def entry(
    name: str, function: Callable[..., object] = repr, timeout: float | None = None
) -> Entry:
    """Return a row; in the client its function is never called."""
    wire_name = name.encode()
    limit = math.inf if timeout is None else timeout
    return Entry(
        name,
        wire_name,
        function,
        limit,
        detach=False,
        head=call_head(wire_name),
        packed=True,
    )


def _raiser(error: Exception) -> Callable[..., object]:
    def fail(packed: bytes) -> bytes:
        del packed
        raise error

    return fail


def _served(function: Callable[..., object]) -> Callable[..., object]:
    """Return `function` for packed arguments, and a packed result."""

    def serve(packed: bytes) -> bytes:
        args, kwargs = cast(
            "tuple[tuple[object, ...], dict[str, object]]", _values.unpack(packed)
        )
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            _values.make_plain(error)
            raise
        return _values.pack(result)

    return serve


def find(context: PrivContext, name: str) -> Callable[..., object]:
    """Return the entrypoint `name`; import its module, if that is below the prefix.

    Raises:
        NameError: it is none of this context.
        Exception: the import's.

    """
    module, _, attribute = name.rpartition(".")
    if is_below(module, context.prefix):
        found = getattr(importlib.import_module(module), attribute, None)
        if context.is_entrypoint(found):
            return cast("Callable[..., object]", found)
    msg = f"Invalid privsep function: {name} not exported"
    raise NameError(msg)


def in_client(context: PrivContext, *, forks: bool) -> Engine:
    """Return the engine of `context` with what its options say now."""
    conf = context.conf
    settings = Settings(*(conf[name] for name in Settings._fields))
    workers = min(settings.thread_pool_size, MAX_WORKERS)
    settings = settings._replace(thread_pool_size=workers)
    engine = Engine(context, settings, os.environ, forks=forks)
    engine.logger = daemon.logger_of(context).name
    return engine
