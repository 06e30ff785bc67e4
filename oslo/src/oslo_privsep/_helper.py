"""``privsep-helper``: becomes the daemon of the context that the command line names.

Runs in the privileged process.  All of the command line is the caller's: the context
has to be a PrivContext that knows itself by that very path, the socket has to belong
to whoever called sudo, and the files say only what their owner may.
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
from privsep._wire.descriptors import peer_credentials
from privsep.context import begin_loading
from privsep.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from oslo_privsep._engine import Engine

#: oslo.log's, accepted as they always were; what is logged goes to the client, which
#: has said from which level on.  True: a value follows.
_LOG_OPTIONS = {
    "--debug": False,
    "-d": False,
    "--nodebug": False,
    "--use-journal": False,
    "--nouse-journal": False,
    "--use-json": False,
    "--nouse-json": False,
    "--use-syslog": False,
    "--nouse-syslog": False,
    "--log-config-append": True,
    "--log-config": True,
    "--log_config": True,
    "--log-date-format": True,
    "--log-dir": True,
    "--logdir": True,
    "--log-file": True,
    "--logfile": True,
    "--syslog-log-facility": True,
}
_USAGE = """\
usage: privsep-helper --privsep_context MODULE.VARIABLE --privsep_sock_path PATH
                      [--config-file PATH]... [--config-dir DIR]... [oslo.log's]

Becomes the daemon of a PrivContext; oslo_privsep starts it.

  --privsep_context MODULE.VARIABLE  the context
  --privsep_sock_path PATH           where its client listens
  --config-file PATH                 read the options of its section here
  --config-dir DIR                   and in each *.conf there
"""


class _Wanted:
    """What the command line asks for."""

    def __init__(self, words: Sequence[str]) -> None:
        self.context = ""
        self.sock_path = ""
        self.files: list[str] = []
        rest = list(words)
        while rest:
            self._take(rest)
        if not self.context or not self.sock_path:
            missing = "sock_path" if self.context else "context"
            _refuse(f"--privsep_{missing} is required")

    def _take(self, rest: list[str]) -> None:
        word, equals, value = rest.pop(0).partition("=")
        if word in ("-h", "--help"):
            sys.stdout.write(_USAGE)
            sys.exit(0)
        if _LOG_OPTIONS.get(word) is False and not equals:
            return
        if not equals:
            if not rest:
                _refuse(f"{word}: a value is missing, or there is no such option")
            value = rest.pop(0)
        if word == "--privsep_context":
            self.context = value
        elif word == "--privsep_sock_path":
            self.sock_path = value
        elif word == "--config-file":
            self.files.append(os.path.abspath(value))
        elif word == "--config-dir":
            self.files += _settings.paths_in(os.path.abspath(value))
        elif not _LOG_OPTIONS.get(word):
            _refuse(f"there is no option {word}")


def _refuse(why: str) -> NoReturn:
    sys.stderr.write(f"privsep-helper: {why}\n{_USAGE}")
    sys.exit(2)


def main() -> NoReturn:
    """Fork; be the daemon in the child, and end in the parent once it is connected."""
    try:
        wanted = _Wanted(sys.argv[1:])
    except StartError as error:
        _refuse(str(error))
    reader, writer = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(writer)
        os._exit(0 if os.read(reader, 1) else 1)
    os.close(reader)
    control = _connect(wanted.sock_path)
    os.write(writer, b"c")
    os.close(writer)
    engine.run(control, partial(_load, wanted, tuple(os.environ)))


def _connect(path: str) -> socket.socket:
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        control.connect(path)
    except OSError as error:
        sys.stderr.write(f"privsep-helper: --privsep_sock_path {path}: {error}\n")
        os._exit(1)
    caller = os.environ.get("SUDO_UID")
    owner = peer_credentials(control).uid
    if caller is not None and caller != str(owner):
        sys.stderr.write(
            f"privsep-helper: uid {owner} listens at {path}, and uid {caller} has "
            "called sudo: they must be the same\n"
        )
        os._exit(1)
    return control


def _load(wanted: _Wanted, environment: tuple[str, ...]) -> Engine:
    """Import the context and read its options; the surroundings are clean."""
    begin_loading()
    _options.begin_daemon()
    files = _settings.read_files(wanted.files)
    _Configuration(files).wait()
    from oslo_privsep import _engine  # noqa: PLC0415 - the parent need not wait for it
    from oslo_privsep.priv_context import PrivContext  # noqa: PLC0415

    module, _, name = wanted.context.rpartition(".")
    context = getattr(importlib.import_module(module), name, None)
    if not isinstance(context, PrivContext) or context.pypath != wanted.context:
        msg = f"--privsep_context {wanted.context} is not the pypath of a PrivContext"
        raise StartError(msg)
    settings = _settings.read(context.cfg_section, files, _settings.say)
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
