"""A service with contexts whose daemons tests run in each of the ways."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import privsep

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Callable,
        Generator,
        Iterator,
    )

log = logging.getLogger("tested")
context = privsep.Context("tested", capabilities=[], workers=1, timeout=120.0)
threads = privsep.Context(
    "tested-threads", capabilities=[], isolation="thread", timeout=120.0
)
other = privsep.Context("tested-other", capabilities=[], timeout=120.0)
small = privsep.Context(
    "tested-small", capabilities=[], timeout=120.0, max_message=1000
)


class Shell(enum.Enum):
    SH = "/bin/sh"


@dataclasses.dataclass
class Account:
    name: str
    shell: Shell = Shell.SH


@context.entrypoint
def echo(value: object) -> object:
    return value


@context.entrypoint
def add(account: Account, password: privsep.Secret[str], *, uid: int = 0) -> Account:
    assert password.reveal()
    account.name += str(uid)
    return account


@context.entrypoint
def numbers(stop: int) -> Generator[int, None, str]:
    yield from range(stop)
    return "all"


@context.entrypoint
async def later(account: Account) -> Account:
    return account


@context.entrypoint
def fail(text: str) -> None:
    raise LookupError(text)


@context.entrypoint
def say(text: str) -> None:
    log.warning("%s", text)


@context.entrypoint
def call_echo(value: object) -> object:
    """Call an entrypoint of the same context, while the only worker is busy."""
    return [echo(value)]


@context.entrypoint
def call_other() -> object:
    return of_other()


@other.entrypoint
def of_other() -> str:
    return "other"


@small.entrypoint
def repeat(text: str, count: int) -> str:
    return text * count


@context.entrypoint(detach=True)
def detached() -> str:
    return "detached"


@context.entrypoint(timeout=0.2)
def read_briefly(pipe: privsep.Fd) -> None:
    """Run until nobody can write to `pipe`; its deadline is 0.2 seconds."""
    os.read(pipe.fileno(), 1)


@threads.entrypoint
def thread() -> int:
    return threading.get_native_id()


@context.entrypoint
def steps(path: Path) -> str:
    append(path, "first")
    append(path, "second")
    return "done"


@context.entrypoint
def steps_in_one(path: Path) -> Shell:
    return shell_after(append(path, "all"))  # type: ignore[func-returns-value]


def shell_after(written: None) -> Shell:
    del written
    return Shell.SH


@threads.entrypoint
def steps_in_thread(path: Path) -> str:
    append(path, "first")
    append(path, "second")
    return "done"


def append(path: Path, word: str) -> None:
    with path.open("a") as file:
        file.write(f"{word} ")


@context.entrypoint
def steps_yielded(path: Path) -> Iterator[str]:
    append(path, "first")
    append(path, "second")
    yield "item"


@context.entrypoint
async def steps_awaited(path: Path) -> str:
    append(path, "first")
    await asyncio.sleep(0)
    append(path, "second")
    return "done"


@context.entrypoint(window=0)
async def replies_later() -> AsyncGenerator[str, object]:
    said: object = None
    while said != "enough":
        try:
            said = yield f"heard {said!r}"
        except LookupError as error:
            said = error


@context.entrypoint
async def steps_yielded_later(path: Path) -> AsyncIterator[str]:
    append(path, "first")
    append(path, "second")
    yield "item"


@context.entrypoint
def process() -> int:
    return os.getpid()


@context.entrypoint
def user() -> tuple[int, str]:
    """Return what the kernel says of the worker: uid, and effective capabilities."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return os.getuid(), fields["CapEff"].strip()


broken = privsep.Context("tested-broken", capabilities=[])


@broken.entrypoint
def cannot_be_judged(value: Callable[[], None]) -> None:
    del value
