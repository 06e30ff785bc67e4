"""Commands by way of rootwrap's client: as of subprocess."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from commanding import (
    LAUNCHER,
    NEVER,
    TIMEOUTS,
    Fifo,
    Shared,
    client,
    held,
    own,
    said,
    shared,
    shell,
    wait_until_gone,
    worker_of,
)
from observe import wait_for_rest
from procfs import children
from wrapping import BAD_POLICY, ENDS_WITHIN, NO_COMMAND, NO_EXECUTABLE, NOT_ALLOWED

import privsep
import scripts
from privsep._client.readiness import wait_until
from privsep.rootwrap import Client, Process

if TYPE_CHECKING:
    from collections.abc import Callable
    from selectors import BaseSelector

__all__ = ["client", "held", "own", "said", "shared", "shell"]


# execute


def test_a_command_runs_with_its_words(client: Client) -> None:
    words = ["show", "one two", "", "*", "ü\udcff", "-x"]
    assert client.execute(words) == (0, "ran\none two\n\n*\nü\udcff\n-x\n", "")


def test_words_may_be_bytes_and_paths(client: Client) -> None:
    done = client.execute([b"show", Path("/a"), b"\xff"])
    assert done.stdout == "ran\n/a\n\udcff\n"


def test_a_text_is_no_command(client: Client) -> None:
    with pytest.raises(ValueError, match="must be a sequence of words"):
        client.execute("show")
    with pytest.raises(ValueError, match="must be a sequence of words"):
        Client("sudo privsep-rootwrap-daemon")


def test_output_and_errors_come_apart(client: Client, shell: str) -> None:
    done = client.execute([shell, "-c", "echo out; echo err >&2; exit 7"])
    assert done == (7, "out\n", "err\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


@pytest.mark.parametrize(
    ("given", "got"),
    [("ü\udcff", "ü\udcff"), (b"\xc3\xbc\xff\0", "ü\udcff\0"), ("", "")],
)
def test_a_command_reads_what_it_is_given(
    client: Client, given: str | bytes, got: str
) -> None:
    assert client.execute(["cat"], given) == (0, got, "")


def test_a_command_that_is_given_nothing_reads_nothing(
    client: Client, shell: str
) -> None:
    done = client.execute([shell, "-c", "readlink /proc/self/fd/0; cat"])
    assert done == (0, "/dev/null\n", "")


def test_megabytes_go_both_ways_at_once(client: Client) -> None:
    text = "0123456789abcdef" * (1 << 17)
    script = "tee /dev/stderr"
    assert client.execute(["sh", "-c", script], text) == (0, text, text)


def test_a_command_need_not_read_all_that_it_is_given(client: Client) -> None:
    assert client.execute(["sh", "-c", "exit 3"], "x" * (1 << 20)) == (3, "", "")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["other"], NOT_ALLOWED),
        ([""], NOT_ALLOWED),
        (["show", "a\0b"], NOT_ALLOWED),
        (["gone"], NO_EXECUTABLE),
        (["nobodys"], BAD_POLICY),
        ([], NO_COMMAND),
    ],
)
def test_what_does_not_run_has_a_status_and_no_output(
    shared: Shared, words: list[str], status: int
) -> None:
    shared.wrapped.script("nobodys")
    assert shared.client.execute(words) == (status, "", "")
    process = shared.client.popen(words)
    assert process.returncode == status


@pytest.mark.parametrize("name", ["broken", "forked-broken"])
def test_what_cannot_be_executed_has_a_status_and_no_output(
    own: Shared, name: str
) -> None:
    own.wrapped.script(name, text="no first line\n")
    own.wrapped.allow(
        f"{name}: CommandFilter, {name}, @me",
        *("[Options forked-broken]", "no_new_privs = true") * (name != "broken"),
    )
    assert own.client.execute([name]) == (NO_EXECUTABLE, "", "")
    assert own.client.popen([name]).wait() == NO_EXECUTABLE


def test_a_signal_is_a_negative_status(client: Client, shell: str) -> None:
    done = client.execute([shell, "-c", "echo x; kill -KILL $$"])
    assert done == (-signal.SIGKILL, "x\n", "")


def test_why_nothing_runs_is_logged(
    own: Shared, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "privsep.rootwrap"):
        own.client.execute(["other"])
        own.client.close()
    assert "'other' is not allowed: no filter is for 'other'" in caplog.text


# popen


def test_a_command_has_the_very_descriptors_that_it_is_given(
    client: Client, shell: str, tmp_path: Path
) -> None:
    names = [tmp_path / name for name in ("in", "out", "err")]
    (tmp_path / "in").write_text("given")
    with (
        names[0].open() as stdin,
        names[1].open("w") as stdout,
        names[2].open("w") as stderr,
    ):
        process = client.popen(
            [shell, "-c", "readlink /proc/$$/fd/0; cat; echo err >&2"],
            stdin=stdin,
            stdout=stdout.fileno(),
            stderr=stderr,
        )
        assert process.wait() == 0
    assert names[1].read_text() == f"{names[0]}\ngiven"
    assert names[2].read_text() == "err\n"


def test_a_command_that_is_given_no_descriptors_has_the_callers(own: Shared) -> None:
    lines = scripts.run(
        """
        import sys
        from privsep.rootwrap import Client
        with Client(sys.argv[1:]) as client:
            print("before", flush=True)
            client.popen(["sh", "-c", "echo $0 $1; cat", "a", "b"]).wait()
            print("after")
        """,
        LAUNCHER,
        own.wrapped.config,
    )
    assert lines == ["before", "a b", "after"]


def test_output_streams(client: Client) -> None:
    reader, writer = os.pipe()
    stdin, ours = os.pipe()
    with (
        open(reader) as output,
        client.popen(["cat"], stdin=stdin, stdout=writer) as process,
    ):
        os.close(writer)
        os.close(stdin)
        for line in ("one\n", "two\n"):
            os.write(ours, line.encode())
            assert output.readline() == line
            assert process.poll() is None
        os.close(ours)
        assert output.read() == ""
        assert process.wait() == process.poll() == process.returncode == 0


@pytest.mark.parametrize("what", ["closed", "none", "negative"])
def test_what_is_no_open_descriptor_is_an_error_at_once(
    client: Client, what: str
) -> None:
    number = os.open("/dev/null", os.O_RDONLY)
    os.close(number)
    given = {"closed": number, "none": "x", "negative": subprocess.PIPE}[what]
    with pytest.raises((OSError, ValueError, AttributeError)):
        client.popen(["true"], stdout=given)  # type: ignore[arg-type]
    assert client.execute(["true"]).returncode == 0


@pytest.mark.parametrize(
    ("send", "number"),
    [
        (Process.terminate, signal.SIGTERM),
        (Process.kill, signal.SIGKILL),
        (lambda process: process.send_signal(signal.SIGUSR1), signal.SIGUSR1),
        (lambda process: process.send_signal(40), 40),
    ],
)
def test_a_signal_reaches_the_command(
    client: Client, shell: str, send: Callable[[Process], None], number: int
) -> None:
    process = client.popen([shell, "-c", "read x"], stdin=NEVER)
    assert process.poll() is None
    send(process)
    assert process.wait() == -number
    send(process)  # nobody gets it
    assert process.returncode == -number


def test_a_command_is_executed_when_popen_returns(own: Shared, shell: str) -> None:
    """It is a process of its own before, of the worker's program."""
    for _ in range(20):
        worker = worker_of(own.client)
        process = own.client.popen([shell, "-c", "read x"], stdin=NEVER)
        (pid,) = children(worker)
        assert os.readlink(f"/proc/{pid}/exe") != os.readlink(f"/proc/{worker}/exe")
        process.kill()
        assert process.wait() == -signal.SIGKILL


