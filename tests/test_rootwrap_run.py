"""How a command runs: as whom, with what, and what the program ends with."""

from __future__ import annotations

import os
import pwd
import resource
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from conftest import IS_ROOT
from forks import in_child
from observe import Forked
from wrapping import (
    BAD_POLICY,
    ENDS_WITHIN,
    ME,
    NO_COMMAND,
    NO_EXECUTABLE,
    NOT_ALLOWED,
    PROGRAM,
    Wrapped,
    trusted_python,
)

from privsep.rootwrap.judge import judge
from privsep.rootwrap.run import run

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = 65534
_ROOT_ONLY = pytest.mark.skipif(not IS_ROOT, reason="only root may become another")


@pytest.fixture
def wrapped(tmp_path: Path) -> Wrapped:
    wrapped = Wrapped(tmp_path)
    wrapped.configure(directories=["/usr/bin", "/bin"])
    wrapped.script("show")
    wrapped.allow(
        *[
            f"{name}: CommandFilter, {name}, @me"
            for name in ("show", "sh", "env", "cat", "true", "gone", "pwd", "id")
        ]
    )
    return wrapped


def _status(text: str) -> dict[str, str]:
    """Return the fields of a status file."""
    return {
        name: value.strip()
        for name, _, value in (line.partition(":") for line in text.splitlines())
    }


# What it ends with


def test_a_command_runs_with_its_words(wrapped: Wrapped) -> None:
    done = wrapped.run("show", "one two", "", "*", "ü\udcff", "-x")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "ran\none two\n\n*\nü\udcff\n-x\n"


def test_it_ends_with_the_status_of_the_command(wrapped: Wrapped) -> None:
    assert wrapped.run("sh", "-c", "exit 7").returncode == 7


def test_it_ends_by_the_signal_of_the_command(wrapped: Wrapped) -> None:
    """A shell calls that 128 + signal."""
    script = ["-c", "kill -TERM $$"]
    assert wrapped.run("sh", *script).returncode == -signal.SIGTERM
    done = wrapped.run("sh", *script, before=["sh", "-c", '"$@"; exit $?', "sh"])
    assert done.returncode == 128 + signal.SIGTERM


