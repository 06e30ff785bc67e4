"""Which process a kill is for, held by a pidfd while it is judged and signalled.

Runs in the privileged process.  A pid can be another process's by the time it is
signalled; a pidfd cannot.  Programs are compared as files, by device and inode: with
a merged /usr, /bin/sleep is /usr/bin/sleep.

Sources: pidfd_open(2), proc_pid_exe(5).
"""

from __future__ import annotations

import os

from privsep.rootwrap.errors import Differs

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from privsep.rootwrap.executables import Executable

_DELETED = " (deleted)"
_MOST_DIGITS = 10


class Target:
    """A process, and the signal that it is to get."""

    __slots__ = ("number", "pid", "pidfd")

    def __init__(self, pid: int, pidfd: int, number: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.number = number


def hold(word: str) -> tuple[int, int]:
    """Return the pid that `word` is, and a pidfd of it, which is the caller's.

    Raises:
        Differs: it is no pid, or no process has it.

    """
    digits = word.isascii() and word.isdigit() and len(word) <= _MOST_DIGITS
    if not digits or word[0] == "0":
        raise Differs(f"{word!r} is no process id")
    try:
        return int(word), os.pidfd_open(int(word))
    except (OSError, OverflowError) as error:
        raise Differs(f"there is no process {word}: {error}") from None


def check(pid: int, program: Executable) -> None:
    """Accept a process that is held if it runs `program`.

    As long as it lives nobody else has its pid, and once it has ended the pidfd
    signals nobody.  One whose program was replaced meanwhile, by an upgrade, still runs
    it: then the name is compared.

    Raises:
        Differs: it runs another, or has ended.

    """
    link = f"/proc/{pid}/exe"
    try:
        status, name = os.stat(link), os.readlink(link)
    except OSError as error:
        raise Differs(f"process {pid} cannot be looked at: {error}") from None
    if os.path.samestat(status, program.status):
        return
    if status.st_nlink == 0 and name == program.resolved + _DELETED:
        return
    # Not what it runs: the caller may not be able to see that.
    raise Differs(f"process {pid} does not run {program.resolved}")


def signal_number(word: str) -> int:
    """Return the signal that ``-9``, ``-KILL`` or ``-SIGKILL`` stands for.

    Raises:
        Differs: none.

    """
    import signal  # noqa: PLC0415 - only for a kill

    name = word[1:]
    if name.isascii() and name.isdigit() and int(name) < signal.NSIG:
        return int(name)
    number = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None)
    if not isinstance(number, signal.Signals):
        raise Differs(f"{word!r} is no signal")
    return number
