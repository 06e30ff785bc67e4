"""The surroundings that a daemon starts with: nothing of its starter's.

Runs in the privileged process, first of all.
"""

from __future__ import annotations

import io
import os
import resource
import sys

from privsep._lockdown import status

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterable
else:
    import _signal as signal  # without enum and selectors: 4 ms

# As bytes, which is what a process has: a forked one pays for each text it makes.
_KEPT = frozenset({b"LANG", b"LANGUAGE", b"TZ"})
_KEPT_PREFIX = b"LC_"
_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT)
#: What a terminal stops with: by Ctrl-Z the caller would stop what he may not signal.
STOPS = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_OF_THREADS = (32, 33)  # the C library's own: setuid() in all threads
_TIOCNOTTY = 0x5422
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def kept(names: Iterable[str]) -> dict[str, str]:
    """Return the variables that a daemon keeps: the locale, the time zone, `names`."""
    wanted = _KEPT.union(map(os.fsencode, names))
    return {
        os.fsdecode(name): os.fsdecode(value)
        for name, value in os.environb.items()
        if name in wanted or name.startswith(_KEPT_PREFIX)
    }


def clean(control: int, *, forked: bool, limits: bool) -> dict[bytes, bytes]:
    """Leave the starter's session, directory, variables, signals, descriptors.

    Args:
        control: the descriptor that stays open, beside stderr.
        forked: this process has the descriptors of its parent, and objects for
            them; a fresh interpreter has closed its own by now.
        limits: neither this process nor what it runs may dump core.

    Returns:
        What was removed from the environment, for variables to keep by name.

    """
    ignored = _IGNORED if _leave_session() else (*_IGNORED, *STOPS)
    os.chdir("/")
    os.umask(0o022)
    inherited = _clean_variables()
    _reset_signals(ignored)
    if limits:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if forked:
        replace_descriptors({control})
    os.closerange(0, 1)
    null = os.open("/dev/null", os.O_RDWR)  # the lowest number that is free: 0
    os.set_inheritable(null, True)  # noqa: FBT003 - there is no keyword
    os.set_blocking(2, True)  # a starter with gevent or eventlet made it otherwise
    os.dup2(2, 1)
    _open_standard_streams()
    return inherited


def replace_descriptors(kept: set[int]) -> None:
    """Put /dev/null in place of every descriptor above 2 but `kept`.

    They are replaced and not closed: objects that a fork inherited still name
    them, and would close whatever got the same number later.  A fresh interpreter
    needs none of this: it closes them before it imports anything
    (`privsep._start.exec`).
    """
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2 and descriptor != null and descriptor not in kept:  # noqa: PLR2004
            try:
                os.get_inheritable(descriptor)
            except OSError:  # the listing's own
                continue
            try:
                os.dup2(null, descriptor, inheritable=False)
            except OSError:  # beyond the soft limit, where dup2(2) makes none
                os.close(descriptor)
    os.close(null)


def _leave_session() -> bool:
    """Leave the starter's session, at least its terminal; return whether it is left.

    sudo (use_pty) makes the command the leader of a process group, which may not
    begin a session; the one it is in is sudo's own.  A shell may make one of sudo,
    which executes the command in its own place: then the terminal is the caller's, and
    signals this group still.
    """
    if os.getpid() == os.getsid(0):
        return True
    try:
        os.setsid()
    except PermissionError:
        _leave_terminal()
        return False
    return True


def _leave_terminal() -> None:
    from fcntl import ioctl  # noqa: PLC0415 - hardly ever needed

    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # there is none
        return
    ioctl(terminal, _TIOCNOTTY)
    os.close(terminal)


def _clean_variables() -> dict[bytes, bytes]:
    """Remove and return what the starter set, but the language and the time zone."""
    removed = {}
    for name in list(os.environb):
        if name not in _KEPT and not name.startswith(_KEPT_PREFIX):
            removed[name] = os.environb.pop(name)
    os.environ["PATH"] = _PATH
    return removed


def _reset_signals(to_ignore: tuple[int, ...]) -> None:
    """Default handling, nothing blocked; what Python ignores stays ignored.

    That is SIGPIPE, and SIGXFSZ: writing beyond a limit shall fail and not kill.
    SIGINT is ignored: a Ctrl-C is meant for the service.
    """
    signal.set_wakeup_fd(-1)
    text = status.own()
    ignored, caught, blocked = (
        int(status.field(text, name), 16) for name in (b"SigIgn", b"SigCgt", b"SigBlk")
    )
    for number in range(1, signal.NSIG):
        changed = ignored | caught
        if number in to_ignore:
            changed = ~ignored
        if changed >> (number - 1) & 1 and number not in _OF_THREADS:
            ignore = number in to_ignore
            signal.signal(number, signal.SIG_IGN if ignore else signal.SIG_DFL)
    if blocked:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _open_standard_streams() -> None:
    """Bind sys.stdin, stdout and stderr to descriptors 0, 1 and 2 anew.

    A fork inherits whatever the service has put there.
    """
    for name, descriptor, mode in (
        ("stdin", 0, "r"),
        ("stdout", 1, "w"),
        ("stderr", 2, "w"),
    ):
        stream = io.open(  # noqa: SIM115, UP020 - it stays open
            descriptor, mode, buffering=1, errors="backslashreplace", closefd=False
        )
        setattr(sys, name, stream)
