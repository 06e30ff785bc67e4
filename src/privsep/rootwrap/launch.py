"""Carrying out a verdict in a child, which the caller waits for.

Runs in a worker of the daemon.  posix_spawn(3) takes a third of the time of a fork,
for which the kernel copies the page tables of the whole interpreter; but it changes
neither ids nor privileges.  What needs that is forked, and ends in `run`.
"""

from __future__ import annotations

import os

# As in run.
from _signal import (  # type: ignore[import-not-found]  # it has no stubs
    SIG_DFL,
    SIGINT,
    SIGPIPE,
    SIGXFSZ,
    signal,
    valid_signals,
)

from privsep.rootwrap import log
from privsep.rootwrap.run import is_self, run

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import Sequence

    from privsep.rootwrap.executables import Executable
    from privsep.rootwrap.judge import Verdict
    from privsep.rootwrap.policy import Policy

#: Ignored by the daemon, and by Python; what is ignored stays so over an exec.
_IGNORED = (SIGINT, SIGPIPE, SIGXFSZ)
#: Naming each saves posix_spawn(3) of glibc 2.36 the question how it is handled.
_ALL = valid_signals()


def launch(verdict: Verdict, streams: Sequence[int], policy: Policy) -> int | None:
    """Do what an allowed verdict says, in a child that leads a process group.

    Args:
        verdict: allowed, and not closed; afterwards it says why, if it failed.
        streams: the child's standard input, output and error; each is 3 or above,
            or the very one that it is to be.
        policy: of the verdict.

    Returns:
        The child's pid; None if there is none.

    """
    program = verdict.executable
    try:
        if program is not None and _runs_as_we_do(verdict):
            return _spawn(program, verdict, streams)
        return _fork(verdict, streams, policy)
    except OSError as error:
        verdict.fail(error)
        log.record_verdict(policy, verdict)
        return None


def _runs_as_we_do(verdict: Verdict) -> bool:
    """Return whether the command is to have the ids and privileges of this process."""
    options = verdict.options
    return (
        verdict.user is not None
        and is_self(verdict.user)
        and not options.no_new_privs
        and options.capabilities is None
        and options.timeout is None
    )


def _spawn(program: Executable, verdict: Verdict, streams: Sequence[int]) -> int:
    file = f"/proc/self/fd/{program.descriptor}"
    # What is duplicated onto itself stays open in the child.
    kept = [*zip(streams, range(3), strict=True), *((x, x) for x in verdict.held)]
    return os.posix_spawn(
        file if program.is_binary else program.resolved,
        verdict.argv,
        verdict.environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, *pair) for pair in kept],
        setpgroup=0,
        setsigdef=_ALL,
    )


def _fork(verdict: Verdict, streams: Sequence[int], policy: Policy) -> int:
    pid = os.fork()
    if pid == 0:
        _become_command(verdict, streams, policy)
    try:
        os.setpgid(pid, pid)  # so that it is one by now
    except OSError:  # the child was first, and may even have ended
        pass
    return pid


def _become_command(verdict: Verdict, streams: Sequence[int], policy: Policy) -> None:
    """Be the child; never return into the worker's code."""
    status = 1
    try:
        os.setpgid(0, 0)
        workers_stderr = os.dup(2)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        for number in _IGNORED:
            signal(number, SIG_DFL)
        try:
            run(verdict, policy.descriptors)
        except OSError as error:
            os.dup2(workers_stderr, 2)
            verdict.fail(error)
            log.record_verdict(policy, verdict)
            status = verdict.status
    finally:
        os._exit(status)
