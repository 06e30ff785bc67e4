"""What a service that was taken over would try with words: none of it gets through.

What it would try with ip, paths, kills, files and its environment is in files beside.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from rootwrap_attacks import is_refused, own, wrapped
from wrapping import NOT_ALLOWED, Wrapped

from privsep.rootwrap.judge import judge
from privsep.rootwrap.run import run

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["own", "wrapped"]


# The command after a chain is the filter's file

_CHAINS = {"ip": ["ip", "netns", "exec", "one"], "nice": ["nice", "-n", "5"]}


@pytest.mark.parametrize("chain", _CHAINS)
@pytest.mark.parametrize(
    "within",
    [
        ["@dir/evil/show"],
        ["./show"],
        ["evil/show"],
        ["./evil/show"],
        ["../evil/show"],
        ["@bin/../evil/show"],
        ["//@dir/evil/show"],
        ["/proc/self/cwd/evil/show"],
        ["/dev/fd/3/show"],
        ["@bin/show/"],
        ["@bin/show/."],
        ["@bin/nothing/show"],
        ["~/show"],
        ["$HOME/show"],
        ["`show`"],
        ["$(show)"],
        ["show;id"],
        ["show\nid"],
        ["show\n"],
        ["\nshow"],
        [" show"],
        ["show "],
        ["show\t"],
        ["SHOW"],
        ["sho"],
        ["shows"],
        ["sh"],
        ["@bin/sh", "-c", "show"],
        ["sh", "-c", "show"],
        ["env", "show"],
        ["env", "-i", "show"],
        ["env", "TAG=1", "sh"],
        ["env", "TAG=1", "@dir/evil/show"],
        ["env", "PATH=@dir/evil", "show"],
        ["env", "LD_PRELOAD=/x", "TAG=1", "show"],
        ["TAG=1", "@dir/evil/show"],
        ["TAG=1"],
        ["env"],
        ["--", "show"],
        ["-show"],
        ["-c", "show"],
        ["exec", "show"],
        [""],
        ["", "show"],
        ["."],
        ["/"],
        ["@dir/evil"],
        ["ip", "netns", "exec", "two", "show"],
        ["ip", "netns", "exec", "two", "sh"],
        ["nice", "-n", "5", "show"],
        ["nice", "-n", "5", "sh"],
        ["ip", "-batch", "/x"],
        ["ip", "vrf", "exec", "red", "show"],
        ["chown", "nova", "/etc/passwd"],
        ["cat", "/etc/shadow"],
        ["touch", "ab"],
        ["kill", "-9", "1"],
        ["kill", "-9", "-1"],
    ],
)
def test_a_chain_runs_no_other_file_than_a_filter_names(
    wrapped: Wrapped, chain: str, within: list[str]
) -> None:
    is_refused(wrapped, *_CHAINS[chain], *within)


@pytest.mark.parametrize("chain", _CHAINS)
def test_a_link_to_the_filters_file_runs_the_filters_file(
    wrapped: Wrapped, chain: str, tmp_path: Path
) -> None:
    """Whatever the link is by the time that it runs."""
    link = tmp_path / "show"
    link.symlink_to(wrapped.bin / "show")
    with wrapped.judge(*_CHAINS[chain], str(link), "x") as verdict:
        assert verdict.argv[-2:] == (f"{wrapped.bin}/show", "x")


# A pattern is for the whole word


@pytest.mark.parametrize(
    ("pattern", "word"),
    [
        ("foo|bar", "foox"),
        ("foo|bar", "xbar"),
        ("foo|bar", "foo|bar"),
        ("foo|bar", "foobar"),
        ("foo|bar", "foo\n"),
        ("foo|bar", "bar\n"),
        ("foo|bar", "bar; id"),
        ("foo|bar|", "x"),
        ("(foo|bar)", "foox"),
        ("foo|bar$", "foox"),
        ("^foo|bar", "fooo"),
        ("^foo|bar$", "foo bar"),
        ("^foo$|^bar$", "foo\nbar"),
        ("foo", "foo\n"),
        ("foo", "foo\n\n"),
        ("foo", "foo\nbar"),
        ("foo", "\nfoo"),
        ("foo", "foo\r"),
        ("foo", "foo\x0b"),
        ("foo", "foo\x85"),
        ("foo", "foo\u2028"),
        ("foo", "foo "),
        ("foo", "FOO"),
        ("foo$", "foo\n"),
        ("^foo$", "foo\n"),
        (r"foo\Z", "foo\n"),
        (r"\d+", "5\n"),
        (r"\d+", "5 6"),
        (r"\d+", ""),
        (r"\d+", "-5"),
        (r"-?\d+", "--5"),
        (".*", "a\nb"),
        (".*", "\n"),
        (".+", "a\n"),
        ("/etc/.*", "/etc/x\n/tmp"),
        ("/etc/.*", "x/etc/y"),
        ("/etc/.*", "/etcetera"),
        (r"/etc/(?!\.\.).*", "/etc/../x"),
        (r"a\.conf", "aXconf"),
        ("[a-z]+", "abC"),
        ("[a-z]+", "ab\n"),
        ("a*b", "aab\n"),
        ("--size=[0-9]+", "--size=1 --x"),
        (r"blkio:\S+", "blkio:a b"),
        (r"blkio:\S+", "blkio:\n"),
    ],
)
def test_a_pattern_accepts_nothing_around_it(
    pattern: str, word: str, tmp_path: Path
) -> None:
    policy = Wrapped(tmp_path)
    policy.script("show", "nice", "cat")
    policy.allow(
        f"one: RegExpFilter, show, @me, show, {pattern}",
        f"chain: ChainingRegExpFilter, nice, @me, nice, {pattern}",
        "cat: CommandFilter, cat, @me",
    )
    is_refused(policy, "show", word)
    is_refused(policy, "nice", word, "cat")


def test_a_pattern_that_takes_for_ever_can_be_ended(own: Wrapped) -> None:
    own.allow("show: RegExpFilter, show, @me, show, (a*)*b")
    with pytest.raises(subprocess.TimeoutExpired):
        own.run("show", "a" * 40, timeout=0.2)


# A word is one of a filter's, or none


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PATH", "IFS", "TAG2", "tag", "TAG "])
def test_an_env_filter_lets_no_other_variable_pass(wrapped: Wrapped, name: str) -> None:
    is_refused(wrapped, "env", f"{name}=x", "show")
    is_refused(wrapped, "env", "TAG=1", f"{name}=x", "show")
    is_refused(wrapped, f"{name}=x", "TAG=1", "show")


@pytest.mark.parametrize(
    "option",
    ["-i", "-u", "-S", "-C", "--chdir=/", "--split-string=sh", "-", "--", "-v", "-0"],
)
def test_an_env_filter_lets_no_option_of_env_pass(
    wrapped: Wrapped, option: str
) -> None:
    is_refused(wrapped, "env", option, "TAG=1", "show")
    is_refused(wrapped, "env", "TAG=1", option, "show")


@pytest.mark.parametrize(
    "word",
    ["./show", "evil/show", "@dir/evil/show", "../evil/show", "@dir/evil", "@dir", "."],
)
def test_a_path_to_another_file_is_another_command(wrapped: Wrapped, word: str) -> None:
    is_refused(wrapped, word)
    is_refused(wrapped, word.replace("show", "touch"), "a")


@pytest.mark.parametrize("word", ["\0", "a\0", "\0a", "a\0b", "@dir/images/\0"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_word_with_a_nul_is_refused(wrapped: Wrapped, place: int, word: str) -> None:
    """The command would see what stands before it."""
    words = ["show", "x", "y"]
    words[place] = word
    is_refused(wrapped, *words)


@pytest.mark.parametrize(
    "word", ["show\n", "\nshow", "sh\r\now", "show\x1b[2J", "\x85"]
)
def test_a_refusal_is_one_line_whatever_the_words(wrapped: Wrapped, word: str) -> None:
    done = wrapped.run(f"no{word}\nprivsep-rootwrap: forged")
    assert done.returncode == NOT_ALLOWED
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr


def test_a_long_word_is_a_word(wrapped: Wrapped) -> None:
    word = "x" * 131_000
    assert wrapped.run("show", word).stdout == f"ran\n{word}\n"


@pytest.mark.parametrize("command", ["show", "ip", "nice", "chown", "touch", "env"])
@pytest.mark.parametrize("length", [100_000, 1_000_000])
def test_a_very_long_word_is_judged(
    wrapped: Wrapped, command: str, length: int
) -> None:
    verdict = wrapped.judge(command, "x" * length)
    verdict.close()
    assert verdict.status in (0, NOT_ALLOWED)
    assert len(verdict.message) < 2000


def test_a_path_that_no_system_call_takes_is_refused(wrapped: Wrapped) -> None:
    """And its components are not looked at one by one."""
    is_refused(wrapped, "chown", "nova", "@dir/images/" + "a/" * 60_000)


def test_a_very_long_command_is_not_repeated(wrapped: Wrapped) -> None:
    done = wrapped.run("x" * 131_000)
    assert done.returncode == NOT_ALLOWED
    assert len(done.stderr) < 2000


@pytest.mark.parametrize(
    "words",
    [
        ["show"] * 10_000,
        ["nope"] * 10_000,
        ["ip", *["netns", "exec", "one", "ip"] * 2_500],
        ["ip", *["-o"] * 10_000, "netns", "exec", "one", "sh"],
        [*["nice", "-n", "5"] * 3_333, "sh"],
        ["env", *["TAG=1"] * 10_000, "show"],
        ["TAG=1"] * 10_000,
        ["chown", *["nova"] * 10_000],
        ["kill", *["-9"] * 10_000],
    ],
)
def test_ten_thousand_words_are_judged(wrapped: Wrapped, words: list[str]) -> None:
    verdict = wrapped.judge(*words)
    verdict.close()
    assert verdict.allowed is (words[0] == "show")


def test_an_option_for_people_cannot_follow_the_config(wrapped: Wrapped) -> None:
    """sudoers names the config first: what follows is the command."""
    for option in ("--check", "--list", "--convert"):
        assert wrapped.run(option, "/etc/shadow").returncode == NOT_ALLOWED


def test_a_verdict_that_refuses_cannot_be_carried_out(wrapped: Wrapped) -> None:
    verdict = judge(["nope"], wrapped.load())
    with pytest.raises(ValueError, match="does not allow"):
        run(verdict, 1024)
