"""Callers that run under trio: what a loop of asyncio's has, a loop of trio's has."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import awaited  # noqa: F401 - it adds its services
import pytest
import trio
from observe import Fifo, Release, held, patient_client
from service import services
from streaming import Color

import privsep

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import TypeAlias

    from awaited import Awaited

    Start: TypeAlias = Callable[..., Awaited]

__all__ = ["held", "patient_client"]

pytestmark = pytest.mark.usefixtures("patient_client")


@pytest.fixture(autouse=True)
def _threads_go_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trio keeps a thread for ten seconds, and the leak check waits for its end."""
    monkeypatch.setattr("trio._core._thread_cache.IDLE_TIMEOUT", 0.05)


@pytest.fixture
def service(start: Start) -> Awaited:
    """A started service with two process workers."""
    return start("awaited")


def in_loop(entrypoint: Callable[..., Any]) -> Callable[..., Any]:
    """Return what `aio` does, of an entrypoint of whichever kind."""
    made: Any = privsep.aio(entrypoint)
    return made  # type: ignore[no-any-return]


async def hold_until_cancelled(service: Awaited, held: Fifo) -> None:
    """Call a function that does not end, and cancel the call once it runs."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(privsep.aio(service.hold), held.path)
        await trio.to_thread.run_sync(held.read_line)
        nursery.cancel_scope.cancel()


def test_plain_and_coroutine_functions_are_awaited(
    service: Awaited, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text("content")

    async def main() -> None:
        for value in (1, [1, (2, {3})], b"x" * 100_000, bytes(3 << 20)):
            assert await privsep.aio(service.echo)(value) == value
        with pytest.raises(privsep.Refused, match="parameter number: expected"):
            await service.judged(7, Color.RED)
        with await in_loop(service.open_file)(str(path)) as file:
            assert file.read() == "content"

    trio.run(main)
    assert service.echo(1) == 1


def test_cancelling_the_scope_kills_the_worker(
    service: Awaited, tmp_path: Path
) -> None:
    async def main() -> None:
        for number in range(3):  # there are two workers
            with Fifo(tmp_path, f"held-{number}") as held:
                await hold_until_cancelled(service, held)
                await trio.to_thread.run_sync(held.wait_until_let_go)
        assert await privsep.aio(service.echo)(1) == 1

    trio.run(main)


def test_a_call_ends_by_its_deadline(service: Awaited, held: Fifo) -> None:
    async def main() -> None:
        with pytest.raises(privsep.CallTimeout, match=r"in time \(0\.3 s\)"):
            await privsep.aio(service.hold_briefly)(held.path)

    trio.run(main)
    held.wait_until_free()


def test_a_task_that_waits_for_a_worker_gets_the_one_that_is_free_first(
    service: Awaited,
) -> None:
    results: list[object] = []

    async def call(number: int) -> None:
        results.append(await privsep.aio(service.echo)(number))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(call, number)

    trio.run(main)
    assert sorted(map(int, map(str, results))) == list(range(50))


@pytest.mark.parametrize("name", ["count_async", "count"])
def test_items_come_in_order(service: Awaited, name: str) -> None:
    items = in_loop(getattr(service, name))

    async def main() -> None:
        assert [item async for item in items(500)] == list(range(500))

    trio.run(main)


def test_the_first_call_starts_the_daemon() -> None:
    service: Any = services["awaited"]

    async def main() -> None:
        assert await in_loop(service.echo)(1) == 1

    try:
        trio.run(main)
    finally:
        service.context.stop()


def test_a_task_that_is_cancelled_does_not_wait_for_the_start_of_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service: Any = services["awaited-late"]

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_loop(service.echo), 1)
            await trio.to_thread.run_sync(importing.read_line)
            nursery.cancel_scope.cancel()

    with Fifo(tmp_path, "begun") as importing, Release(tmp_path) as release:
        monkeypatch.setenv("PRIVSEP_TEST_BEGUN", importing.path)
        monkeypatch.setenv("PRIVSEP_TEST_GO_ON", release.path)
        trio.run(main)
    try:
        assert service.echo(2) == 2
    finally:
        service.context.stop()


def test_a_guest_of_asyncios_loop_is_trio(service: Awaited) -> None:
    async def guest() -> object:
        return await privsep.aio(service.echo)(1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        trio.lowlevel.start_guest_run(
            guest,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=ended.set_result,
        )
        outcome = await ended
        assert outcome.unwrap() == 1
        assert await privsep.aio(service.echo)(2) == 2

    asyncio.run(main())
