"""The main function of privsep-rootwrap-daemon.

Runs in the privileged process.  It takes the policy's path, and the control socket as
its standard input; `client` starts it.  The policy is read once, as in one-shot mode:
every file by the rules of `trust`, and a daemon without a policy does not start.
"""

from __future__ import annotations

import os
import pwd
import sys

from privsep._daemon import main as daemon
from privsep._start import helper, judge
from privsep._wire.descriptors import peer_credentials, peer_groups
from privsep.context import MAX_WORKERS, Context
from privsep.errors import PrivsepError
from privsep.rootwrap import config, log
from privsep.rootwrap.errors import BadPolicy
from privsep.rootwrap.judge import BAD_POLICY, User
from privsep.rootwrap.patterns import BadPattern, Pattern
from privsep.rootwrap.run import become, limit_descriptors
from privsep.rootwrap.service import MAX_MESSAGE, Caller, Service

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from typing import NoReturn

    from privsep._daemon.serve import Channel
    from privsep.context import Entry
    from privsep.rootwrap.policy import Policy

_OTHERS_WRITE = 0o022
_DEADLINE = 60.0  # seconds of a start: as long as its client waits
#: What judging and running load when they need it: here before the first fork.
_MODULES = (
    "privsep._lockdown.attributes",
    "privsep._lockdown.capabilities",
    "privsep.rootwrap.beneath",
    "privsep.rootwrap.ip",
    "privsep.rootwrap.process",
)


def main() -> NoReturn:
    """Be the daemon of the policy that the only argument names."""
    if len(sys.argv) != 2:  # noqa: PLR2004
        log.say("usage: privsep-rootwrap-daemon CONFIG (privsep.rootwrap.Client)")
        sys.exit(BAD_POLICY)
    judge.set_deadline(_DEADLINE)
    try:
        policy = config.load(sys.argv[1])
    except BadPolicy as error:
        log.say(str(error))
        sys.exit(BAD_POLICY)
    for warning in policy.warnings:
        log.say(warning)
    umask = os.umask(_OTHERS_WRITE)

    def load() -> Context:
        """Have commands get what they get in one-shot mode, where engines differ."""
        os.umask(umask | _OTHERS_WRITE)
        if os.geteuid() == 0:
            become(User(pwd.getpwuid(0)))  # so that its commands need not
        limit_descriptors(policy.descriptors)
        return _context(policy, caller)

    control = helper.control_socket()
    try:
        judge.Caller(control)
    except PrivsepError as error:
        log.say(str(error))
        sys.exit(BAD_POLICY)
    caller = Caller(peer_credentials(control), peer_groups(control))
    daemon.run(
        control,
        load,
        shared=True,
        drop=False,
        # None would be a daemon that ends before its first call.
        idle_timeout=max(policy.daemon_timeout, 1),
    )


class _Served(Context):
    """A context whose functions hear what their client says while they run."""

    def served_table(self) -> dict[bytes, Entry]:
        """Return the table; see `Context.served_table`."""
        return {
            name: entry._replace(run=_run_with_frames)
            for name, entry in super().served_table().items()
        }


def _run_with_frames(
    entry: Entry, args: list[object], kwargs: dict[str, object], channel: Channel
) -> object:
    return entry.function(channel.frames, *args, **kwargs)


def _context(policy: Policy, caller: Caller) -> Context:
    _compile(policy)
    context = _Served(
        "rootwrap",
        capabilities=[],
        prefix="privsep.rootwrap",
        modules=_MODULES,
        timeout=None,
        workers=MAX_WORKERS,
        max_message=MAX_MESSAGE,
        memory=None,
        validate="off",
    )
    context.entrypoint(Service(policy, caller).run)
    return context


def _compile(policy: Policy) -> None:
    """Compile all patterns, which each worker would do by itself otherwise.

    One that is none is an error of the command that it is tried for.
    """
    for each in policy.filters:
        for word in each.words_allowed():
            if isinstance(word, Pattern):
                try:
                    word.compiled()
                except BadPattern:
                    pass
