"""Nothing escapes a root, however an attacker renames what is beneath it.

He is a process of its own, which exchanges what stands at two names all the time, as
whoever may write the directory can.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
from typing import TYPE_CHECKING

import pytest
from rooted import NEW, OLD, Kernel, descriptor, on_kernels, root

import privsep

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

__all__ = ["descriptor", "root"]


_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


def exchange(one: bytes, other: bytes) -> None:
    """Exchange what two names stand for, in one step: renameat2(2)."""
    result = _libc.renameat2(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE)
    if result < 0:
        raise OSError(ctypes.get_errno(), "renameat2")


@contextlib.contextmanager
def attacker(one: Path, other: Path) -> Generator[None, None, None]:
    """Have a process exchange `one` and `other` all the time.

    It has a processor of its own, if there are two: many a kernel interrupts no system
    call for another process, and on one processor nothing would happen within one.
    """
    names = bytes(one), bytes(other)
    processors = os.sched_getaffinity(0)
    its = {min(processors)}
    pid = os.fork()
    if pid == 0:
        try:
            os.sched_setaffinity(0, its)
            while True:
                exchange(*names)
        finally:
            os._exit(1)
    os.sched_setaffinity(0, processors - its or its)
    try:
        yield
    finally:
        os.sched_setaffinity(0, processors)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture(params=["directory", "file"])
def link_attack(root: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A path of which one name is a link to outside, every other moment."""
    attacked, target = {
        "directory": ("sub", "../outside"),
        "file": ("sub/file", "../../outside/file"),
    }[request.param]
    link = (root / attacked).with_name("link")
    link.symlink_to(target)
    with attacker(root / attacked, link):
        yield "sub/file"


@pytest.fixture
def dots_attack(root: Path) -> Iterator[str]:
    """A path with '..', over a directory that is outside every other moment."""
    deep = "deep/" + "a/" * 20  # there and back takes the kernel some time
    (root / "sub" / deep).mkdir(parents=True)
    (root.parent / "outside" / deep).mkdir(parents=True)
    with attacker(root / "sub/deep", root.parent / "outside/deep"):
        yield f"sub/{deep}{'../' * 21}file"


def under_attack(
    open_it: Callable[[], int], expected: set[str], rounds: int = 10_000
) -> set[str]:
    """Open so many times, and on until all that is expected was seen.

    Returns: what was read, and the errno that were raised, by name.
    """
    seen: set[str] = set()
    while rounds > 0 or not expected <= seen:
        rounds -= 1
        try:
            descriptor = open_it()
        except OSError as error:
            seen.add(errno.errorcode[error.errno or 0])
        else:
            seen.add(os.read(descriptor, 16).decode())
            os.close(descriptor)
    return seen


def open_checked(root: Path, path: str) -> int:
    """Open a name that was checked, as many a service does."""
    name = os.path.realpath(root / path)
    if os.path.commonpath([name, root]) != str(root):
        raise OSError(errno.EXDEV, "outside")
    return os.open(name, os.O_RDONLY)


def test_a_checked_name_escapes(root: Path, link_attack: str) -> None:
    assert "outside" in under_attack(
        lambda: open_checked(root, link_attack), {"outside"}, 0
    )


@pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="nobody renames within a system call"
)
def test_dots_escape_an_ordinary_open(root: Path, dots_attack: str) -> None:
    assert "outside" in under_attack(
        lambda: os.open(root / dots_attack, os.O_RDONLY), {"outside"}, 0
    )


def test_nothing_escapes_by_a_link(descriptor: int, link_attack: str) -> None:
    expected = {"inside", "EXDEV"}
    seen = under_attack(
        lambda: privsep.open_beneath(descriptor, link_attack), expected, 100_000
    )
    assert seen - {"EAGAIN"} == expected  # EAGAIN: each try met with an exchange


def test_nothing_escapes_by_dots(descriptor: int, dots_attack: str) -> None:
    seen = under_attack(
        lambda: privsep.open_beneath(descriptor, dots_attack), {"inside"}, 100_000
    )
    assert seen - {"EAGAIN"} == {"inside"}


def test_nothing_escapes_by_a_link_without_openat2(
    descriptor: int, link_attack: str
) -> None:
    def attack() -> set[str]:
        return under_attack(
            lambda: privsep.open_beneath(descriptor, link_attack), {"inside"}
        )

    assert OLD.run(attack) <= {"inside", "ENOTDIR", "ELOOP"}


@on_kernels(NEW, OLD)
def test_nothing_escapes_a_held_path(
    root: Path, link_attack: str, kernel: Kernel
) -> None:
    marker = privsep.Beneath(root)

    def open_held() -> int:
        held, descriptor = marker.hold(link_attack)
        try:
            return os.open(str(held), os.O_RDONLY)
        finally:
            os.close(descriptor)

    seen = kernel.run(lambda: under_attack(open_held, {"inside"}))
    assert seen <= {"inside", "EXDEV", "ENOTDIR", "ELOOP", "EAGAIN"}
