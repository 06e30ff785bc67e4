"""The only place that decides what runs.

Runs in the privileged process, and without privileges to try a policy.  A verdict is
all that will happen, held by descriptors, so that whoever carries it out decides
nothing more.
"""

from __future__ import annotations

import os
import pwd
from time import monotonic

from privsep._start.trust import Untrusted
from privsep.rootwrap import executables
from privsep.rootwrap.errors import BadPolicy, Differs, Missing
from privsep.rootwrap.filters import Options
from privsep.rootwrap.patterns import BadPattern

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from privsep.rootwrap.executables import Executable
    from privsep.rootwrap.filters import Filter, Match
    from privsep.rootwrap.policy import Policy
    from privsep.rootwrap.process import Target

ALLOWED = 0
NOT_ALLOWED = 99
NO_COMMAND = 98
BAD_POLICY = 97
NO_EXECUTABLE = 96
NOT_SENT = 1  # a signal: as kill(1) has it

_Reason = tuple["Filter", str]
_KILL = "kill"
_MOST_REASONS = 3
_MOST_SHOWN = 300
_USER_HOLDS = 1.0  # seconds: groups may come from a server


class User:
    """As whom a command runs: credentials(7)."""

    __slots__ = ("gid", "groups", "home", "name", "uid")

    def __init__(self, entry: pwd.struct_passwd) -> None:
        self.name = entry.pw_name
        self.uid = entry.pw_uid
        self.gid = entry.pw_gid
        self.home = entry.pw_dir
        self.groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))


#: by name, and until when on the monotonic clock
_users: dict[str, tuple[User, float]] = {}


