"""--check and --list: what a policy says, without privileges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from conftest import IS_ROOT
from wrapping import (
    BAD_POLICY,
    ME,
    NO_COMMAND,
    NO_EXECUTABLE,
    NOT_ALLOWED,
    Wrapped,
    running,
)

if TYPE_CHECKING:
    from pathlib import Path

    from public_python import PublicPython


@pytest.fixture
def wrapped(tmp_path: Path) -> Wrapped:
    wrapped = Wrapped(tmp_path / "own")
    wrapped.script("show", "nice")
    wrapped.allow(
        "one: RegExpFilter, show, @me, show, x",
        "two: CommandFilter, show, @me",
        "nice: ChainingRegExpFilter, nice, @me, nice, -n, \\d",
        "gone: CommandFilter, gone, @me",
        "env: EnvFilter, env, @me, A=, show",
        "path: PathFilter, nice, @me, /etc, pass, word",
        "kill: KillFilter, @me, /bin/sleep, -9",
        "ip: IpFilter, ip, @me",
        "odd: OddFilter, x, y",
        *("[Options two]", "no_new_privs = yes", "capabilities =", "timeout = 5"),
    )
    return wrapped


def _check(wrapped: Wrapped, *words: str) -> tuple[int, str]:
    done = wrapped.call("--check", str(wrapped.config), *words)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_check_says_what_would_run_and_runs_nothing(wrapped: Wrapped) -> None:
    status, said = _check(wrapped, "env", "A=1 2", "show", "y")
    assert status == 0
    assert "ran" not in said
    lines = [" ".join(line.split()) for line in said.splitlines()]
    show = f"{wrapped.bin}/show"
    assert lines[1].startswith("'env A=1 2 show y' is allowed by env (")
    assert f"executable {show}, by path" in lines
    assert f"argv ['{show}', 'y']" in lines
    assert "environment A='1 2'" in lines
    assert f"environment PATH='{wrapped.bin}'" in lines
    assert any(line.startswith(f"user {ME}: uid ") for line in lines)


def test_a_check_says_who_did_not_allow_it(wrapped: Wrapped) -> None:
    status, said = _check(wrapped, "show", "y")
    assert status == 0
    assert "not by       one (" in said
    assert "'y' does not match 'x'" in said
    assert "gives up     new privileges" in said
    assert "gives up     all capabilities, but: none" in said
    assert "ends after   5 s, by SIGALRM" in said


@pytest.mark.parametrize(
    ("words", "status"),
    [(["other"], NOT_ALLOWED), (["gone"], NO_EXECUTABLE), ([], NO_COMMAND)],
)
def test_a_check_ends_as_the_command_would_where_it_does_not_run(
    wrapped: Wrapped, words: list[str], status: int
) -> None:
    found, said = _check(wrapped, *words)
    assert found == status
    assert f"  status       {status}\n" in said


def test_a_check_of_a_kill_signals_nothing(wrapped: Wrapped) -> None:
    with running("sleep", "1000") as process:
        status, said = _check(wrapped, "kill", "-9", str(process.pid))
        assert status == 0
        assert f"signal       9, to process {process.pid}" in said
        assert process.poll() is None


def test_a_list_has_every_filter_as_it_was_read(wrapped: Wrapped) -> None:
    done = wrapped.call("--list", str(wrapped.config))
    assert (done.returncode, done.stderr) == (0, "")
    for line in (
        "RegExpFilter show as @me: /x/",
        "CommandFilter show as @me: any more words",
        "ChainingRegExpFilter nice as @me: /-n/, /\\d/, then an allowed command",
        "EnvFilter show as @me: with A=any word, any more words",
        "PathFilter nice as @me: path beneath /etc, any word, 'word'",
        "KillFilter kill as @me: -9, to a process that runs /bin/sleep",
        "IpFilter ip as @me: any command of ip that runs no other",
        "no filter class 'OddFilter'",
        "executables are looked for in @bin",
        "privsep-helper (built in)",
    ):
        assert wrapped.filled(line) in done.stdout
    assert "10 filters" not in done.stdout
    assert "9 filters, in the order" in done.stdout


def test_a_list_finds_what_a_command_would_find_only_when_tried(
    wrapped: Wrapped,
) -> None:
    wrapped.allow(
        "bad: RegExpFilter, show, @me, show, [", "who: CommandFilter, show, nonesuch"
    )
    done = wrapped.call("--list", str(wrapped.config))
    assert done.returncode == BAD_POLICY
    assert "test.filters:2: '[' is no regular expression" in done.stdout
    assert "test.filters:3: there is no user 'nonesuch'" in done.stdout


@pytest.mark.parametrize("option", ["--check", "--list"])
def test_a_bad_policy_is_said_to_be_bad(wrapped: Wrapped, option: str) -> None:
    wrapped.allow("bad: CommandFilter")
    done = wrapped.call(option, str(wrapped.config))
    assert done.returncode == BAD_POLICY
    assert "test.filters:2: bad: CommandFilter has 0 fields" in done.stdout


def test_a_check_of_a_pattern_that_is_none_says_so(wrapped: Wrapped) -> None:
    wrapped.allow("bad: RegExpFilter, show, @me, show, [")
    status, said = _check(wrapped, "show", "x")
    assert status == BAD_POLICY
    assert "test.filters:2: '[' is no regular expression" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["--check"],
        ["--list"],
        ["--list", "a", "b"],
        ["--convert"],
        ["--x", "y"],
    ],
)
def test_what_is_not_understood_is_answered_with_the_usage(
    wrapped: Wrapped, arguments: list[str]
) -> None:
    done = wrapped.call(*arguments)
    assert (done.returncode, done.stdout) == (NO_COMMAND, "")
    assert "privsep-rootwrap CONFIG COMMAND..., or --check CONFIG" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not IS_ROOT, reason="there is no policy of root to look at")
def test_any_user_may_check_a_policy_of_root(
    public_python: PublicPython, unprivileged_user: str
) -> None:
    script = """
    import sys
    from privsep.rootwrap import load
    from privsep.rootwrap.judge import judge

    with judge(sys.argv[2:], load(sys.argv[1])) as verdict:
        print(verdict.allowed, verdict.user.uid, *verdict.argv)
    """
    place = public_python.prefix.parent / "policy"
    place.mkdir(mode=0o755)
    wrapped = Wrapped(place)
    wrapped.script("show")
    wrapped.allow("show: CommandFilter, show, root")
    said = public_python.run(
        script, wrapped.config, "show", "x", user=unprivileged_user
    )
    assert said == [f"True 0 {wrapped.bin}/show x"]
