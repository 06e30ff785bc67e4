"""What type checkers say of calls; each `ignore` is an error that must be one.

An `ignore` that is not needed is an error, too (`warn_unused_ignores` of mypy's
strict mode, pyrightconfig.json), so this file passes only if both checkers see every
mistake here, and nothing else.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Generator,
    Iterator,
)
from typing import TYPE_CHECKING, Annotated, assert_type

import privsep

if TYPE_CHECKING:
    from collections.abc import (
        Callable,
    )
    from pathlib import Path

context = privsep.Context("typed", capabilities=[], validate="convert")


@context.entrypoint
def bare(message: str, count: int = 1, *, loud: bool = False) -> int:
    """Return a number."""
    return len(message) * count + loud


@context.entrypoint()
def called(message: str, /) -> list[str]:
    return [message]


@context.entrypoint(timeout=0.5, detach=True)
def with_options(*values: int, **more: str) -> None: ...


@context.entrypoint
def annotated(
    name: Annotated[str, privsep.Len(1, 64), privsep.Pattern("[a-z]+")],
    port: Annotated[int, privsep.Range(1, 65535)],
    path: Path | None = None,
) -> dict[str, int]:
    return {name: port}


@context.entrypoint
def log_in(password: privsep.Secret[str]) -> privsep.Secret[bytes]:
    return privsep.Secret(password.reveal().encode())


class Service:
    @staticmethod
    @context.entrypoint
    def of_class(value: int) -> str:
        return str(value)


def not_bare(value: float) -> float:
    return value


assert_type(bare("x"), int)
assert_type(bare("x", 2, loud=True), int)
assert_type(called("x"), list[str])
with_options(1, 2, three="3")
assert_type(annotated("x", 1), dict[str, int])
assert_type(log_in(privsep.Secret("x")).reveal(), bytes)
assert_type(privsep.Secret(1), privsep.Secret[int])
assert_type(Service.of_class(1), str)
assert_type(context.entrypoint(not_bare)(1.5), float)
assert_type(context.entrypoint(timeout=None)(not_bare)(1.5), float)

plain: Callable[[str], int] = bare
wrong_type: Callable[[bytes], int] = bare  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

bare()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
bare(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
bare("x", 1, True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
bare("x", loud="x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
bare("x", other=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
called(message="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
with_options("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
with_options(three=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
log_in("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Service.of_class("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
number: str = bare("x")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
context.entrypoint(timeout="x")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
privsep.Context("x", capabilities=[], validate="no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# -- generators and coroutines ---------------------------------------------------


@context.entrypoint
def iterate(stop: int) -> Iterator[int]:
    yield from range(stop)


@context.entrypoint(timeout=None, item_timeout=1.0, window=0)
def generate(stop: int) -> Generator[int, str, bytes]:
    yield stop
    return b""


@context.entrypoint
async def wait(seconds: float) -> str:
    return str(seconds)


@context.entrypoint
async def iterate_async(stop: int) -> AsyncIterator[int]:
    yield stop


@context.entrypoint
async def generate_async(stop: int) -> AsyncGenerator[int, str]:
    yield stop


async def in_a_loop() -> None:
    assert_type(await wait(1.0), str)
    assert_type(await privsep.aio(wait)(1.0), str)
    assert_type(await privsep.aio(bare)("x", loud=True), int)
    assert_type(iterate_async(1), AsyncIterator[int])
    assert_type(privsep.aio(iterate)(1), AsyncIterator[int])
    assert_type(privsep.aio(iterate_async)(1), AsyncIterator[int])
    assert_type(privsep.aio(generate)(1), AsyncGenerator[int, str])
    assert_type(privsep.aio(generate_async)(1), AsyncGenerator[int, str])
    assert_type(await generate_async(1).asend("x"), int)
    async for item in privsep.aio(iterate)(1):
        assert_type(item, int)
    await privsep.aio(bare)(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await privsep.aio(wait)()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    privsep.aio(iterate)("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await generate_async(1).asend(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


assert_type(iterate(1), Iterator[int])
assert_type(generate(1), Generator[int, str, bytes])
assert_type(generate(1).send("x"), int)
iterate("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
generate(1).send(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
wait("x")  # type: ignore[arg-type, unused-coroutine]  # pyright: ignore[reportArgumentType, reportUnusedCoroutine]
