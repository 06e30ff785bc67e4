"""The command line of privsep-rootwrap.

Runs in the privileged process.  What it inherits is the caller's: its descriptors,
its umask, its signals.  It judges, and becomes the command.
"""

from __future__ import annotations

import os

from privsep.rootwrap import callers, config, log
from privsep.rootwrap.errors import BadPolicy
from privsep.rootwrap.judge import BAD_POLICY, NO_COMMAND, judge
from privsep.rootwrap.run import run

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import Sequence

    from privsep.rootwrap.policy import Policy

_NAME = "privsep-rootwrap"
_USAGE = (
    f"{_NAME} CONFIG COMMAND..., or --check CONFIG COMMAND..., --list CONFIG, "
    "--convert FILE"
)
_OTHERS_WRITE = 0o022


def main(arguments: Sequence[str]) -> int:
    """Run a command that a policy allows.

    Args:
        arguments: the policy's path and the command, or another thing to do.

    Returns:
        What to end with where nothing runs: 0 the usage was asked for, 96 no
        executable, 97 a bad policy, 98 no command, 99 not allowed.

    """
    _take_over()
    if arguments and arguments[0] in ("-h", "--help"):
        os.write(1, f"usage: {_USAGE}\n".encode())
        return 0
    if len(arguments) < 2:  # noqa: PLR2004
        log.say(f"no command is given: {_USAGE}")
        return NO_COMMAND
    if arguments[0].startswith("--"):
        return _explain(*arguments)
    try:
        policy = config.load(arguments[0])
    except BadPolicy as error:
        log.say(str(error))
        return BAD_POLICY
    return _run(arguments[1:], policy)


def _run(words: Sequence[str], policy: Policy) -> int:
    for warning in policy.warnings:
        log.say(warning)
    try:
        verdict = judge(words, policy)
    except BadPolicy as error:
        log.record_failure(policy, error)
        return BAD_POLICY
    log.record_verdict(policy, verdict)
    if verdict.allowed:
        callers.tell(verdict, callers.own())
        try:
            run(verdict, policy.descriptors)
        except OSError as error:
            verdict.fail(error)
            log.record_verdict(policy, verdict)
    return verdict.status


def _explain(what: str, path: str, *words: str) -> int:
    """Do what is for people, and needs no privileges."""
    from privsep.rootwrap import convert, explain  # noqa: PLC0415 - not for services

    if what == "--check":
        return explain.check(path, words)
    if what == "--list" and not words:
        return explain.show(path)
    if what == "--convert" and not words:
        return convert.convert(path)
    log.say(f"{what} is not understood: {_USAGE}")
    return NO_COMMAND


def _take_over() -> None:
    """Set right what the caller could have set to do harm."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # or the next file opened were the command's output
            os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)  # noqa: FBT003
    os.closerange(3, 1 << 20)
    os.umask(os.umask(_OTHERS_WRITE) | _OTHERS_WRITE)
