"""What a policy says, for people: --check and --list.

Needs no privileges and runs no command.
"""

from __future__ import annotations

import pwd

from privsep._lockdown.capability_names import describe
from privsep.rootwrap import config
from privsep.rootwrap.errors import BadPolicy
from privsep.rootwrap.judge import BAD_POLICY, judge
from privsep.rootwrap.patterns import BadPattern, Pattern

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from privsep.rootwrap.filters import Filter, Options
    from privsep.rootwrap.judge import Verdict
    from privsep.rootwrap.policy import Policy


def check(path: str, words: Sequence[str]) -> int:
    """Print the verdict on a command; return what the program would end with.

    A command that would run gives 0, whatever its own status would be.
    """
    try:
        policy = config.load(path)
        with judge(words, policy) as verdict:
            _print([*policy.warnings, *_verdict(verdict)])
            return verdict.status
    except BadPolicy as error:
        _print([f"bad policy: {error}"])
        return BAD_POLICY


def show(path: str) -> int:
    """Print a policy as it was read, and what is wrong with it."""
    try:
        policy = config.load(path)
    except BadPolicy as error:
        _print([f"bad policy: {error}"])
        return BAD_POLICY
    _print(_policy(policy))
    wrong = [text for each in policy.filters for text in _wrong(each)]
    _print(wrong)
    return BAD_POLICY if wrong else 0


def _wrong(each: Filter) -> Iterator[str]:
    """Yield what is found in a filter only when it is tried."""
    try:
        pwd.getpwnam(each.run_as)
    except KeyError:
        yield f"bad policy: {each.place}: there is no user {each.run_as!r}"
    for word in each.words_allowed():
        try:
            if isinstance(word, Pattern):
                word.compiled()
        except BadPattern as error:
            yield f"bad policy: {each.place}: {error}"


def _verdict(verdict: Verdict) -> Iterator[str]:
    yield verdict.message
    if not verdict.allowed:
        yield f"  status       {verdict.status}"
    if verdict.filter is not None:
        yield f"  filter       {_filter(verdict.filter)}"
    if verdict.executable is not None:
        how = "by descriptor" if verdict.executable.is_binary else "by path"
        yield f"  executable   {verdict.executable.resolved}, {how}"
    if verdict.target is not None:
        target = verdict.target
        yield f"  signal       {target.number}, to process {target.pid}"
    if verdict.user is not None:
        user = verdict.user
        groups = ", ".join(map(str, user.groups))
        yield f"  argv         {list(verdict.argv)}"
        for name, value in verdict.environment.items():
            yield f"  environment  {name}={value!r}"
        yield f"  user         {user.name}: uid {user.uid}, gid {user.gid}, {groups}"
        yield from _options(verdict.options)
    for each, why in verdict.reasons:
        yield f"  not by       {each.name} ({each.place}): {why}"


def _policy(policy: Policy) -> Iterator[str]:
    yield f"executables are looked for in {', '.join(policy.directories)}"
    yield f"at most {policy.descriptors} open files (soft limit)"
    yield f"verdicts are {'' if policy.syslog else 'not '}recorded by syslog"
    yield from _options(policy.options)
    yield f"{len(policy.filters)} filters, in the order in which they are tried:"
    for each in policy.filters:
        yield _filter(each)
        yield from _options(each.options)
    yield from policy.warnings


def _filter(each: Filter) -> str:
    return (
        f"{each.name} ({each.place}): {each.kind} {each.command} as {each.run_as}: "
        f"{each.describe()}"
    )


def _options(options: Options) -> Iterator[str]:
    if options.no_new_privs:
        yield "  gives up     new privileges (no_new_privs)"
    if options.capabilities is not None:
        kept = describe(options.capabilities)
        yield f"  gives up     all capabilities, but: {kept}"
    if options.timeout is not None:
        yield f"  ends after   {options.timeout:g} s, by SIGALRM"


def _print(lines: Sequence[str] | Iterator[str]) -> None:
    for line in lines:
        print(line.encode("utf-8", "backslashreplace").decode())  # noqa: T201