def test_there_must_be_such_a_signal(client: Client) -> None:
    process = client.popen(["sh", "-c", "read x"], stdin=NEVER)
    for number in (0, -9, 99):
        with pytest.raises(ValueError, match=f"there is no signal {number}"):
            process.send_signal(number)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_waiting_may_be_bounded(client: Client) -> None:
    process = client.popen(["cat"], stdin=NEVER)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.kill()
    assert process.wait(ENDS_WITHIN) == -signal.SIGKILL


def test_one_thread_waits_and_another_kills(client: Client) -> None:
    process = client.popen(["cat"], stdin=NEVER)
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(process.wait) for _ in range(2)]
        process.kill()
        assert [each.result() for each in waiting] == [-signal.SIGKILL] * 2


def test_a_process_shows_its_command(own: Shared) -> None:
    process = own.client.popen(["sh", "-c", "exit 3"])
    process.wait()
    assert repr(process) == "<Process ['sh', '-c', 'exit 3'], returncode 3>"


def test_a_command_goes_on_when_nobody_uses_it(
    own: Shared, said: Fifo, held: Fifo
) -> None:
    process = own.client.popen(
        ["sh", "-c", f"read x < {held.path}; echo x > {said.path}"]
    )
    del process
    held.write()
    assert said.read() == "x"