def test_the_command_takes_the_place_of_the_program(wrapped: Wrapped) -> None:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", PROGRAM, wrapped.config, "sh", "-c", "echo $$"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        said, _ = process.communicate(timeout=ENDS_WITHIN)
    assert int(said) == process.pid


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("other",), NOT_ALLOWED, "'other' is not allowed: no filter is for 'other'"),
        (("",), NOT_ALLOWED, "it is empty"),
        (("gone",), NO_EXECUTABLE, "there is no executable gone"),
        ((), NO_COMMAND, "no command is given"),
    ],
)
def test_what_does_not_run_is_said_in_one_line(
    wrapped: Wrapped, words: tuple[str, ...], status: int, said: str
) -> None:
    done = wrapped.run(*words)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("privsep-rootwrap: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_the_usage_is_told_to_who_asks(wrapped: Wrapped, word: str) -> None:
    done = wrapped.call(word)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: privsep-rootwrap CONFIG COMMAND...")


def test_no_arguments_at_all_are_no_command(wrapped: Wrapped) -> None:
    assert wrapped.call().returncode == NO_COMMAND


def test_a_file_that_cannot_be_executed_is_said_to_be(wrapped: Wrapped) -> None:
    wrapped.script("broken", text="no first line\n")
    wrapped.script("lost", text="#!/nowhere/interpreter\n")
    wrapped.allow("a: CommandFilter, broken, @me", "b: CommandFilter, lost, @me")
    done = wrapped.run("broken")
    assert (done.returncode, done.stdout) == (NO_EXECUTABLE, "")
    assert "Exec format error" in done.stderr
    done = wrapped.run("lost")
    assert (done.returncode, done.stdout) == (NO_EXECUTABLE, "")
    assert "No such file" in done.stderr


def test_a_user_who_does_not_exist_is_a_bad_policy(wrapped: Wrapped) -> None:
    wrapped.allow("show: CommandFilter, show, nobody-of-that-name")
    done = wrapped.run("show")
    assert (done.returncode, done.stdout) == (BAD_POLICY, "")
    assert "test.filters:2" in done.stderr
    assert "'nobody-of-that-name'" in done.stderr


@pytest.mark.skipif(IS_ROOT, reason="root may become any user")
def test_who_may_not_become_the_user_runs_nothing(wrapped: Wrapped) -> None:
    wrapped.allow("show: CommandFilter, show, root")
    done = wrapped.run("show")
    assert (done.returncode, done.stdout) == (NO_EXECUTABLE, "")
    uid = os.geteuid()
    assert f"the filter wants root, this process is uid {uid}" in done.stderr


@_ROOT_ONLY
def test_whoever_is_not_root_is_told_whom_the_filter_wants(wrapped: Wrapped) -> None:
    wrapped.allow("show: CommandFilter, show, root")
    with wrapped.judge("show") as verdict:

        def run_as_another() -> str:
            os.setresuid(NOBODY, NOBODY, NOBODY)
            with pytest.raises(PermissionError) as caught:
                run(verdict, 1024)
            return str(caught.value)

        said = in_child(run_as_another)
    assert said == f"the filter wants root, this process is uid {NOBODY}"


def test_an_unknown_class_is_skipped_with_a_warning(wrapped: Wrapped) -> None:
    wrapped.allow("odd: DnsmasqFilter, /x, root", "show: CommandFilter, show, @me")
    done = wrapped.run("show")
    assert done.stdout == "ran\n"
    assert "test.filters:2: odd is skipped" in done.stderr
    assert "'DnsmasqFilter'" in done.stderr


# As whom


@_ROOT_ONLY
def test_a_command_gets_the_uid_gid_and_groups_of_its_user(
    wrapped: Wrapped, unprivileged_user: str
) -> None:
    wrapped.allow(f"cat: CommandFilter, cat, {unprivileged_user}")
    entry = pwd.getpwnam(unprivileged_user)
    done = wrapped.run("cat", "/proc/self/status", extra_groups=[4, 5])
    status = _status(done.stdout)
    assert status["Uid"].split() == [str(entry.pw_uid)] * 4
    assert status["Gid"].split() == [str(entry.pw_gid)] * 4
    assert status["Groups"].split() == [str(entry.pw_gid)]
    assert int(status["CapPrm"], 16) == 0
    assert int(status["CapEff"], 16) == 0


@_ROOT_ONLY
def test_a_command_for_root_has_the_groups_of_root(wrapped: Wrapped) -> None:
    done = wrapped.run("cat", "/proc/self/status", extra_groups=[4, 5], group=6)
    status = _status(done.stdout)
    assert status["Gid"].split() == ["0"] * 4
    groups = os.getgrouplist("root", 0)
    assert {*map(int, status["Groups"].split())} == {*groups}


def test_a_command_knows_who_its_user_is(wrapped: Wrapped) -> None:
    entry = pwd.getpwnam(ME)
    done = wrapped.run("env", variables={"HOME": "/tmp", "USER": "x", "LOGNAME": "y"})
    assert {f"HOME={entry.pw_dir}", f"USER={ME}", f"LOGNAME={ME}"} <= {
        *done.stdout.splitlines()
    }


# With what


def test_a_binary_is_the_one_that_was_judged(wrapped: Wrapped) -> None:
    program = wrapped.copy("cat", "program")
    wrapped.allow("program: CommandFilter, program, @me")
    reader, writer = os.pipe()
    verdict = judge(["program", "/proc/self/status"], wrapped.load())
    program.unlink()
    wrapped.script("program", text="#!/bin/sh\necho another\n")
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 1)
        run(verdict, 1024)
    os.close(writer)
    verdict.close()
    with open(reader) as file:
        said = file.read()
    assert os.waitpid(pid, 0)[1] == 0
    assert "another" not in said
    assert _status(said)["Pid"] == str(pid)


def test_a_script_is_found_where_it_was_judged(wrapped: Wrapped) -> None:
    """Its interpreter has to open it: not by a link that leads elsewhere by now."""
    real = wrapped.directory / "real"
    real.mkdir(mode=0o755)
    wrapped.script("script", text='#!/bin/sh\necho "$0"\n')
    (wrapped.bin / "script").rename(real / "script")
    (wrapped.bin / "script").symlink_to(real / "script")
    wrapped.allow("script: CommandFilter, script, @me")
    assert wrapped.run("script").stdout == f"{real}/script\n"


def test_a_binary_is_told_the_path_that_was_found(wrapped: Wrapped) -> None:
    wrapped.copy("cat", "program")
    (wrapped.bin / "alias").symlink_to("program")
    wrapped.allow("alias: CommandFilter, alias, @me")
    done = wrapped.run("alias", "/proc/self/cmdline")
    assert done.stdout.split("\0")[0] == f"{wrapped.bin}/alias"


