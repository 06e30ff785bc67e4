"""How the files of a policy are read, and what is said of those that are wrong."""

from __future__ import annotations

import configparser
import sys
from typing import TYPE_CHECKING

import pytest
from conftest import IS_ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from wrapping import BAD_POLICY, PROGRAM, Wrapped

import scripts
from privsep.rootwrap import BadPolicy, ini

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def wrapped(tmp_path: Path) -> Wrapped:
    wrapped = Wrapped(tmp_path / "own")
    wrapped.script("show")
    wrapped.allow("show: CommandFilter, show, @me")
    return wrapped


# The INI form

_LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "[Filters]",
                "[DEFAULT]",
                "[Other] x",
                "[a]b]",
                "[]",
                "[ Filters ]",
                "name: value",
                "Name = other",
                "name:",
                "a=b:c=d",
                "a:b=c:d",
                "a = 1 ; no comment",
                "a = 1 # no comment",
                "a % b : %(x)s",
                "  indented",
                "    deeper",
                "\ttab",
                "# comment",
                "; comment",
                "   # indented comment",
                "",
                "   ",
                "no delimiter",
                ": no name",
                " = no name",
            ]
        ),
        st.text(alphabet=" \t=:;#[]aB\u00a0\u2028,\\", max_size=12),
    ),
    max_size=12,
)


def _as_configparser_reads(text: str) -> dict[str, dict[str, str]] | None:
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(text)
        return {name: dict(parser.items(name)) for name in parser.sections()}
    except configparser.Error:
        return None


@given(_LINES)
@settings(deadline=None)  # how fast is not its business
def test_a_file_is_read_as_raw_config_parser_reads_it(lines: list[str]) -> None:
    text = "\n".join(lines)
    try:
        document = ini.parse("file", text)
    except BadPolicy:
        found = None
    else:
        found = {
            name: {key: field.value for key, field in document.section(name).items()}
            for name in document.names()
        }
    assert found == _as_configparser_reads(text)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_lines_may_end_as_elsewhere(ending: str) -> None:
    document = ini.parse("file", ending.join(["[a]", "b = 1", " 2", "c : 3", ""]))
    fields = document.section("a")
    assert {name: field.value for name, field in fields.items()} == {
        "b": "1\n2",
        "c": "3",
    }
    assert fields["c"].line == 4


def test_a_value_goes_on_over_lines_and_comments(wrapped: Wrapped) -> None:
    wrapped.allow(
        *(
            "show: RegExpFilter,",
            "  show,",
            "# comment",
            "  @me,",
            "",
            "  show,",
            "  a",
        ),
        "after: CommandFilter, after, @me",
    )
    with wrapped.judge("show", "a") as verdict:
        assert verdict.allowed
        assert verdict.filter is not None
        assert verdict.filter.place.endswith("test.filters:2")


def test_a_field_may_hold_what_is_special_elsewhere(wrapped: Wrapped) -> None:
    wrapped.allow("show: RegExpFilter, show, @me, show, a:b=c%d;e#f")
    with wrapped.judge("show", "a:b=c%d;e#f") as verdict:
        assert verdict.allowed


def test_a_later_filter_of_the_same_name_takes_the_earlier_ones_place(
    wrapped: Wrapped,
) -> None:
    wrapped.allow(
        "a: CommandFilter, gone, @me",
        "b: RegExpFilter, show, @me, show, x",
        "A: CommandFilter, show, @me",
    )
    assert wrapped.decider("show", "x") == "a"


def test_filters_of_the_section_default_are_filters(wrapped: Wrapped) -> None:
    wrapped.allow("[DEFAULT]", "show: CommandFilter, show, @me")
    with wrapped.judge("show") as verdict:
        assert verdict.allowed


# The files


def test_hidden_files_and_directories_are_skipped(wrapped: Wrapped) -> None:
    (wrapped.filters / ".hidden").write_text("nonsense")
    (wrapped.filters / "directory").mkdir()
    assert wrapped.run("show").stdout == "ran\n"


def test_a_missing_directory_is_skipped(wrapped: Wrapped) -> None:
    wrapped.config.write_text(
        f"[DEFAULT]\nfilters_path = /nowhere,{wrapped.filters}\n"
        f"exec_dirs = /nowhere,{wrapped.bin}\n"
    )
    assert wrapped.run("show").stdout == "ran\n"


def test_any_name_of_a_file_will_do(wrapped: Wrapped) -> None:
    (wrapped.filters / "test.filters").rename(wrapped.filters / "plain")
    assert wrapped.run("show").stdout == "ran\n"


def test_a_file_of_filters_may_be_a_link(wrapped: Wrapped) -> None:
    elsewhere = wrapped.directory / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    (wrapped.filters / "test.filters").rename(elsewhere / "real")
    (wrapped.filters / "test.filters").symlink_to("../elsewhere/real")
    assert wrapped.run("show").stdout == "ran\n"


