"""Becoming the daemon of the context that ``privsep-helper`` is asked for.

Runs in the privileged process, after `_begin`.  It has to be a PrivContext that knows
itself by that very path, and the files say only what their owner may.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from oslo_privsep import _options, _settings
from privsep._daemon import main as engine
from privsep._lockdown.capability_names import mask
from privsep._start.judge import Caller
from privsep.context import begin_loading
from privsep.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from oslo_privsep._engine import Engine
    from oslo_privsep._words import Words
    from privsep._start.judge import Rights
    from privsep._start.rules import Rules


def serve(wanted: Words, control: int, said: Rules | None) -> NoReturn:
    """Be the daemon.

    Args:
        wanted: what the command line asks for.
        control: the descriptor of the control socket.
        said: what root says of the context; None: nothing.

    """
    environment = tuple(os.environ)
    sock = socket.socket(fileno=control)
    rights = Caller(sock).rights()
    engine.run(sock, partial(_load, wanted, rights, environment, said))


def _load(
    wanted: Words,
    rights: Rights,
    environment: tuple[str, ...],
    said: Rules | None,
) -> Engine:
    """Import the context and read its options; the surroundings are clean."""
    begin_loading()
    _options.begin_daemon()
    files = _settings.read_files(wanted.places, rights)
    _Configuration(files).wait()
    from oslo_privsep import _engine  # noqa: PLC0415 - the parent need not wait for it
    from oslo_privsep.priv_context import PrivContext  # noqa: PLC0415

    module, _, name = wanted.context.rpartition(".")
    context = getattr(importlib.import_module(module), name, None)
    if not isinstance(context, PrivContext) or context.pypath != wanted.context:
        msg = f"--privsep_context {wanted.context} is not the pypath of a PrivContext"
        raise StartError(msg)
    settings = _settings.read(context.cfg_section, files, _settings.say)
    if said is not None:
        said.check_capabilities(wanted.context, mask(settings.capabilities))
    return _engine.Engine(context, settings, environment)


class _Configuration:
    """The files, for oslo.config, as soon as a module of the context loads it.

    They are read by now, and kept in memory, because who drops privileges may be unable
    to read them later.
    """

    def __init__(self, files: list[_settings.File]) -> None:
        self._memory = _settings.in_memory([file.text for file in files])

    def wait(self) -> None:
        """Have oslo.config know them from the moment on when it is loaded."""
        if _options.CONFIG in sys.modules:
            self._use()
        else:
            sys.meta_path.insert(0, self)

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Find oslo.config as it would be found, and have its loader come back."""
        if name != _options.CONFIG:
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                self._follow(spec.loader)
                return spec
        return None

    def _follow(self, loader: Loader) -> None:
        execute = loader.exec_module

        def execute_then_use(module: ModuleType) -> None:
            execute(module)
            self._use()

        loader.exec_module = execute_then_use  # type: ignore[method-assign]

    def _use(self) -> None:
        with self._memory as paths:
            _options.load_files(paths)
