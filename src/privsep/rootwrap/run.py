"""Carrying out a verdict: become the user, then the program.

Runs in the privileged process, which ends with it: there is nobody left to come back
to.  Sources: execve(2), credentials(7), setrlimit(2), capabilities(7).
"""

from __future__ import annotations

import os

# signal itself makes enums of all its numbers, for 3 ms.
from _signal import (  # type: ignore[import-not-found]  # it has no stubs
    ITIMER_REAL,
    SIG_DFL,
    SIG_UNBLOCK,
    SIGALRM,
    SIGPIPE,
    SIGXFSZ,
    pidfd_send_signal,
    pthread_sigmask,
    setitimer,
    signal,
)

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from typing import NoReturn

    from privsep.rootwrap.filters import Options
    from privsep.rootwrap.judge import User, Verdict
    from privsep.rootwrap.process import Target


def run(verdict: Verdict, descriptors: int) -> NoReturn:
    """Do what an allowed verdict says, in place of this process.

    Args:
        verdict: allowed, and not closed.
        descriptors: the soft limit of open files that the command has at most.

    Raises:
        OSError: it cannot become the user or give up what it should, or the program
            cannot be executed.  The process may be half way and must end.

    """
    user = verdict.user
    if user is None:
        raise ValueError("the verdict does not allow the command")
    limit_descriptors(descriptors)
    try:
        _give_up(verdict.options, user)
    except PermissionError as error:
        uid = os.geteuid()
        if uid in (0, user.uid):
            raise
        msg = f"the filter wants {user.name}, this process is uid {uid}"
        raise PermissionError(msg) from error
    if verdict.target is not None:
        _signal(verdict.target)
    _start_clock(verdict.options.timeout)
    for number in (SIGPIPE, SIGXFSZ):
        signal(number, SIG_DFL)  # Python ignores them, and exec keeps that
    for descriptor in verdict.held:
        os.set_inheritable(descriptor, True)  # noqa: FBT003
    program = verdict.executable
    if program is None:
        raise ValueError("the verdict is closed")
    file = program.descriptor if program.is_binary else program.resolved
    os.execve(file, verdict.argv, verdict.environment)  # noqa: S606 - its purpose


def is_self(user: User) -> bool:
    """Return whether this process is `user` as far as `become` makes it so."""
    if user.uid:
        return os.getresuid() == (user.uid,) * 3
    return (
        os.getresuid() == (user.uid,) * 3
        and os.getresgid() == (user.gid,) * 3
        and {*user.groups} == {*os.getgroups()}
    )


def become(user: User) -> None:
    """Take the groups, the gid and the uid of `user`, each id of each kind.

    What it is already is not set again: that may need a privilege.  Who is `user` and
    not root stays as he is.

    Raises:
        OSError: as setgroups(2), setresgid(2), setresuid(2).

    """
    if is_self(user):
        return
    if {*user.groups} != {*os.getgroups()}:
        os.setgroups(user.groups)
    if os.getresgid() != (user.gid,) * 3:
        os.setresgid(user.gid, user.gid, user.gid)
    if os.getresuid() != (user.uid,) * 3:
        os.setresuid(user.uid, user.uid, user.uid)


def limit_descriptors(most: int) -> None:
    """Lower the soft limit of open files to `most`, if it is higher."""
    soft = os.sysconf("SC_OPEN_MAX")
    if soft > most or soft < 0:  # or there is none
        import resource  # noqa: PLC0415 - few callers have more

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _give_up(options: Options, user: User) -> None:
    """Become the user, with no capabilities but those of the options."""
    if options.capabilities is None and not options.no_new_privs:
        become(user)
        return
    # Before the user is another, who may not be able to read them.
    from privsep._lockdown import attributes, capabilities  # noqa: PLC0415 - few ask for it

    if options.capabilities is None:
        become(user)
    else:
        capabilities.drop_bounding_except(options.capabilities)
        capabilities.keep_over_setuid(keep=True)
        become(user)
        capabilities.set_all(options.capabilities, options.capabilities)
        capabilities.clear_ambient()
        if user.uid:
            capabilities.raise_ambient(options.capabilities)
    if options.no_new_privs:
        attributes.forbid_new_privileges()


def _start_clock(timeout: float | None) -> None:
    """Have SIGALRM end the command: a timer outlives an exec, the caller's, too."""
    if timeout is not None:  # the timer last: a caller's SIG_IGN would swallow it
        signal(SIGALRM, SIG_DFL)
        pthread_sigmask(SIG_UNBLOCK, [SIGALRM])
    setitimer(ITIMER_REAL, timeout or 0)


def _signal(target: Target) -> NoReturn:
    pidfd_send_signal(target.pidfd, target.number)
    os._exit(0)