@_ROOT_ONLY
def test_an_executable_that_nobody_may_read_runs(wrapped: Wrapped) -> None:
    program = wrapped.copy("true", "program")
    program.chmod(0o111)
    wrapped.allow("program: CommandFilter, program, @me")
    assert wrapped.run("program").returncode == 0


def test_the_environment_is_the_path_and_the_user(wrapped: Wrapped) -> None:
    done = wrapped.run("env", variables={"A": "1", "PATH": "/tmp"})
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert names == {"PATH", "HOME", "LOGNAME", "USER"}
    assert f"PATH={wrapped.bin}:/usr/bin:/bin" in done.stdout.splitlines()


def test_without_exec_dirs_they_are_the_systems(wrapped: Wrapped) -> None:
    wrapped.config.write_text(f"[DEFAULT]\nfilters_path={wrapped.filters}\n")
    done = wrapped.run("env", variables={"PATH": str(wrapped.bin)})
    # /usr/local is of the staff on many a system.
    paths = [
        f"PATH={local}/usr/sbin:/usr/bin:/sbin:/bin"
        for local in ("/usr/local/sbin:/usr/local/bin:", "")
    ]
    assert {*paths} & {*done.stdout.splitlines()}
    assert wrapped.run("show").returncode == NO_EXECUTABLE


def test_an_env_filter_adds_its_variables(wrapped: Wrapped) -> None:
    wrapped.allow("env: EnvFilter, env, @me, A=, PATH=, env")
    done = wrapped.run("env", "A=one two", "PATH=/x", "env")
    assert {"A=one two", "PATH=/x"} < {*done.stdout.splitlines()}


def test_standard_streams_are_the_callers(wrapped: Wrapped) -> None:
    done = wrapped.run("cat", input="in\udcff put")
    assert done.stdout == "in\udcff put"


def test_the_command_runs_where_the_caller_is(wrapped: Wrapped) -> None:
    assert wrapped.run("pwd", cwd="/usr").stdout == "/usr\n"


