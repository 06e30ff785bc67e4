"""Many commands of one client at once: by threads, forks, event loops, greenlets."""

from __future__ import annotations

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from commanding import (
    LAUNCHER,
    NEVER,
    TIMEOUTS,
    Fifo,
    Shared,
    call_directly,
    daemon_of,
    held,
    own,
    reading,
    said,
    valid_arguments,
    wait_until_gone,
)
from observe import WITHIN
from procfs import children
from test_monkey_patched import EVENTLET, GEVENT
from wrapping import NOT_ALLOWED

import privsep
import scripts
from privsep.rootwrap import Process

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["held", "own", "said"]


# Threads and forks


def test_many_threads_run_commands_at_once(own: Shared, said: Fifo, held: Fifo) -> None:
    """None ends before all have begun."""
    script = f"echo $0 > {said.path}; read x < {held.path}; echo $0"
    with ThreadPoolExecutor(8) as threads:
        calls = [
            threads.submit(own.client.execute, ["sh", "-c", script, str(number)])
            for number in range(8)
        ]
        begun: set[str] = set()
        while len(begun) < 8:
            begun.update(said.read().split())
        for _ in calls:
            held.write()
        done = [each.result() for each in calls]
    assert done == [(0, f"{number}\n", "") for number in range(8)]


def test_each_thread_gets_its_own_output(own: Shared) -> None:
    def call(number: int) -> bool:
        text = f"{number}" * 1000
        return own.client.execute(["cat"], text) == (0, text, "")

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(call, range(80)))


def test_calls_leave_nothing_behind(own: Shared) -> None:
    """No descriptor in the client, the daemon or its worker; and no zombie."""

    def call() -> None:
        own.client.execute(["true"], "x")
        own.client.execute(["other"])
        own.client.execute(["forked", "-c", "exit 1"])
        own.client.popen(["true"]).wait()
        with pytest.raises(privsep.Refused):
            call_directly(own.client, ["true", *valid_arguments()[1:]])

    daemon = daemon_of(own.client)
    call()
    before = _held_by(daemon)
    for _ in range(20):
        call()
    assert _held_by(daemon) == before


def _held_by(daemon: int) -> list[int]:
    """Return how many descriptors and children this process and the daemon's have."""
    workers = children(daemon)
    pids = [os.getpid(), daemon, *workers]
    return [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids] + [
        len(children(pid)) for pid in pids[1:]
    ]


def test_a_forked_child_of_the_client_has_commands_of_its_own(own: Shared) -> None:
    with reading(own.client):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                if own.client.execute(["cat"], "x") == (0, "x", ""):
                    status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert own.client.execute(["cat"], "y") == (0, "y", "")


# asyncio and green threads


def test_commands_run_in_an_event_loop(own: Shared) -> None:
    async def main() -> None:
        client = own.client
        many = [client.aexecute(["cat"], f"{number}" * 100_000) for number in range(6)]
        for number, done in enumerate(await asyncio.gather(*many)):
            assert done == (0, f"{number}" * 100_000, "")
        assert await client.aexecute(["other"]) == (NOT_ALLOWED, "", "")
        process = client.popen(["cat"], stdin=NEVER)
        waiting = [asyncio.create_task(process.await_()) for _ in range(2)]
        await asyncio.sleep(0)
        process.kill()
        assert await asyncio.gather(*waiting) == [-signal.SIGKILL] * 2
        assert await process.await_() == -signal.SIGKILL

    asyncio.run(main())


@pytest.mark.parametrize("look", [Process.wait, Process.poll])
def test_a_task_waits_for_the_command_whose_end_a_thread_takes(
    own: Shared, look: Callable[[Process], object]
) -> None:
    def take_the_end(process: Process) -> None:
        while process.returncode is None:
            look(process)

    async def main() -> None:
        for _ in range(20):
            read_end, write_end = os.pipe()
            process = own.client.popen(["cat"], stdin=read_end)
            waiting = asyncio.create_task(process.await_())
            taking = asyncio.create_task(asyncio.to_thread(take_the_end, process))
            await asyncio.sleep(0)
            os.close(read_end)
            os.close(write_end)
            assert await waiting == 0
            await taking

    asyncio.run(asyncio.wait_for(main(), WITHIN))


def test_a_timeout_in_an_event_loop_kills_the_command(own: Shared, said: Fifo) -> None:
    script = f"sleep 1000 & echo $! > {said.path}; wait"

    async def main() -> None:
        for timeout in TIMEOUTS:
            with pytest.raises(privsep.CallTimeout, match=f"not end in {timeout:g} s"):
                await own.client.aexecute(["sh", "-c", script], timeout=timeout)
            if said.has_come():
                break

    asyncio.run(main())
    for pid in said.read().split():  # one that was killed late may have come so far
        wait_until_gone(int(pid))


def test_a_cancelled_task_kills_its_command(own: Shared, said: Fifo) -> None:
    script = f"echo $$ > {said.path}; exec sleep 1000"

    async def main() -> None:
        task = asyncio.create_task(own.client.aexecute(["sh", "-c", script]))
        pid = int(await asyncio.to_thread(said.read))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(wait_until_gone, pid)

    asyncio.run(main())


def test_a_task_that_is_cancelled_before_its_command_began_leaves_nothing(
    own: Shared,
) -> None:
    async def main() -> None:
        task = asyncio.create_task(own.client.aexecute(["sleep", "1000"]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_the_daemon_that_is_killed_ends_an_awaited_call(
    own: Shared, said: Fifo, held: Fifo
) -> None:
    daemon = daemon_of(own.client)

    async def main() -> None:
        script = f"echo x > {said.path}; read x < {held.path}"
        task = asyncio.create_task(own.client.aexecute(["sh", "-c", script]))
        await asyncio.to_thread(said.read)
        os.kill(daemon, signal.SIGKILL)
        with pytest.raises(privsep.DaemonGone):
            await task

    asyncio.run(main())
    held.write()


@pytest.mark.parametrize("patch", [GEVENT, EVENTLET], ids=["gevent", "eventlet"])
def test_a_patched_client_runs_commands(own: Shared, patch: str) -> None:
    lines = scripts.run(
        patch
        + """
import os, sys
from privsep.rootwrap import Client
with Client(sys.argv[1:]) as client:
    texts = [str(number) * 100_000 for number in range(6)]
    greens = [spawn(client.execute, ["cat"], text) for text in texts]
    print([wait(green) for green in greens] == [(0, text, "") for text in texts])
    reader, writer = os.pipe()
    process = client.popen(["cat"], stdin=reader)
    other = spawn(process.wait)
    pause(0)
    process.kill()
    print(wait(other), process.wait())
""",
        LAUNCHER,
        own.wrapped.config,
    )
    assert lines == ["True", "-9 -9"]