class Verdict:
    """Whether a command is allowed, and all that happens then.

    Close it, or use it in a ``with``: it holds descriptors.

    Attributes:
        words: the command that was judged.
        status: ALLOWED, or what the program ends with: NOT_ALLOWED, NO_EXECUTABLE,
            NO_COMMAND, NOT_SENT.
        filter: the one that decided, or None.
        reasons: each filter that came close, and why it does not allow the command.
        message: the whole in one line.
        executable: what runs; None for a signal.
        argv: its words, the first included.
        environment: all of its variables.
        user: as whom it runs.
        options: what it gives up.
        target: the process to signal, instead of a program to run.
        held: descriptors that `argv` refers to; they stay open in the command.

    """

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words
        self.status = NOT_ALLOWED
        self.filter: Filter | None = None
        self.reasons: tuple[_Reason, ...] = ()
        self.message = ""
        self.executable: Executable | None = None
        self.argv: tuple[str, ...] = ()
        self.environment: dict[str, str] = {}
        self.user: User | None = None
        self.options = Options()
        self.target: Target | None = None
        self.held: list[int] = []

    @property
    def allowed(self) -> bool:
        """Whether it may run."""
        return self.status == ALLOWED

    def fail(self, error: OSError) -> None:
        """Say that it was not carried out: the system did not allow it."""
        self.status = NO_EXECUTABLE if self.target is None else NOT_SENT
        self.message = f"{shown(self.words)} cannot be run: {error}"

    def close(self) -> None:
        """Let go of what it holds; it can be carried out no more."""
        if self.executable is not None:
            self.executable.close()
            self.executable = None
        while self.held:
            os.close(self.held.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def judge(argv: Sequence[str], policy: Policy) -> Verdict:
    """Say whether the policy allows a command, and what runs then.

    The first filter counts that allows it and whose executable is there.

    Args:
        argv: the command, as its caller wrote it.
        policy: see `config.load`.

    Raises:
        BadPolicy: a filter that was tried cannot be used: its user is not known, or
            its pattern is none.

    """
    words = tuple(argv)
    verdict = Verdict(words)
    try:
        _decide(verdict, policy)
    finally:
        if not verdict.allowed:
            verdict.close()
    return verdict


def _decide(verdict: Verdict, policy: Policy) -> None:
    words = verdict.words
    if not words:
        verdict.status, verdict.message = NO_COMMAND, "no command is given"
        return
    if not words[0] or any("\0" in word for word in words):
        verdict.message = f"{shown(words)} is no command: it is empty or has a NUL"
        return
    reasons: list[_Reason] = []
    missing: tuple[Filter, Missing] | None = None
    for each in policy.candidates(words):
        try:
            _allow(each, verdict, policy)
        except Differs as why:
            reasons.append((each, _bounded(str(why))))
        except Missing as why:
            missing = missing or (each, why)
            reasons.append((each, str(why)))
        except Untrusted as why:
            reasons.append((each, str(why)))
            missing = None
            break
        else:
            break
        verdict.close()
    verdict.reasons = tuple(reasons)
    if verdict.allowed:
        return
    if missing is None:
        verdict.message = _refusal(words, reasons)
        return
    verdict.status, verdict.filter = NO_EXECUTABLE, missing[0]
    verdict.message = f"{shown(words)}: {missing[1]} ({_called(missing[0])} allows it)"


def _allow(decider: Filter, verdict: Verdict, policy: Policy) -> None:
    """Fill in the verdict of a filter that allows the command.

    Raises:
        Differs, Missing, Untrusted: it does not, and why.
        BadPolicy: it cannot be used.

    """
    match = _match(decider, verdict.words, policy, verdict.held)
    options, environment = policy.options | decider.options, match.environment
    target, last = match.target, match.arguments
    if match.inner is not None:
        inner, found, path = _match_inner(decider, match.inner, policy, verdict.held)
        options |= inner.options
        environment |= found.environment
        target = found.target
        last = (path, *found.arguments)
        if target is None:
            last = (*match.arguments, *last)
    elif target is not None:
        last = (_KILL, *last)
    if target is None:
        verdict.executable = _executable(decider, match, policy)
        last = (verdict.executable.path, *last)
    user = _user(decider)
    verdict.status, verdict.filter = ALLOWED, decider
    verdict.argv, verdict.target, verdict.options = last, target, options
    verdict.user = user
    verdict.environment = {
        "PATH": ":".join(policy.directories),
        "HOME": user.home,
        "LOGNAME": user.name,
        "USER": user.name,
        **environment,
    }
    verdict.message = f"{shown(verdict.words)} is allowed by {_called(decider)}"


def _match(
    decider: Filter, words: tuple[str, ...], policy: Policy, held: list[int]
) -> Match:
    """Return what a filter makes of a command."""
    try:
        return decider.match(words, policy.directories, held)
    except BadPattern as error:
        raise BadPolicy(decider.place, str(error)) from None


def _executable(decider: Filter, match: Match, policy: Policy) -> Executable:
    """Return what runs, if it is what the command was called."""
    try:
        executable = executables.find(decider.command, policy.directories)
    except Missing as why:
        if match.spelled is not None:
            raise Differs(f"{match.spelled!r}: {why}") from None
        raise
    if match.spelled is not None and not executable.is_at(match.spelled):
        executable.close()
        raise Differs(f"{match.spelled!r} is another file than {executable.path}")
    return executable


def _match_inner(
    outer: Filter, words: tuple[str, ...], policy: Policy, held: list[int]
) -> tuple[Filter, Match, str]:
    """Return the filter that allows a command within another, and what runs.

    It runs as the outer one does, by its path: so it must be for that user, and a
    filter that allows yet another command is none for here.
    """
    reasons: list[_Reason] = []
    missing: Missing | None = None
    for each in policy.candidates(words):
        before = len(held)
        try:
            match = _match_within(outer, each, words, policy, held)
            if match.target is not None:
                return each, match, _KILL
            executable = _executable(each, match, policy)
        except Differs as why:
            reasons.append((each, _bounded(str(why))))
        except Missing as why:
            missing = missing or why
        else:
            executable.close()
            return each, match, executable.path
        while len(held) > before:
            os.close(held.pop())
    raise missing or Differs(_refusal(words, reasons))


def _match_within(
    outer: Filter,
    decider: Filter,
    words: tuple[str, ...],
    policy: Policy,
    held: list[int],
) -> Match:
    """Return what a filter makes of a command within another."""
    if decider.chains:
        raise Differs("it would chain a third command")
    if decider.run_as != outer.run_as:
        raise Differs(f"it is for {decider.run_as}, not for {outer.run_as}")
    match = _match(decider, words, policy, held)
    if match.target is not None and not outer.passes_signals:
        raise Differs(f"a signal is not sent by way of {outer.command}")
    return match


def _user(decider: Filter) -> User:
    """Return as whom a filter's commands run; the system is asked once a second."""
    name, now = decider.run_as, monotonic()
    user, until = _users.get(name, (None, 0.0))
    if user is None or until <= now:
        try:
            user = User(pwd.getpwnam(name))
        except KeyError:
            msg = f"there is no user {name!r} on this system"
            raise BadPolicy(decider.place, msg) from None
        _users[name] = user, now + _USER_HOLDS
    return user


def _refusal(words: tuple[str, ...], reasons: list[_Reason]) -> str:
    if not reasons:
        return f"{shown(words)} is not allowed: no filter is for {shown(words[:1])}"
    texts = [f"{_called(each)}: {why}" for each, why in reasons[:_MOST_REASONS]]
    more = len(reasons) - len(texts)
    texts += [f"and {more} more"] if more else []
    return f"{shown(words)} is not allowed: {'; '.join(texts)}"


def _called(decider: Filter) -> str:
    return f"{decider.name} ({decider.place})"


def shown(words: tuple[str, ...]) -> str:
    """Return a command as one printable text of bounded length."""
    return repr(_bounded(" ".join(words[:_MOST_SHOWN])))


def _bounded(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
