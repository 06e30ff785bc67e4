"""The life of rootwrap's daemon: what starts it, keeps it, and ends it."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest
from commanding import (
    LAUNCHER,
    Fifo,
    Shared,
    client_of,
    daemon_of,
    held,
    make_policy,
    own,
    said,
    shared,
    wait_until_gone,
)
from observe import WITHIN, wait_for_rest
from procfs import children
from wrapping import BAD_POLICY, NOT_ALLOWED, SWAYING

import privsep
import scripts
from privsep._client.pending import NotStarted, PendingCall
from privsep._daemon.idle import Idleness
from privsep._daemon.slots import Slots
from privsep.rootwrap import Client

__all__ = ["held", "own", "said", "shared"]


def test_the_first_command_starts_the_daemon(own: Shared) -> None:
    before = children(os.getpid())
    assert own.client.execute(["true"]).returncode == 0
    assert len(children(os.getpid())) == len(before) + 1


def test_running_commands_finish_when_the_daemon_is_told_to_end(
    own: Shared, said: Fifo, held: Fifo
) -> None:
    daemon = daemon_of(own.client)
    script = f"echo x > {said.path}; read x < {held.path}; echo done"
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(own.client.execute, ["sh", "-c", script])
        said.read()
        os.kill(daemon, signal.SIGTERM)
        while daemon_of(own.client) == daemon:  # it has not heard of that yet
            pass
        held.write()
        assert call.result() == (0, "done\n", "")
    wait_until_gone(daemon)


def test_a_call_ends_at_once_when_the_daemon_is_killed(
    own: Shared, said: Fifo, held: Fifo, tmp_path: Path
) -> None:
    """It is an error, and nothing runs twice; the next starts another daemon."""
    daemon = daemon_of(own.client)
    script = f"echo x >> {tmp_path}/ran; echo x > {said.path}; read x < {held.path}"
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(own.client.execute, ["sh", "-c", script])
        said.read()
        os.kill(daemon, signal.SIGKILL)
        with pytest.raises(privsep.DaemonGone):
            call.result()
    assert daemon_of(own.client) != daemon
    held.write()
    assert (tmp_path / "ran").read_text() == "x\n"


def test_who_waits_for_a_process_hears_that_the_daemon_was_killed(
    own: Shared, said: Fifo, held: Fifo
) -> None:
    daemon = daemon_of(own.client)
    script = f"read x < {held.path}; echo x > {said.path}"
    process = own.client.popen(["sh", "-c", script])
    os.kill(daemon, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(privsep.DaemonGone):
            process.wait()
    with pytest.raises(privsep.DaemonGone):
        process.poll()
    process.kill()
    held.write()
    assert said.read() == "x"


def test_a_command_that_was_not_begun_is_begun_by_the_next_daemon(own: Shared) -> None:
    """What the daemon has not seen may be sent again."""
    daemon = daemon_of(own.client)
    for number in (signal.SIGTERM, signal.SIGKILL):
        workers = children(daemon)
        os.kill(daemon, number)
        for pid in (daemon, *workers):
            wait_until_gone(pid)
        daemon = daemon_of(own.client)


def test_a_command_that_its_worker_did_not_begin_goes_to_another(
    own: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that retires says so, where it has read no whole call."""
    retired: list[PendingCall] = []
    result = PendingCall.result

    def retire_once(call: PendingCall) -> object:
        if retired:
            return result(call)
        retired.append(call)
        call.abandon()
        raise NotStarted

    monkeypatch.setattr(PendingCall, "result", retire_once)
    assert own.client.execute(["cat"], "x") == (0, "x", "")
    retired.clear()
    assert asyncio.run(own.client.aexecute(["cat"], "x")) == (0, "x", "")
    retired.clear()
    assert own.client.popen(["other"]).wait() == NOT_ALLOWED


