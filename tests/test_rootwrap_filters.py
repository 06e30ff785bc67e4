"""What each class of filter allows, and what runs then."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from conftest import IS_ROOT
from wrapping import (
    ENDS_WITHIN,
    ME,
    NO_COMMAND,
    NO_EXECUTABLE,
    NOT_ALLOWED,
    Wrapped,
    running,
    trusted_python,
)

from privsep.rootwrap import BadPolicy
from privsep.rootwrap.judge import judge

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def wrapped(tmp_path: Path) -> Wrapped:
    wrapped = Wrapped(tmp_path)
    wrapped.script("show", "tool", "ip", "nice", "chown", "cat", "mkdir")
    return wrapped


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with running("sleep", "1000") as process:
        yield process


# The judge


def test_the_first_filter_that_allows_a_command_wins(wrapped: Wrapped) -> None:
    wrapped.allow(
        "first: RegExpFilter, show, @me, show, x",
        "second: CommandFilter, show, @me",
        "third: CommandFilter, show, root",
    )
    assert wrapped.decider("show", "y") == "second"


def test_filters_are_tried_in_the_order_of_their_files(wrapped: Wrapped) -> None:
    wrapped.allow("late: CommandFilter, show, @me", name="b.filters")
    wrapped.allow("early: RegExpFilter, show, @me, sh.*, .*", name="a.filters")
    assert wrapped.decider("show", "x") == "early"


def test_a_pattern_for_the_command_is_tried_in_its_place(wrapped: Wrapped) -> None:
    wrapped.allow(
        "named: RegExpFilter, show, @me, show, no",
        "pattern: RegExpFilter, tool, @me, s.ow, .*",
        "other: CommandFilter, show, @me",
    )
    with wrapped.judge("show", "x") as verdict:
        assert verdict.filter is not None
        assert verdict.filter.name == "pattern"
        assert verdict.argv == (f"{wrapped.bin}/tool", "x")


def test_a_filter_whose_executable_is_missing_leaves_it_to_the_next(
    wrapped: Wrapped,
) -> None:
    wrapped.allow(
        "first: CommandFilter, /nowhere/show, @me",
        "second: CommandFilter, show, @me",
    )
    assert wrapped.decider("show") == "second"


def test_the_first_whose_executable_is_missing_is_named(wrapped: Wrapped) -> None:
    wrapped.allow(
        "first: CommandFilter, /nowhere/gone, @me", "second: CommandFilter, gone, @me"
    )
    verdict = wrapped.judge("gone")
    assert verdict.status == NO_EXECUTABLE
    assert "/nowhere/gone" in verdict.message


def test_a_refusal_says_why_of_each_filter_that_came_close(wrapped: Wrapped) -> None:
    wrapped.allow(
        "one: RegExpFilter, show, @me, show, a",
        "two: PathFilter, show, @me, b",
        "far: CommandFilter, tool, @me",
    )
    verdict = wrapped.judge("show", "c")
    assert verdict.status == NOT_ALLOWED
    assert [each.name for each, _ in verdict.reasons] == ["one", "two"]
    assert [why for _, why in verdict.reasons] == [
        "'c' does not match 'a'",
        "'c' is not 'b'",
    ]
    assert "test.filters:2" in verdict.message
    assert "test.filters:3" in verdict.message


def test_a_command_that_no_filter_names_is_said_to_be(wrapped: Wrapped) -> None:
    wrapped.allow("one: CommandFilter, show, @me")
    assert "no filter is for 'other'" in wrapped.judge("other").message


def test_no_command_is_no_command(wrapped: Wrapped) -> None:
    assert wrapped.judge().status == NO_COMMAND


def test_only_filters_of_that_name_are_tried_however_many_there_are(
    wrapped: Wrapped,
) -> None:
    wrapped.allow(
        *[f"n{n}: CommandFilter, command{n}, @me" for n in range(10_000)],
        "show: CommandFilter, show, @me",
    )
    policy = wrapped.load()
    assert len(list(policy.candidates(("show", "x")))) == 1
    with judge(["show", "x"], policy) as verdict:
        assert verdict.allowed
        assert verdict.reasons == ()


def test_a_verdict_names_all_that_will_run(wrapped: Wrapped) -> None:
    wrapped.allow("env: EnvFilter, env, @me, A=, show")
    with wrapped.judge("env", "A=1", "show", "x") as verdict:
        assert verdict.allowed
        assert verdict.executable is not None
        assert verdict.executable.path == f"{wrapped.bin}/show"
        assert verdict.argv == (f"{wrapped.bin}/show", "x")
        assert verdict.user is not None
        assert verdict.user.name == ME
        assert verdict.user.uid == os.getuid()
        assert verdict.environment == {
            "PATH": str(wrapped.bin),
            "HOME": verdict.user.home,
            "LOGNAME": ME,
            "USER": ME,
            "A": "1",
        }


def test_a_verdict_that_is_closed_holds_nothing(wrapped: Wrapped) -> None:
    wrapped.allow("show: CommandFilter, show, @me")
    before = os.listdir("/proc/self/fd")
    wrapped.judge("show").close()
    assert os.listdir("/proc/self/fd") == before


def test_privsep_helper_is_always_allowed(wrapped: Wrapped) -> None:
    wrapped.script("privsep-helper")
    wrapped.allow()
    with wrapped.judge("privsep-helper", "x") as verdict:
        assert verdict.allowed
        assert verdict.user is not None
        assert verdict.user.name == "root"


@pytest.mark.parametrize(
    ("filters", "word"),
    [
        ("CommandFilter, show, @me", "show"),
        ("CommandFilter, @bin/show, @me", "show"),
        ("CommandFilter, @bin/show, @me", "@bin/show"),
        ("CommandFilter, show, @me", "@bin/show"),
        ("CommandFilter, show, @me", "@dir/./bin/../bin/show"),
        ("CommandFilter, show, @me", "@dir/link/show"),
        ("RegExpFilter, show, @me, show", "show"),
        ("RegExpFilter, show, @me, show", "@bin/show"),
        ("RegExpFilter, show, @me, @bin/show", "@bin/show"),
        ("RegExpFilter, show, @me, s.*w", "@bin/show"),
    ],
)
def test_a_command_goes_by_its_name_or_by_a_path_of_the_same_file(
    wrapped: Wrapped, filters: str, word: str
) -> None:
    (wrapped.directory / "link").symlink_to(wrapped.bin)
    wrapped.allow(f"show: {filters}")
    with wrapped.judge(word) as verdict:
        assert verdict.allowed, verdict.message
        assert verdict.argv == (f"{wrapped.bin}/show",)


def test_a_program_of_many_names_is_told_the_name_that_was_found(
    wrapped: Wrapped,
) -> None:
    (wrapped.bin / "lvs").symlink_to("show")
    wrapped.allow("lvs: CommandFilter, lvs, @me")
    with wrapped.judge("lvs") as verdict:
        assert verdict.argv == (f"{wrapped.bin}/lvs",)
        assert verdict.executable is not None
        assert verdict.executable.resolved == f"{wrapped.bin}/show"


def test_the_first_directory_that_has_a_command_wins(wrapped: Wrapped) -> None:
    second = wrapped.directory / "second"
    second.mkdir(mode=0o755)
    for name in ("show", "only"):
        (second / name).write_text("#!/bin/sh\n")
        (second / name).chmod(0o755)
    wrapped.configure(directories=[wrapped.directory / "none", second])
    wrapped.allow("a: CommandFilter, show, @me", "b: CommandFilter, only, @me")
    with wrapped.judge("show") as verdict:
        assert verdict.argv == (f"{wrapped.bin}/show",)
    with wrapped.judge("only") as verdict:
        assert verdict.argv == (f"{second}/only",)


def test_what_is_no_executable_file_is_not_found(wrapped: Wrapped) -> None:
    (wrapped.bin / "plain").write_text("x")
    (wrapped.bin / "directory").mkdir(mode=0o755)
    (wrapped.bin / "dangling").symlink_to("nowhere")
    os.mkfifo(wrapped.bin / "fifo", 0o755)
    names = ("plain", "directory", "dangling", "fifo")
    wrapped.allow(*[f"{name}: CommandFilter, {name}, @me" for name in names])
    for name in names:
        assert wrapped.judge(name).status == NO_EXECUTABLE


# The classes


def test_a_command_filter_ignores_further_fields(wrapped: Wrapped) -> None:
    wrapped.allow("show: CommandFilter, show, @me, show, --only")
    with wrapped.judge("show", "other") as verdict:
        assert verdict.allowed


@pytest.mark.parametrize(
    ("pattern", "word", "matches"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", "aa", False),
        ("", "", True),
        ("", "x", False),
        (".*", "", True),
        (".*", "any thing", True),
        (r"-?\d+", "-5", True),
        (r"-?\d+", "5", True),
        (r"-?\d+", "5x", False),
        (r"a|b", "a", True),
        (r"a|b", "b", True),
        (r"a*", "", True),
        (r"ab*", "a", True),
        (r"ab{0}c", "ac", True),
        (r"ab?c", "ac", True),
        (r"^a$", "a", True),
        (r"a\.b", "a.b", True),
        (r"a\.b", "axb", False),
        (r"(?i)abc", "ABC", True),
        (r"[ab]c", "bc", True),
        (r"(?!x).*", "y", True),
        (r"(?!x).*", "xy", False),
        ("ü.", "üx", True),
    ],
)
def test_a_pattern_is_for_all_of_a_word(
    wrapped: Wrapped, pattern: str, word: str, *, matches: bool
) -> None:
    wrapped.allow(f"show: RegExpFilter, show, @me, show, {pattern}")
    with wrapped.judge("show", word) as verdict:
        assert verdict.allowed is matches


def test_a_pattern_that_is_none_is_found_when_it_is_tried(wrapped: Wrapped) -> None:
    wrapped.allow(
        "bad: RegExpFilter, show, @me, show, [", "tool: CommandFilter, tool, @me"
    )
    with wrapped.judge("tool") as verdict:
        assert verdict.allowed
    with pytest.raises(BadPolicy, match=r"test\.filters:2.*no regular expression"):
        wrapped.judge("show", "x")


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (("nova", "@dir/images/file"), ("nova", "@dir/images/file")),
        (("nova", "@dir/images/link"), ("nova", "@dir/images/file")),
        (("nova", "@dir/images/./file"), ("nova", "@dir/images/file")),
        (("nova", "@dir/images//file"), ("nova", "@dir/images/file")),
        (("nova", "@dir/images/sub/../file"), ("nova", "@dir/images/file")),
        (("nova", "@dir/images/new"), ("nova", "@dir/images/new")),
        (("nova", "@dir/images/new/er"), ("nova", "@dir/images/new/er")),
        (("nova", "@dir/images"), ("nova", "@dir/images")),
        (("nova", "@dir/images/"), ("nova", "@dir/images")),
        (("nova", "@dir/other/../images/file"), ("nova", "@dir/images/file")),
        (("nova", "@dir/images/sub/up"), ("nova", "@dir/images")),
        (("root", "@dir/images/file"), None),
        (("nova", "@dir/images/out"), None),
        (("nova", "@dir/images/file", "more"), None),
        (("nova",), None),
        ((), None),
    ],
)
def test_a_path_filter_runs_the_path_that_it_resolved(
    wrapped: Wrapped, words: tuple[str, ...], runs: tuple[str, ...] | None
) -> None:
    images = wrapped.directory / "images"
    (images / "sub").mkdir(parents=True)
    (images / "file").touch()
    (images / "link").symlink_to("file")
    (images / "out").symlink_to("/etc/passwd")
    (images / "sub" / "up").symlink_to("..")
    wrapped.allow("chown: PathFilter, chown, @me, nova, @dir/images")
    with wrapped.judge("chown", *words) as verdict:
        found = verdict.argv[1:] if verdict.allowed else None
    assert found == (None if runs is None else tuple(map(wrapped.filled, runs)))


def test_a_path_filter_takes_any_word_for_pass(wrapped: Wrapped) -> None:
    wrapped.allow("chown: PathFilter, chown, @me, pass, /")
    with wrapped.judge("chown", "any thing", "/etc/../etc") as verdict:
        assert verdict.argv[1:] == ("any thing", "/etc")


def test_the_directory_of_a_path_filter_may_be_a_link_of_root(
    wrapped: Wrapped,
) -> None:
    (wrapped.directory / "real").mkdir(mode=0o755)
    (wrapped.directory / "images").symlink_to("real")
    wrapped.allow("chown: PathFilter, chown, @me, @dir/images")
    with wrapped.judge("chown", "@dir/images/x") as verdict:
        assert verdict.argv[1:] == (f"{wrapped.directory}/real/x",)
    with wrapped.judge("chown", "@dir/real/x") as verdict:
        assert verdict.allowed


def test_a_read_file_filter_runs_cat_of_one_file(wrapped: Wrapped) -> None:
    wrapped.allow("read: ReadFileFilter, @dir/secret")
    with wrapped.judge("cat", "@dir/secret") as verdict:
        assert verdict.argv == (f"{wrapped.bin}/cat", f"{wrapped.directory}/secret")
        assert verdict.user is not None
        assert verdict.user.name == "root"


@pytest.mark.parametrize(
    ("filters", "words", "allowed"),
    [
        ("env, @me, A=, B=, show", "env A=1 B=2 show x", True),
        ("env, @me, A=, B=, show", "A=1 B=2 show x", True),
        ("env, @me, A=, B=, show", "env B=2 A=1 show x", True),
        ("env, @me, A=, B=, show", "env A=1 show x", False),
        ("env, @me, A=, show", "env A=1 C=2 show x", False),
        ("env, @me, A=v, show", "env A=1 show x", True),
        ("env, @me, A=, show", "show x", False),
        ("env, @me, A=, @bin/show", "env A= @bin/show x", True),
        ("env, @me, A=, @bin/show", "env A= show x", True),
        ("env, @me, A=, show, -f, .*", "env A=1 show x", False),
        ("env, @me, A=, show, -f, .*", "env A=1 show x y", True),
        ("env, @me, A=, show, -f, .*", "env A=1 show x y z", True),
        ("show, @me, A=", "A=1 show x", True),
        ("show, @me, A=", "env A=1 show x", True),
        ("show, @me, A=", "show A=1 show x", False),
        ("env, @me, A=, show", "env A=1 A=2 show x", False),
        ("env, @me, A=, show", "env -i A=1 show x", False),
        ("env, @me, A=, show", "env AB=1 show x", False),
        ("env, @me, A=, B=, show", "env A=1 show B=1", False),
    ],
)
def test_an_env_filter_has_exactly_its_variables_before_the_command(
    wrapped: Wrapped, filters: str, words: str, *, allowed: bool
) -> None:
    wrapped.allow(f"env: EnvFilter, {filters}")
    with wrapped.judge(*words.split()) as verdict:
        assert verdict.allowed is allowed, verdict.message
        if allowed:
            assert verdict.argv[0] == f"{wrapped.bin}/show"
            assert "A" in verdict.environment


def test_ip_netns_exec_runs_the_file_of_the_filter_within(wrapped: Wrapped) -> None:
    wrapped.allow("ip: IpNetnsExecFilter, ip, @me", "show: CommandFilter, show, @me")
    with wrapped.judge("ip", "netns", "exec", "one", "show", "x") as verdict:
        show = f"{wrapped.bin}/show"
        assert verdict.argv == (
            *(f"{wrapped.bin}/ip", "netns", "exec", "one"),
            *(show, "x"),
        )


def test_a_chain_takes_the_variables_of_the_command_within(wrapped: Wrapped) -> None:
    wrapped.allow(
        "nice: ChainingRegExpFilter, nice, @me, nice, -n, -?\\d+",
        "show: EnvFilter, env, @me, A=, show",
    )
    with wrapped.judge("nice", "-n", "5", "env", "A=1", "show", "x") as verdict:
        show = f"{wrapped.bin}/show"
        assert verdict.argv == (f"{wrapped.bin}/nice", "-n", "5", show, "x")
        assert verdict.environment["A"] == "1"


def test_a_chain_judges_a_path_within(wrapped: Wrapped) -> None:
    (wrapped.directory / "images").mkdir()
    wrapped.allow(
        "nice: ChainingRegExpFilter, nice, @me, nice",
        "chown: PathFilter, chown, @me, @dir/images",
    )
    with wrapped.judge("nice", "chown", "@dir/images/../images/x") as verdict:
        assert verdict.argv[2:] == (f"{wrapped.directory}/images/x",)
    assert not wrapped.judge("nice", "chown", "/etc").allowed


def test_a_command_within_gives_up_what_its_filter_says(wrapped: Wrapped) -> None:
    wrapped.allow(
        "nice: ChainingRegExpFilter, nice, @me, nice",
        "show: CommandFilter, show, @me",
        *("[Options show]", "no_new_privs = true"),
    )
    with wrapped.judge("nice", "show") as verdict:
        assert verdict.options.no_new_privs


def test_a_command_within_must_be_for_the_same_user(wrapped: Wrapped) -> None:
    wrapped.allow(
        "nice: ChainingRegExpFilter, nice, @me, nice",
        "show: CommandFilter, show, daemon",
    )
    verdict = wrapped.judge("nice", "show")
    assert verdict.status == NOT_ALLOWED
    assert f"it is for daemon, not for {ME}" in verdict.message


def test_a_command_within_whose_executable_is_missing_is_missing(
    wrapped: Wrapped,
) -> None:
    wrapped.allow(
        "nice: ChainingRegExpFilter, nice, @me, nice", "gone: CommandFilter, gone, @me"
    )
    assert wrapped.judge("nice", "gone").status == NO_EXECUTABLE


def test_a_chaining_filter_allows_nothing(wrapped: Wrapped) -> None:
    wrapped.allow("tool: ChainingFilter, tool, @me", "show: CommandFilter, show, @me")
    assert wrapped.judge("tool", "show").status == NOT_ALLOWED
    assert wrapped.judge("tool").status == NOT_ALLOWED


_SLEEP = os.path.realpath("/bin/sleep")


@pytest.mark.parametrize(
    ("fields", "signal_words", "allowed"),
    [
        ("/usr/bin/sleep", (), True),
        ("/usr/bin/sleep", ("-9",), False),
        ("/usr/bin/sleep, -9", ("-9",), True),
        ("/usr/bin/sleep, -9", (), False),
        ("/usr/bin/sleep, -9", ("-KILL",), False),
        ("/usr/bin/sleep, -9", ("-s", "9"), False),
        ("/usr/bin/sleep, -9, -HUP", ("-HUP",), True),
        ("/usr/bin/sleep, -SIGHUP", ("-SIGHUP",), True),
        ("/usr/bin/sleep, -NONE", ("-NONE",), False),
        ("/usr/bin/sleep, -99", ("-99",), False),
        ("/bin/sleep", (), True),
        ("sleep", (), True),
        ("sleep, -9", ("-9",), True),
        ("/usr/bin/cat", (), False),
        ("cat", (), False),
        ("/nowhere/sleep", (), False),
        ("nowhere", (), False),
    ],
)
def test_a_kill_filter_is_for_processes_of_one_program(
    wrapped: Wrapped,
    sleeper: subprocess.Popen[bytes],
    fields: str,
    signal_words: tuple[str, ...],
    *,
    allowed: bool,
) -> None:
    wrapped.configure(directories=["/usr/bin"])
    wrapped.allow(f"kill: KillFilter, @me, {fields}")
    with wrapped.judge("kill", *signal_words, str(sleeper.pid)) as verdict:
        assert verdict.allowed is allowed, verdict.message
        if allowed:
            assert verdict.target is not None
            assert verdict.target.pid == sleeper.pid
            assert verdict.executable is None


def test_a_kill_signals_the_process(
    wrapped: Wrapped, sleeper: subprocess.Popen[bytes]
) -> None:
    wrapped.allow(f"kill: KillFilter, @me, {_SLEEP}, -USR1")
    done = wrapped.run("kill", "-USR1", str(sleeper.pid))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sleeper.wait(ENDS_WITHIN) == -signal.SIGUSR1


def test_a_kill_in_a_network_namespace_is_a_kill(
    wrapped: Wrapped, sleeper: subprocess.Popen[bytes]
) -> None:
    wrapped.allow(
        "ip: IpNetnsExecFilter, ip, @me", f"kill: KillFilter, @me, {_SLEEP}, -9"
    )
    done = wrapped.run("ip", "netns", "exec", "one", "kill", "-9", str(sleeper.pid))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sleeper.wait(ENDS_WITHIN) == -signal.SIGKILL


def test_a_kill_after_any_other_command_is_refused(
    wrapped: Wrapped, sleeper: subprocess.Popen[bytes]
) -> None:
    wrapped.allow(
        "nice: ChainingRegExpFilter, nice, @me, nice", f"k: KillFilter, @me, {_SLEEP}"
    )
    assert not wrapped.judge("nice", "kill", str(sleeper.pid)).allowed


def test_a_program_that_was_replaced_is_still_that_program(wrapped: Wrapped) -> None:
    program = wrapped.copy("sleep")
    wrapped.allow("kill: KillFilter, @me, sleep")
    with running(program, "1000") as process:
        program.unlink()
        wrapped.copy("sleep")
        with wrapped.judge("kill", str(process.pid)) as verdict:
            assert verdict.allowed, verdict.message


def test_the_program_of_a_script_is_its_interpreter(wrapped: Wrapped) -> None:
    wrapped.allow(f"kill: KillFilter, @me, {trusted_python()}")
    script = wrapped.directory / "script"
    script.write_text("import sys\nsys.stdin.read()\n")
    with (
        running(sys.executable, script) as process,
        wrapped.judge("kill", str(process.pid)) as verdict,
    ):
        assert verdict.allowed is True, verdict.message


@pytest.mark.skipif(not IS_ROOT, reason="only root may signal another user's process")
def test_a_kill_filter_signals_as_its_user(
    wrapped: Wrapped, sleeper: subprocess.Popen[bytes]
) -> None:
    wrapped.allow(f"kill: KillFilter, nobody, {_SLEEP}")
    done = wrapped.run("kill", str(sleeper.pid))
    assert done.returncode == 1
    assert "Operation not permitted" in done.stderr
    assert sleeper.poll() is None
