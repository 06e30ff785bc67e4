"""`PrivContext` and its entrypoints: what a service declares.

Runs on both sides: the service and the daemon import the same module.
"""

from __future__ import annotations

import enum
import functools
import importlib
import threading
from typing import TYPE_CHECKING, Any

from oslo_privsep import _options, daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from oslo_config import cfg

    from oslo_privsep.daemon import _ClientChannel as Channel

ENTRYPOINT = "privsep_entrypoint"  #: the attribute that names a function's context

_helper_prefix = ["sudo"]


class Method(enum.Enum):
    """How a daemon is started.

    FORK: a child of this process, which has the privileges and is about to drop them.
    ROOTWRAP: by a command that gives privileges, ``sudo privsep-helper``.
    """

    FORK = 1
    ROOTWRAP = 2


def init(root_helper: Sequence[str] | None = None) -> None:
    """Set the words that precede ``privsep-helper``.

    Args:
        root_helper: the words, ``["sudo"]`` by default; they are not used where the
            option helper_command is set.

    """
    if root_helper:
        _helper_prefix[:] = root_helper


def _list_opts() -> list[  # pyright: ignore[reportUnusedFunction] - an entry point
    tuple[str, Sequence[cfg.Opt]]
]:
    """Return the options of a section, for oslo-config-generator."""
    return [("privsep", _options.options())]


