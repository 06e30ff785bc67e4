"""The options of a context, with oslo.config.

Runs in the client, and in a daemon whose context's modules load oslo.config.  A
daemon without it reads the same by `_settings`.  Until then what contexts declare is
kept here.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from oslo_privsep import capabilities

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from oslo_config import cfg

LOGGER = "oslo_privsep.daemon"
CONFIG = "oslo_config.cfg"  #: the module
MOST_WORKERS = 1024


class Declared(NamedTuple):
    """What a context's module says, and the options may say otherwise."""

    capabilities: list[int]
    logger_name: str


class _Process:
    #: this is a daemon, in which nothing but its context's modules loads oslo.config
    is_daemon = False


_declared: dict[str, Declared] = {}  #: by section; the last one counts
_registered: dict[str, Declared] = {}


def begin_daemon() -> None:
    """Say that this process is a daemon."""
    _Process.is_daemon = True


def is_daemon() -> bool:
    """Return whether this process is a daemon that a helper has become."""
    return _Process.is_daemon


def capability(value: object) -> int:
    """Return the number of a capability, given by name or number, as oslo takes it.

    Raises:
        ValueError: neither.

    """
    if isinstance(value, str) and value in capabilities.CAPS_BYNAME:
        return capabilities.CAPS_BYNAME[value]
    return int(value)  # type: ignore[call-overload,no-any-return]


def declare(
    section: str, numbers: Iterable[int | str], logger_name: str = LOGGER
) -> None:
    """Note the defaults of `section`, and register its options.

    Raises:
        ValueError: no such capability.

    """
    _declared[section] = Declared(list(map(capability, numbers)), logger_name)
    if not _Process.is_daemon or CONFIG in sys.modules:
        register(section)


def declared(section: str) -> Declared:
    """Return what was declared for `section`."""
    return _declared[section]


def register(section: str) -> cfg.ConfigOpts.GroupAttr:
    """Register the options of `section` unless they are; return their values."""
    from oslo_config import cfg  # noqa: PLC0415 - not in every daemon

    defaults = _declared[section]
    if _registered.get(section) != defaults:
        cfg.CONF.register_opts(options(), group=section)
        for name, value in defaults._asdict().items():
            cfg.CONF.set_default(name, group=section, default=value)
        _registered[section] = defaults
    values: cfg.ConfigOpts.GroupAttr = cfg.CONF[section]
    return values


def register_all() -> None:
    """Register the options of every section that was declared."""
    for section in _declared:
        register(section)


def options() -> Sequence[cfg.Opt]:
    """Return the options of a section, made anew."""
    from oslo_config import cfg, types  # noqa: PLC0415 - not in every daemon

    hardening = {
        "compatible": (
            "as oslo.privsep: programs that a daemon of root runs have all "
            "capabilities, and its umask is 0"
        ),
        "strict": (
            "programs that the daemon runs have at most its own capabilities, and "
            "gain none"
        ),
    }
    worker_type = {
        "thread": "calls share the state of one process",
        "process": "a call that overruns its timeout is killed",
    }
    return [
        cfg.StrOpt("user", help="User that the privsep daemon runs as."),
        cfg.StrOpt("group", help="Group that the privsep daemon runs as."),
        cfg.Opt(
            "capabilities",
            type=types.List(cast("types.ConfigType", capability)),
            default=[],
            help="Linux capabilities that the privsep daemon keeps, by name or number.",
        ),
        cfg.IntOpt(
            "thread_pool_size",
            min=1,
            default=processors(),
            sample_default="the number of processors",
            help="How many calls the privsep daemon runs at once.",
        ),
        cfg.StrOpt(
            "helper_command",
            help=(
                "Command that starts the daemon, unless it is started by fork; "
                "--privsep_context and --privsep_sock_path are added. By default "
                '"sudo privsep-helper" with the configuration files of this process.'
            ),
        ),
        cfg.StrOpt(
            "logger_name",
            default=LOGGER,
            help="Name of the logger that handles what this context's daemon logs.",
        ),
        cfg.BoolOpt(
            "log_daemon_traceback",
            default=False,
            help="Log the daemon's traceback of each exception that a call raises.",
        ),
        cfg.StrOpt(
            "hardening",
            choices=list(hardening.items()),
            default="compatible",
            help="What the daemon gives up beside its own capabilities.",
        ),
        cfg.StrOpt(
            "worker_type",
            choices=list(worker_type.items()),
            default="thread",
            help="What runs a call.",
        ),
    ]


def processors() -> int:
    """Return how many calls run at once by default."""
    return min(os.cpu_count() or 1, MOST_WORKERS)


def load_files(paths: Sequence[str]) -> None:
    """Have oslo.config, which is loaded, know the options, and the files at `paths`."""
    from oslo_config import cfg  # noqa: PLC0415 - not in every daemon

    register_all()
    conf: Any = cfg.CONF
    conf([], project="privsep", default_config_files=list(paths))