# How long


def test_a_command_that_takes_too_long_is_killed_with_its_group(
    client: Client, shell: str, said: Fifo
) -> None:
    script = f"sleep 1000 & echo $! > {said.path}; wait"
    for timeout in TIMEOUTS:
        with pytest.raises(privsep.CallTimeout, match=f"did not end in {timeout:g} s"):
            client.execute([shell, "-c", script], timeout=timeout)
        if said.has_come():
            break
    for pid in said.read().split():  # one that was killed late may have come so far
        wait_until_gone(int(pid))


def test_a_client_that_stands_still_is_late_and_kills_its_command_all_the_same(
    own: Shared, monkeypatch: pytest.MonkeyPatch, said: Fifo, held: Fifo
) -> None:
    """The engine's deadline is not earlier: the command would outlive its worker."""

    def wait_and_stand_still(selector: BaseSelector, deadline: float) -> object:
        ready = wait_until(selector, deadline)
        threading.Event().wait(1.5)
        return ready

    client = own.client
    client.execute(["true"])
    script = f"echo $$ > {said.path}; read x < {held.path}"
    monkeypatch.setattr("privsep.rootwrap.client.wait_until", wait_and_stand_still)
    for timeout in TIMEOUTS:
        with pytest.raises(privsep.CallTimeout, match=f"did not end in {timeout:g} s"):
            client.execute(["sh", "-c", script], timeout=timeout)
        if said.has_come():
            break
    for pid in said.read().split():
        wait_until_gone(int(pid))


def test_a_timeout_ends_a_judge_that_finds_no_end(
    own: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pattern that takes for ever holds one worker, for the caller's time."""
    monkeypatch.setattr("privsep.rootwrap.running._GRACE", 0.1)
    client = own.client
    with pytest.raises(privsep.CallTimeout):
        client.execute(["slow", "a" * 64 + "b"], timeout=0.05)
    assert client.execute(["true"], timeout=ENDS_WITHIN).returncode == 0


def test_an_interrupt_kills_the_command_that_is_waited_for(
    own: Shared, said: Fifo
) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    def send() -> None:
        pids.append(int(said.read()))
        wait_for_rest(os.getpid())
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    thread = threading.Thread(target=send)
    pids: list[int] = []
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            script = f"echo $$ > {said.path}; exec sleep 1000"
            own.client.execute(["sh", "-c", script])
    finally:
        signal.signal(signal.SIGUSR1, before)
        thread.join()
    wait_until_gone(pids[0])