def test_the_command_has_the_standard_descriptors_and_no_other(
    wrapped: Wrapped,
) -> None:
    with (wrapped.directory / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        done = wrapped.run("sh", "-c", "ls /proc/$$/fd", close_fds=False)
    assert done.stdout.split() == ["0", "1", "2"]


@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1", "0 1 2"])
def test_a_standard_descriptor_that_is_closed_is_null_to_the_command(
    wrapped: Wrapped, closed: str
) -> None:
    """Or what it opened next would be its output."""
    out = wrapped.directory / "out"
    closing = " ".join(f"{number}<&-" for number in closed.split())
    listing = "for n in 0 1 2; do readlink /proc/$$/fd/$n; done > " + str(out)
    done = wrapped.run(
        *("sh", "-c", listing), before=["sh", "-c", f'exec "$@" {closing}', "sh"]
    )
    assert done.returncode == 0
    streams = out.read_text().splitlines()
    # The listing's own output is the file.
    for number in {*closed.split()} - {"1"}:
        assert streams[int(number)] == "/dev/null"


def test_signals_that_python_ignores_are_as_ever_in_the_command(
    wrapped: Wrapped,
) -> None:
    status = _status(wrapped.run("cat", "/proc/self/status").stdout)
    ignored = int(status["SigIgn"], 16)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        assert not ignored >> (number - 1) & 1


@pytest.mark.parametrize(
    ("before", "after"), [("000", "0022"), ("022", "0022"), ("077", "0077")]
)
def test_no_umask_lets_others_write_what_the_command_makes(
    wrapped: Wrapped, before: str, after: str
) -> None:
    done = wrapped.run(
        *("sh", "-c", "umask"),
        before=["sh", "-c", f'umask {before}; exec "$@"', "sh"],
    )
    assert done.stdout == f"{after}\n"


@pytest.mark.parametrize(("most", "soft"), [(100, 100), (1 << 30, 300), (300, 300)])
def test_rlimit_nofile_lowers_the_soft_limit_only(
    wrapped: Wrapped, most: int, soft: int
) -> None:
    wrapped.configure(f"rlimit_nofile = {most}", directories=["/usr/bin", "/bin"])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    done = wrapped.run(
        *("sh", "-c", "ulimit -Sn; ulimit -Hn"),
        before=["sh", "-c", 'ulimit -Sn 300; exec "$@"', "sh"],
    )
    assert done.stdout.split() == [str(soft), str(hard)]


# What it gives up


def test_no_new_privs_for_all_commands(wrapped: Wrapped) -> None:
    directories = ["/usr/bin", "/bin"]
    assert _status(wrapped.run("cat", "/proc/self/status").stdout)["NoNewPrivs"] == "0"
    wrapped.configure("no_new_privs = true", directories=directories)
    assert _status(wrapped.run("cat", "/proc/self/status").stdout)["NoNewPrivs"] == "1"


def test_no_new_privs_for_one_command(wrapped: Wrapped) -> None:
    wrapped.allow(
        "Strict: RegExpFilter, cat, @me, cat, /proc/self/status",
        "loose: CommandFilter, cat, @me",
        "[Options Strict]",
        "no_new_privs = yes",
    )
    for word, expected in (("/proc/self/status", "1"), ("/proc/self/./status", "0")):
        status = _status(wrapped.run("cat", word).stdout)
        assert status["NoNewPrivs"] == expected


@_ROOT_ONLY
@pytest.mark.parametrize("user", ["root", "nobody"])
def test_a_command_has_the_capabilities_of_its_options_and_no_more(
    wrapped: Wrapped, user: str
) -> None:
    wrapped.allow(
        f"cat: CommandFilter, cat, {user}",
        "[Options cat]",
        "capabilities = CAP_NET_ADMIN, net_raw",
        "no_new_privs = true",
    )
    status = _status(wrapped.run("cat", "/proc/self/status").stdout)
    assert {int(status[f"Cap{name}"], 16) for name in ("Prm", "Eff", "Bnd")} == {
        1 << 12 | 1 << 13
    }
    assert status["Uid"].split() == [str(pwd.getpwnam(user).pw_uid)] * 4


@_ROOT_ONLY
def test_no_capabilities_are_none(wrapped: Wrapped) -> None:
    wrapped.configure("capabilities =", directories=["/usr/bin"])
    wrapped.allow("cat: CommandFilter, cat, root")
    status = _status(wrapped.run("cat", "/proc/self/status").stdout)
    assert {int(status[f"Cap{name}"], 16) for name in ("Prm", "Eff", "Bnd")} == {0}


@_ROOT_ONLY
def test_the_stricter_of_two_options_holds(wrapped: Wrapped) -> None:
    wrapped.configure("capabilities = net_admin, net_raw", directories=["/usr/bin"])
    wrapped.allow(
        "cat: CommandFilter, cat, root",
        *("[Options cat]", "capabilities = net_raw, chown"),
    )
    status = _status(wrapped.run("cat", "/proc/self/status").stdout)
    assert int(status["CapPrm"], 16) == 1 << 13


def test_a_command_that_takes_too_long_is_ended(wrapped: Wrapped) -> None:
    wrapped.configure(directories=["/usr/bin", "/bin"])
    wrapped.allow(
        "sleep: CommandFilter, sleep, @me", "[Options sleep]", "timeout = 0.05"
    )
    ignoring = "import os, signal as s, sys; s.signal(s.SIGALRM, s.SIG_IGN); "
    ignoring += "s.pthread_sigmask(s.SIG_BLOCK, [s.SIGALRM]); "
    ignoring += "os.execv(sys.argv[1], sys.argv[1:])"
    done = wrapped.run("sleep", "1000", before=[sys.executable, "-c", ignoring])
    assert done.returncode == -signal.SIGALRM


def test_a_time_that_is_over_before_the_command_begins_ends_it(
    wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if who calls ignores SIGALRM."""

    def set_and_stand_still(which: int, seconds: float) -> None:
        signal.setitimer(which, seconds)
        while signal.getitimer(which)[0]:
            pass

    monkeypatch.setattr("privsep.rootwrap.run.setitimer", set_and_stand_still)
    wrapped.allow("true: CommandFilter, true, @me", "[Options true]", "timeout = 0.01")
    with wrapped.judge("true") as verdict:

        def ignore_and_run() -> None:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            run(verdict, 1024)

        assert Forked(ignore_and_run).wait() == -signal.SIGALRM


def test_a_timer_of_the_caller_does_not_end_the_command(wrapped: Wrapped) -> None:
    setting = "import os, signal, sys; signal.setitimer(signal.ITIMER_REAL, 600); "
    setting += "os.execv(sys.argv[1], sys.argv[1:])"
    asking = "import signal; print(signal.getitimer(signal.ITIMER_REAL)[0])"
    program = trusted_python()
    wrapped.allow(f"python: CommandFilter, {program}, @me")
    before = [sys.executable, "-c", setting]
    assert wrapped.run(program, "-c", asking, before=before).stdout == "0.0\n"