def test_a_config_is_found_from_where_the_caller_is(wrapped: Wrapped) -> None:
    done = wrapped.call("rootwrap.conf", "show", cwd=wrapped.directory)
    assert done.stdout == "ran\n"
    done = wrapped.call("../rootwrap.conf", "show", cwd=wrapped.bin)
    assert done.stdout == "ran\n"


def test_a_file_need_not_be_text(wrapped: Wrapped) -> None:
    data = b"[Filters]\n# \xff\nshow: CommandFilter, sh\xff, root\n"
    (wrapped.filters / "latin").write_bytes(data)
    assert wrapped.run("show").stdout == "ran\n"


# What is wrong


def _wrong(wrapped: Wrapped) -> str:
    """Return what is said of a bad policy: one line."""
    with pytest.raises(BadPolicy) as error:
        wrapped.load()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_nothing_runs_by_a_policy_that_is_wrong(wrapped: Wrapped) -> None:
    wrapped.configure("rlimit_nofile = many")
    done = wrapped.run("show")
    assert (done.returncode, done.stdout) == (BAD_POLICY, "")
    assert done.stderr.startswith("privsep-rootwrap: ")
    assert "rootwrap.conf:4: rlimit_nofile is 'many'" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["rlimit_nofile = many"], "rootwrap.conf:4: rlimit_nofile is 'many'"),
        (["rlimit_nofile = -1"], "rootwrap.conf:4: rlimit_nofile is '-1'"),
        (["rlimit_nofile = 99999999999"], "rootwrap.conf:4: rlimit_nofile is 9999"),
        (["daemon_timeout = 1.5"], "rootwrap.conf:4: daemon_timeout is '1.5'"),
        (["daemon_timeout ="], "rootwrap.conf:4: daemon_timeout is ''"),
        (["use_syslog = maybe"], "rootwrap.conf:4: use_syslog is 'maybe'"),
        (["syslog_log_facility = moon"], "rootwrap.conf:4: syslog_log_facility is 'm"),
        (["syslog_log_level = loud"], "rootwrap.conf:4: syslog_log_level is 'loud'"),
        (["no_new_privs = 2"], "rootwrap.conf:4: no_new_privs is '2'"),
        (["capabilities = CAP_NOPE"], "rootwrap.conf:4: no capability is named"),
        (["timeout = soon"], "rootwrap.conf:4: timeout is 'soon'"),
        (["timeout = 0"], "rootwrap.conf:4: timeout is '0'"),
        (["timeout = inf"], "rootwrap.conf:4: timeout is 'inf'"),
        (["timeout = nan"], "rootwrap.conf:4: timeout is 'nan'"),
        (["nonsense"], "rootwrap.conf:4: 'nonsense' is not NAME = VALUE"),
        (["", "nonsense"], "rootwrap.conf:5: 'nonsense' is not NAME = VALUE"),
        (["exec_dirs = bin"], "rootwrap.conf:4: 'bin' in exec_dirs is no absolute"),
    ],
)
def test_a_wrong_option_is_said_with_its_line(
    wrapped: Wrapped, lines: list[str], said: str
) -> None:
    wrapped.configure(*lines)
    assert said in _wrong(wrapped)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "filters_path is missing"),
        ("[DEFAULT]\n", "filters_path is missing"),
        ("[Other]\nfilters_path = /x\n", "filters_path is missing"),
        ("filters_path = /x\n", "rootwrap.conf:1: 'filters_path = /x' stands before"),
        ("[DEFAULT\n", "rootwrap.conf:1: '[DEFAULT' stands before any [section]"),
    ],
)
def test_a_config_without_its_section_is_refused(
    wrapped: Wrapped, text: str, said: str
) -> None:
    wrapped.config.write_text(text)
    assert said in _wrong(wrapped)