class PrivContext:
    """A set of privileges, and the functions that may use them.

    Args:
        prefix: entrypoints stand in this module or below.
        cfg_section: the section of the context's options.
        pypath: ``module.variable`` of this context, by which a helper finds it.
        capabilities: what the daemon keeps, unless the options say otherwise; ``[]``
            keeps none.
        logger_name: the logger for what the daemon logs, unless the options say
            otherwise.
        timeout: seconds that each call may take; None: no limit.

    Attributes:
        client_mode: False: calls run in this process; it is so in the daemon.
        channel: to the daemon; None: it is not started.
        start_lock: held while it starts.

    Raises:
        ValueError: no capabilities given, or no such capability.

    """

    def __init__(
        self,
        prefix: str,
        cfg_section: str = "privsep",
        pypath: str | None = None,
        capabilities: Iterable[int | str] | None = None,
        logger_name: str = _options.LOGGER,
        timeout: float | None = None,
    ) -> None:
        if capabilities is None:
            raise ValueError("capabilities is a required parameter")
        self.prefix = prefix
        self.cfg_section = cfg_section
        self.pypath = pypath
        self.timeout = timeout
        self.client_mode = True
        self.channel: Channel | None = None
        self.start_lock = threading.Lock()
        _options.declare(cfg_section, capabilities, logger_name)
        if not _options.is_daemon():
            daemon.load_client()

    def __repr__(self) -> str:
        """Return its section."""
        return f"PrivContext(cfg_section={self.cfg_section})"

    @property
    def conf(self) -> cfg.ConfigOpts.GroupAttr:
        """The values of the context's options, read when they are asked for."""
        return _options.register(self.cfg_section)

    # -- declaring entrypoints -------------------------------------------------

    def entrypoint(self, func: Callable[..., Any]) -> functools.partial[Any]:
        """Make a function run in the daemon when it is called.

        Args:
            func: a function of the context's prefix or below.

        Returns:
            A partial object that takes ``_wrap_timeout=``, seconds, beside the
            function's own arguments.

        Raises:
            AssertionError: it stands elsewhere, or is an entrypoint already.

        """
        self._check_function(func)
        call = functools.partial(self._wrap, func)
        setattr(call, ENTRYPOINT, self)
        return call

    def entrypoint_with_timeout(
        self, timeout: float
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Return a decorator like `entrypoint`, for calls that take `timeout` at most.

        Args:
            timeout: seconds; then the caller gets `daemon.PrivsepTimeout`, and a
                thread of the daemon goes on.

        Raises:
            AssertionError: as `entrypoint`.

        """

        def decorator(func: Callable[..., Any]) -> Callable[..., Any]:
            self._check_function(func)

            @functools.wraps(func)
            def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - func's own
                return self._wrap(func, *args, _wrap_timeout=timeout, **kwargs)

            setattr(call, ENTRYPOINT, self)
            return call

        return decorator

    def _check_function(self, func: Callable[..., Any]) -> None:
        if not is_below(func.__module__, self.prefix):
            msg = f'{self!r} entrypoints must be below "{self.prefix}"'
            raise AssertionError(msg)
        if getattr(func, ENTRYPOINT, None) is not None:
            msg = f"{func!r} is already associated with another PrivContext"
            raise AssertionError(msg)

    def is_entrypoint(self, func: object) -> bool:
        """Return whether `func`, or what it wraps, is an entrypoint of this context."""
        return getattr(func, ENTRYPOINT, None) is self

    def without_wrapper(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return what `entrypoint` was given, if it returned `call`; else `call`.

        In the daemon, where it comes to the same, that is quicker to call.
        """
        if isinstance(call, functools.partial) and call.func == self._wrap:
            function: Callable[..., Any] = call.args[0]
            return function
        return call

    def _wrap(
        self,
        func: Callable[..., Any],
        *args: Any,  # noqa: ANN401 - func's own
        _wrap_timeout: float | None = None,
        **kwargs: Any,  # noqa: ANN401 - func's own
    ) -> Any:  # noqa: ANN401 - func's own
        """Call `func` in the daemon, or here if this is no client."""
        if not self.client_mode:
            return func(*args, **kwargs)
        channel = self.channel
        if channel is None:
            channel = self._started()
        timeout = self.timeout if _wrap_timeout is None else _wrap_timeout
        name = f"{func.__module__}.{func.__name__}"
        return channel.remote_call(name, args, kwargs, timeout)

    # -- the daemon's life -----------------------------------------------------

    def set_client_mode(self, enabled: bool) -> None:  # noqa: FBT001 - as oslo.privsep
        """Have calls run in the daemon, or in this process.

        Args:
            enabled: True: in the daemon.

        """
        self.client_mode = enabled

    def helper_command(self, sockpath: str) -> list[str]:
        """Return the command that starts the daemon.

        sudoers rules and filters match it, so the order of its words is fixed.

        Args:
            sockpath: the socket to which the daemon is to connect.

        Raises:
            AssertionError: pypath is not given, or is not this context.

        """
        if self.pypath is None:
            msg = "helper_command requires priv_context pypath to be specified"
            raise AssertionError(msg)
        if _find(self.pypath) is not self:
            msg = "helper_command requires priv_context pypath for context object"
            raise AssertionError(msg)
        import shlex  # noqa: PLC0415 - in the client only

        own: str | None = self.conf.helper_command
        words = shlex.split(own) if own else [*_helper_prefix, *_default_helper()]
        return [
            *words,
            "--privsep_context",
            self.pypath,
            "--privsep_sock_path",
            sockpath,
        ]

    def start(self, method: Method = Method.ROOTWRAP) -> None:
        """Start the daemon; without this, the first call does.

        Args:
            method: how.

        Raises:
            ValueError: no such method.
            FailedToDropPrivileges: it did not start.

        """
        with self.start_lock:
            if self.channel is not None:
                daemon.logger_of(self).warning("privsep daemon already running")
            elif method is Method.ROOTWRAP:
                self.channel = daemon.RootwrapClientChannel(context=self)
            elif method is Method.FORK:
                self.channel = daemon.ForkingClientChannel(context=self)
            else:
                msg = f"Unknown method: {method}"
                raise ValueError(msg)

    def _started(self) -> Channel:
        """Return the channel of a started daemon."""
        self.start()
        channel = self.channel
        if channel is None:  # another thread has stopped it
            return self._started()
        return channel

    def stop(self) -> None:
        """Let go of the daemon, which finishes the calls that run; then it ends."""
        with self.start_lock:
            channel, self.channel = self.channel, None
        if channel is not None:
            channel.close()


def _default_helper() -> list[str]:
    from oslo_config import cfg  # noqa: PLC0415 - in the client only

    words = ["privsep-helper"]
    for option, paths in (
        ("--config-file", _or_none("config_file", cfg.CONF)),
        ("--config-dir", _or_none("config_dir", cfg.CONF)),
    ):
        for path in paths:
            words += (option, path)
    return words


def _or_none(name: str, conf: cfg.ConfigOpts) -> list[str]:
    """Return the paths of an option that oslo.config itself has, once it is set up."""
    try:
        found: list[str] | str | None = conf[name]
    except Exception:  # noqa: BLE001 - CONF has not been called
        return []
    return [found] if isinstance(found, str) else list(found or [])


def is_below(module: str, prefix: str) -> bool:
    """Return whether `module` is `prefix`, or stands in it."""
    return module == prefix or module.startswith(f"{prefix}.")


def _find(path: str) -> object:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
