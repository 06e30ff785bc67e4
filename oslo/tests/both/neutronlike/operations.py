"""Entrypoints of the service."""

import enum
import functools
import logging
import os
import subprocess
import sys
import threading
import time

import tenacity

from neutronlike import default, other

LOG = logging.getLogger(__name__)
STATE: dict = {}


class Colour(enum.IntEnum):
    RED = 1


class Plain(Exception):
    pass


class Two(Exception):
    """Its constructor does not take its args."""

    def __init__(self, first, second):
        super().__init__(f"{first}-{second}")
        self.first = first


class Keyword(Exception):
    def __init__(self, message=None, **kwargs):
        self.kwargs = kwargs
        super().__init__(message or "keyword")


@default.entrypoint
def echo(value):
    return value


@default.entrypoint
def shown(value):
    """Return what the daemon sees."""
    return repr(value)


@default.entrypoint
def evaluate(expression):
    """Return what the expression is, in the daemon."""
    return eval(expression)


@default.entrypoint
def fail(expression):
    """Raise what the expression is, in the daemon."""

    class Local(Exception):
        pass

    raise eval(expression, globals(), {"Local": Local})


@default.entrypoint
def fail_for_a_cause():
    try:
        raise KeyError("cause")
    except KeyError as error:
        raise Plain("effect") from error


@default.entrypoint
def log_records():
    LOG.info("info %s", (1, 2))
    LOG.warning("warning")
    LOG.error("error %r", "é")
    try:
        raise ZeroDivisionError("none")
    except ZeroDivisionError:
        LOG.exception("exception")
    logging.getLogger("another").info("another")


@default.entrypoint
def identity():
    return os.getpid()


@default.entrypoint
def status():
    """Return what the kernel says of the daemon, and of its child."""
    wanted = ("Umask", "Uid", "Gid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    with open("/proc/self/status") as file:
        lines = [line.split() for line in file]
    own = {line[0][:-1]: tuple(line[1:]) for line in lines if line[0][:-1] in wanted}
    child = subprocess.run(
        ["grep", "-E", "Cap|NoNewPrivs|SigIgn", "/proc/self/status"],
        capture_output=True,
        text=True,
        check=True,
    )
    return own, child.stdout.split(), os.getcwd()


@default.entrypoint
def remember(key, value):
    STATE[key] = value


@default.entrypoint
def recall(key):
    return STATE[key]


@default.entrypoint
def nested(value):
    return echo([value])


_released = threading.Event()


@default.entrypoint
def wait():
    """Return when `release` is called."""
    return _released.wait(60)


@default.entrypoint_with_timeout(0.3)
def wait_briefly():
    return _released.wait(60)


@default.entrypoint
def release():
    _released.set()


_timed = threading.Event()


@default.entrypoint
def start_timer():
    threading.Timer(0.01, _timed.set).start()


@default.entrypoint
def wait_for_timer():
    return _timed.wait(60)


_barrier = threading.Barrier(2)


@default.entrypoint
def meet():
    """Return when another call has come, too."""
    return _barrier.wait(60)


@tenacity.retry(
    stop=tenacity.stop_after_attempt(3),
    retry=tenacity.retry_if_exception_type(Plain),
    reraise=True,
)
@default.entrypoint
def retried(key):
    """Fail twice, in the daemon."""
    STATE[key] = STATE.get(key, 0) + 1
    if STATE[key] < 3:
        raise Plain(STATE[key])
    return STATE[key]


@default.entrypoint
def fork_and_wait(status):
    child = os.fork()
    if child == 0:
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@default.entrypoint
def leave_child():
    """Start a process that outlives the call, as dnsmasq does; return its number."""
    null = subprocess.DEVNULL
    command = ["sleep", "1000"]
    return subprocess.Popen(command, stdin=null, stdout=null, stderr=null).pid


@default.entrypoint
def end(status):
    """End the daemon."""
    os._exit(status)


@default.entrypoint
def option(section, name):
    """Return what oslo.config, loaded by this module's service, says."""
    from oslo_config import cfg

    return cfg.CONF[section][name]


half = functools.partial(echo, "half")


@other.entrypoint
def identity_of_other():
    return os.getpid()


@default.entrypoint
def identity_of_another_context():
    """Call an entrypoint of another context, from this one's daemon."""
    helper = f"{sys.prefix}/bin/privsep-helper"
    other.conf  # noqa: B018 - registers the options
    from oslo_config import cfg

    cfg.CONF.set_override("helper_command", helper, group=other.cfg_section)
    return identity_of_other() != os.getpid()