def test_who_lets_go_of_a_process_gives_its_place_to_whoever_waits_for_one(
    tmp_path: Path, held: Fifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privsep.rootwrap.client.MAX_WORKERS", 1)
    with client_of(make_policy(tmp_path)) as client:
        process = client.popen(["sh", "-c", f"read x < {held.path}"])
        waiting = threading.Thread(target=client.execute, args=(["true"],))
        waiting.start()
        wait_for_rest(cast("int", waiting.native_id))
        del process
        gc.collect()
        waiting.join(WITHIN)
        held.write()
        assert not waiting.is_alive()


def test_an_idle_daemon_ends_and_is_started_again(tmp_path: Path) -> None:
    wrapped = make_policy(tmp_path, "daemon_timeout = 1")
    with client_of(wrapped) as client:
        daemon = daemon_of(client)
        wait_until_gone(daemon)
        assert daemon_of(client) != daemon


def test_a_daemon_that_runs_a_command_is_not_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = itertools.count()
    monkeypatch.setattr("privsep._daemon.idle.monotonic", lambda: next(seconds))
    slots = Slots(2)
    slot = slots.slot(slots.take())
    idleness = Idleness(slots, 4.0)
    slot.begin(math.inf)
    assert not any(idleness.is_over() for _ in range(20))
    slot.end()
    idle = [idleness.is_over() for _ in range(6)]
    assert idle[:4] == [False] * 4  # the first look is that which saw the end
    assert any(idle)
    slots.close_reader()
    os.close(slot._writer or -1)


def test_commands_outlive_the_client(own: Shared, said: Fifo, held: Fifo) -> None:
    script = f"read x < {held.path}; echo x > {said.path}"
    scripts.run(
        """
        import sys
        from privsep.rootwrap import Client
        client = Client(sys.argv[1:3])
        client.popen(["sh", "-c", sys.argv[3]], stdout=0, stderr=0)
        """,
        LAUNCHER,
        own.wrapped.config,
        script,
    )
    held.write()
    assert said.read() == "x"


def test_a_client_that_is_used_no_more_lets_the_daemon_go(tmp_path: Path) -> None:
    client = client_of(make_policy(tmp_path))
    daemon = daemon_of(client)
    del client
    gc.collect()
    wait_until_gone(daemon)


def test_a_client_may_be_used_again_after_it_was_closed(own: Shared) -> None:
    daemon = daemon_of(own.client)
    own.client.close()
    assert not Path(f"/proc/{daemon}").exists()
    assert daemon_of(own.client) != daemon


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "rootwrap.conf: it cannot be read: No such file or directory"),
        ("nothing\n", "rootwrap.conf:1: "),
        ("[DEFAULT]\n", "rootwrap.conf: filters_path is missing"),
    ],
)
def test_a_daemon_without_a_policy_does_not_start(
    tmp_path: Path, text: str | None, said: str
) -> None:
    config = tmp_path / "rootwrap.conf"
    if text is not None:
        config.write_text(text)
    client = Client([LAUNCHER, str(config)])
    with pytest.raises(privsep.StartError) as raised:
        client.execute(["true"])
    assert said in str(raised.value)
    assert "it ended with status 97" in str(raised.value)
    assert LAUNCHER in str(raised.value)


def test_a_policy_that_others_may_write_starts_no_daemon(tmp_path: Path) -> None:
    wrapped = make_policy(tmp_path)
    (wrapped.filters / "test.filters").chmod(0o666)
    with pytest.raises(privsep.StartError, match="mode 0666"):
        client_of(wrapped).execute(["true"])


@pytest.mark.parametrize("arguments", [[], ["a", "b"]])
def test_the_daemon_takes_one_argument(arguments: list[str]) -> None:
    done = subprocess.run(
        [LAUNCHER, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == BAD_POLICY
    assert done.stderr.startswith("privsep-rootwrap: usage: privsep-rootwrap-daemon")


def test_the_daemon_is_started_by_a_client_only(shared: Shared) -> None:
    done = subprocess.run(
        [LAUNCHER, shared.wrapped.config],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "standard input is not a control socket: privsep starts this program\n"
    )


def test_what_was_skipped_in_the_policy_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrapped = make_policy(tmp_path)
    wrapped.allow("odd: DnsmasqFilter, /x, root", "true: CommandFilter, true, @me")
    with client_of(wrapped) as client:
        assert client.execute(["true"]).returncode == 0
    assert "odd is skipped: no filter class 'DnsmasqFilter'" in caplog.text


@pytest.mark.parametrize(("name", "value"), SWAYING.items())
def test_no_variable_of_the_starter_sways_the_daemon(
    shared: Shared, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with client_of(shared.wrapped) as client:
        done = client.execute(["sh", "-c", "echo $0; env", "ü"])
    first, *variables = done.stdout.splitlines()
    assert first == "ü"
    names = {line.partition("=")[0] for line in variables}
    assert names == {"PATH", "HOME", "LOGNAME", "USER", "PWD"}
