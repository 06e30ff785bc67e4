"""A kill is for the process that was judged."""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING

import pytest
from rootwrap_attacks import STRANGER, is_refused, root_only, wrapped
from wrapping import NOT_ALLOWED, Wrapped, running

import scripts

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["wrapped"]


@pytest.fixture
def process(wrapped: Wrapped) -> Iterator[subprocess.Popen[bytes]]:
    """A process of another program than the filter's, with its name in its words."""
    program = wrapped.copy("cat", "other")
    with running(program, "-", "sleep") as other:
        yield other


@pytest.fixture
def killing(wrapped: Wrapped) -> Iterator[Wrapped]:
    wrapped.copy("sleep")
    yield wrapped
    (wrapped.bin / "sleep").unlink()


@pytest.mark.parametrize(
    "form",
    [
        "+{pid}",
        "-{pid}",
        "0{pid}",
        " {pid}",
        "{pid} ",
        "{pid}\n",
        "0x{pid:x}",
        "{pid}.0",
        "%{pid}",
        "{pid},1",
        "{pid} 1",
        "-1",
        "0",
        "-0",
        "1",
        "",
        "self",
        "999999999",
        "99999999999999999999",
    ],
)
def test_a_kill_is_for_one_pid(killing: Wrapped, form: str) -> None:
    with running(killing.bin / "sleep", "1000") as process:
        is_refused(killing, "kill", "-9", form.format(pid=process.pid))


@pytest.mark.parametrize(
    "signal_word",
    ["-15", "-TERM", "9", "KILL", "-SIGKILL", "-9 ", "-09", "--", "-s", "-l"],
)
def test_a_kill_has_one_of_the_filters_signals(
    killing: Wrapped, signal_word: str
) -> None:
    with running(killing.bin / "sleep", "1000") as process:
        is_refused(killing, "kill", signal_word, str(process.pid))
        with killing.judge("kill", "-9", str(process.pid)) as verdict:
            assert verdict.allowed


@pytest.mark.parametrize(
    "words", [["/bin/kill"], ["./kill"], ["kill", "-9"], ["kill", "-9", "-9"], ["KILL"]]
)
def test_a_kill_is_called_kill(killing: Wrapped, words: list[str]) -> None:
    with running(killing.bin / "sleep", "1000") as process:
        pid = str(process.pid)
        arguments = words[1:] or ["-9"]
        is_refused(killing, words[0], *arguments, pid, *([pid] if words[1:] else []))


def test_a_pid_that_another_process_has_by_now_is_not_signalled(
    killing: Wrapped,
) -> None:
    """The process that was judged ends before it is signalled."""
    with running(killing.bin / "sleep", "1000") as process:
        verdict = killing.judge("kill", "-9", str(process.pid))
        assert verdict.target is not None
        process.kill()
        process.wait()
        with pytest.raises(ProcessLookupError):
            signal.pidfd_send_signal(verdict.target.pidfd, 9)
        verdict.close()


_REUSED = """
import os, subprocess, sys
from privsep.rootwrap import load
from privsep.rootwrap.judge import judge
from privsep.rootwrap.run import run

first = subprocess.Popen(["sleep", "1000"])
verdict = judge(["kill", "-9", str(first.pid)], load(sys.argv[1]))
assert verdict.allowed, verdict.message
first.kill()
first.wait()
with open("/proc/sys/kernel/ns_last_pid", "w") as file:
    file.write(str(first.pid - 1))
second = subprocess.Popen(["sleep", "1000"])
print(second.pid == first.pid)
try:
    run(verdict, 1024)
except ProcessLookupError:
    print(second.poll())
second.kill()
second.wait()
"""


@root_only
def test_a_pid_that_is_anothers_by_now_is_not_signalled(tmp_path: Path) -> None:
    """Not even if the other runs the same program."""
    policy = Wrapped(tmp_path)
    policy.configure(directories=["/usr/bin", "/bin"])
    policy.allow("kill: KillFilter, root, sleep, -9")
    before = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    assert scripts.run(_REUSED, policy.config, before=before) == ["True", "None"]


@root_only
def test_a_program_that_a_stranger_may_exchange_stops_no_other_filter(
    tmp_path: Path,
) -> None:
    policy = Wrapped(tmp_path)
    place = tmp_path / "strangers"
    place.mkdir()
    shutil.copy("/bin/sleep", place / "sleep")
    os.chown(place, STRANGER, STRANGER)
    program = policy.copy("sleep")
    policy.allow(
        "one: KillFilter, root, @dir/strangers/sleep, -9",
        "two: KillFilter, root, @bin/sleep, -9",
    )
    with (
        running(program, "1000") as process,
        policy.judge("kill", "-9", str(process.pid)) as verdict,
    ):
        assert verdict.allowed


def test_a_process_that_has_ended_is_none_of_the_program(killing: Wrapped) -> None:
    with running(killing.bin / "sleep", "0") as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        is_refused(killing, "kill", "-9", str(process.pid))


@pytest.mark.parametrize(
    "zero", ["\N{ARABIC-INDIC DIGIT ZERO}", "\N{FULLWIDTH DIGIT ZERO}"]
)
def test_a_pid_has_the_digits_of_ascii(killing: Wrapped, zero: str) -> None:
    """Others are numbers to Python, and none to the kernel's names."""
    digits = {ord("0") + n: chr(ord(zero) + n) for n in range(10)}
    with running(killing.bin / "sleep", "1000") as process:
        is_refused(killing, "kill", "-9", str(process.pid).translate(digits))


def test_a_process_of_another_program_is_not_signalled(
    killing: Wrapped, process: subprocess.Popen[bytes]
) -> None:
    """Whatever its words are."""
    is_refused(killing, "kill", "-9", str(process.pid))


def test_what_another_process_runs_is_not_told(
    killing: Wrapped, process: subprocess.Popen[bytes]
) -> None:
    """Root sees that where the caller may not."""
    done = killing.run("kill", "-9", str(process.pid))
    assert done.returncode == NOT_ALLOWED
    assert f"process {process.pid} does not run {killing.bin}/sleep" in done.stderr
    assert os.readlink(f"/proc/{process.pid}/exe") not in done.stderr


def test_a_process_of_a_file_named_like_a_deleted_one_is_another(
    killing: Wrapped,
) -> None:
    fake = killing.copy("cat", "sleep (deleted)")
    with running(fake) as process:
        is_refused(killing, "kill", "-9", str(process.pid))


def test_a_copy_of_the_program_is_another_file(
    killing: Wrapped, tmp_path: Path
) -> None:
    copy = shutil.copy("/bin/sleep", tmp_path / "sleep")
    with running(copy, "1000") as process:
        is_refused(killing, "kill", "-9", str(process.pid))


@root_only
def test_a_program_that_a_stranger_may_exchange_names_no_process(
    killing: Wrapped, tmp_path: Path
) -> None:
    """Or he would make it a link to the program whose process he wants to end."""
    policy = Wrapped(tmp_path)
    place = tmp_path / "strangers"
    place.mkdir()
    (place / "program").symlink_to(killing.bin / "sleep")
    os.chown(place, STRANGER, STRANGER)
    policy.allow("kill: KillFilter, root, @dir/strangers/program, -9")
    with running(killing.bin / "sleep", "1000") as process:
        is_refused(policy, "kill", "-9", str(process.pid))