def test_no_config_is_a_bad_policy(wrapped: Wrapped) -> None:
    done = wrapped.call("/nowhere/rootwrap.conf", "show")
    assert (done.returncode, done.stdout) == (BAD_POLICY, "")
    assert "/nowhere/rootwrap.conf: it cannot be read: No such file" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_file_in_the_place_of_a_directory_is_a_bad_policy(wrapped: Wrapped) -> None:
    wrapped.config.write_text(f"[DEFAULT]\nfilters_path = {wrapped.config}\n")
    done = wrapped.run("show")
    assert (done.returncode, done.stdout) == (BAD_POLICY, "")
    assert "it is no directory" in done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("CommandFilter", "CommandFilter has 0 fields, and needs 2 or more"),
        ("CommandFilter, show", "CommandFilter has 1 fields, and needs 2 or more"),
        ("CommandFilter, show,", "CommandFilter has 2 fields, and needs 2 or more"),
        ("CommandFilter, , root", "CommandFilter has 2 fields, and needs 2 or more"),
        ("RegExpFilter, show, root", "RegExpFilter has 2 fields"),
        ("PathFilter, show, root", "PathFilter has 2 fields"),
        ("EnvFilter, env, root", "EnvFilter has 2 fields"),
        ("EnvFilter, env, root, show", "it names no variable"),
        ("EnvFilter, env, root, A=", "it names no command"),
        ("EnvFilter, env, root, =, show", "a variable has no name"),
        ("ReadFileFilter", "ReadFileFilter has 0 fields"),
        ("ReadFileFilter,", "ReadFileFilter has 1 fields"),
        ("KillFilter, root", "KillFilter has 1 fields"),
        ("KillFilter, root, /bin/x, 9", "the signal '9' does not begin with -"),
        ("IpFilter, ip", "IpFilter has 1 fields"),
        ("IpNetnsExecFilter, ip", "IpNetnsExecFilter has 1 fields"),
        ("ChainingFilter, nice", "ChainingFilter has 1 fields"),
        ("ChainingRegExpFilter, nice, root", "ChainingRegExpFilter has 2 fields"),
    ],
)
def test_a_filter_with_too_few_fields_is_said_with_its_line(
    wrapped: Wrapped, line: str, said: str
) -> None:
    wrapped.allow("show: CommandFilter, show, @me", f"bad: {line}")
    found = _wrong(wrapped)
    assert "test.filters:3: bad: " in found
    assert said in found


def test_a_file_without_filters_says_so(wrapped: Wrapped) -> None:
    (wrapped.filters / "empty").write_text("# nothing\n")
    done = wrapped.run("show")
    assert (done.returncode, done.stdout) == (BAD_POLICY, "")
    assert "empty: it has no section [Filters]" in done.stderr


def test_options_for_a_filter_that_is_not_there_are_refused(wrapped: Wrapped) -> None:
    """Or a typing mistake would leave a command with all that it should give up."""
    wrapped.allow(
        "show: CommandFilter, show, @me", "[Options shwo]", "no_new_privs = true"
    )
    done = wrapped.run("show")
    assert (done.returncode, done.stdout) == (BAD_POLICY, "")
    assert "[Options shwo] is for no filter of this file" in done.stderr


@pytest.mark.parametrize(
    "facility", ["syslog", "LOG_LOCAL0", "local7", "auth", "AUTHPRIV", "log_daemon"]
)
def test_facilities_go_by_their_names(wrapped: Wrapped, facility: str) -> None:
    wrapped.configure("use_syslog = False", f"syslog_log_facility = {facility}")
    assert wrapped.load().syslog is None


@pytest.mark.parametrize("value", ["1", "yes", "True", "ON"])
def test_what_says_yes_is_true(wrapped: Wrapped, value: str) -> None:
    wrapped.configure(f"use_syslog = {value}")
    assert wrapped.load().syslog is not None


def test_options_of_other_programs_are_left_alone(wrapped: Wrapped) -> None:
    with wrapped.config.open("a") as file:
        file.write("other = 1\n[xenapi]\nconnection = x\n")
    assert wrapped.run("show").stdout == "ran\n"


# The system's log

_LOGGED = """
import os, socket, stat, subprocess, sys
from privsep._lockdown import libc

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000
libc.unshare(CLONE_NEWNS)
libc.mount("none", "/", "", MS_REC | MS_PRIVATE)
libc.mount("none", "/dev", "tmpfs", 0)
os.mknod("/dev/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
    log.bind("/dev/log")
    log.setblocking(False)
    subprocess.run(sys.argv[1:], stderr=subprocess.DEVNULL)
    try:
        print(log.recv(4096).decode())
    except BlockingIOError:
        print("nothing")
"""


@pytest.mark.skipif(not IS_ROOT, reason="only root may mount a /dev of his own")
@pytest.mark.parametrize(
    ("level", "words", "expected"),
    [
        ("INFO", "show x", "<46>|: uid 0: 'show x' is allowed by show"),
        ("ERROR", "other", "<43>|: uid 0: 'other' is not allowed"),
        ("ERROR", "show x", "nothing|"),
    ],
)
def test_verdicts_are_in_the_systems_log(
    wrapped: Wrapped, level: str, words: str, expected: str
) -> None:
    wrapped.configure("use_syslog = True", f"syslog_log_level = {level}")
    program = (sys.executable, "-I", "-S", PROGRAM, wrapped.config)
    said = scripts.run(_LOGGED, *program, *words.split())
    head, _, tail = expected.partition("|")
    assert said[-1].startswith(head)
    assert tail in said[-1]
    if tail:
        assert "privsep-rootwrap[" in said[-1]


def test_a_log_that_is_not_there_stops_nothing(wrapped: Wrapped) -> None:
    wrapped.configure("use_syslog = True", "syslog_log_level = INFO")
    assert wrapped.run("show").stdout == "ran\n"
