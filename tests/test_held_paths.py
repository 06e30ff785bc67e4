"""Paths that are held: what was judged is what is used."""

from __future__ import annotations

import errno
import functools
import os
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import IS_ROOT
from rooted import Kernel, any_kernel, content, in_child, refusal, root

import privsep
from privsep._lockdown import attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["root"]


@pytest.fixture
def hold() -> Iterator[Callable[..., Any]]:
    """Return a function that holds a path until the test ends."""
    descriptors: list[int] = []

    def hold_path(root: Path, value: object, *, parent: bool = False) -> Any:
        held, descriptor = privsep.Beneath(root, parent=parent).hold(value)
        descriptors.append(descriptor)
        return held

    yield hold_path
    for descriptor in descriptors:
        os.close(descriptor)


@any_kernel
@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_a_held_path_is_of_the_kind_that_was_sent(
    root: Path, kind: Callable[[str], Any], kernel: Kernel
) -> None:
    def read_held() -> tuple[Any, int, str]:
        held: Any
        held, descriptor = privsep.Beneath(root).hold(kind("sub/file"))
        with open(held) as file:
            return held, descriptor, file.read()

    held, descriptor, text = kernel.run(read_held)
    assert held == kind(f"/proc/self/fd/{descriptor}")
    assert text == "inside"


def test_a_held_path_stays_what_was_judged(
    root: Path, hold: Callable[..., Any]
) -> None:
    held = hold(root, "sub/file")
    (root / "sub").rename(root / "moved")
    (root / "sub").symlink_to("../outside")
    assert Path(held).read_text() == "inside"
    with open(held, "w") as file:
        file.write("changed")
    assert (root / "moved/file").read_text() == "changed"
    assert (root.parent / "outside/file").read_text() == "outside"


def test_a_held_directory_can_be_listed(root: Path, hold: Callable[..., Any]) -> None:
    held = hold(root, Path("sub"))
    assert os.listdir(held) == ["file"]
    assert (held / "file").read_text() == "inside"
    assert content(held, "file") == "inside"
    assert refusal(held, "../file").errno == errno.EXDEV


def test_holding_neither_blocks_nor_needs_permission(
    root: Path, hold: Callable[..., Any]
) -> None:
    os.mkfifo(root / "fifo", 0)
    assert stat.S_ISFIFO(os.stat(hold(root, "fifo")).st_mode)


def test_a_program_can_be_given_a_held_path(
    root: Path, hold: Callable[..., Any]
) -> None:
    held = hold(root, Path("sub/file"))
    command = ["cat", held]
    assert subprocess.run(command, capture_output=True, check=False).returncode
    done = subprocess.run(
        command, pass_fds=[int(held.name)], capture_output=True, check=True
    )
    assert done.stdout == b"inside"


def test_a_process_that_is_not_dumpable_can_open_a_held_path(
    root: Path, hold: Callable[..., Any]
) -> None:
    held = hold(root, "sub/file")

    def read_undumpable() -> str:
        if IS_ROOT:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        attributes.forbid_dumping()
        return Path(held).read_text()

    assert in_child(read_undumpable) == "inside"


@pytest.mark.parametrize("value", [None, 1, True, ["file"], object()])
def test_what_is_no_path_is_not_held(root: Path, value: object) -> None:
    with pytest.raises(ValueError, match=f"not of type {type(value).__name__}"):
        privsep.Beneath(root).hold(value)


@any_kernel
@pytest.mark.parametrize("parent", [False, True])
def test_what_leaves_the_root_is_not_held(
    root: Path, parent: bool, kernel: Kernel
) -> None:
    (root / "link").symlink_to("../outside")
    marker = privsep.Beneath(root, parent=parent)

    def refused(path: str) -> OSError:
        with pytest.raises(OSError) as caught:
            marker.hold(path)
        return caught.value

    for path in ("../outside/file", "/etc/hostname", "/file", "link/file"):
        error = kernel.run(functools.partial(refused, path))
        assert error.errno in (errno.EXDEV, errno.ELOOP, errno.ENOTDIR)
        assert str(root) in str(error)


@pytest.mark.parametrize("root", ["var", "", "./var"])
def test_a_marker_needs_an_absolute_root(root: str) -> None:
    with pytest.raises(ValueError, match="is not absolute"):
        privsep.Beneath(root)


# -- held parents --------------------------------------------------------------


@any_kernel
@pytest.mark.parametrize("path", ["sub/new", "{root}/sub/new", "./sub//new", "new"])
def test_a_file_that_is_not_there_is_made_in_a_held_parent(
    root: Path, path: str, kernel: Kernel
) -> None:
    path = path.format(root=root)

    def make() -> object:
        held, descriptor = privsep.Beneath(root, parent=True).hold(path)
        Path(str(held)).write_text("made")
        os.close(descriptor)
        return held

    assert kernel.run(make).endswith("/new")
    assert (root / path).read_text() == "made"


def test_a_held_parent_stays_what_was_judged(
    root: Path, hold: Callable[..., Any]
) -> None:
    held = hold(root, "sub/new", parent=True)
    (root / "sub").rename(root / "moved")
    (root / "sub").symlink_to("../outside")
    os.mkdir(held)
    assert (root / "moved/new").is_dir()
    assert os.listdir(root.parent / "outside") == ["file"]


def test_the_last_name_in_a_held_parent_may_be_a_link_to_outside(
    root: Path, hold: Callable[..., Any]
) -> None:
    (root / "sub/link").symlink_to("../../outside/file")
    held = hold(root, "sub/link", parent=True)
    assert Path(held).read_text() == "outside"
    for flags in (os.O_RDONLY | os.O_NOFOLLOW, os.O_CREAT | os.O_EXCL):
        with pytest.raises(OSError):
            os.open(held, flags)
    os.unlink(held)
    assert (root.parent / "outside/file").exists()


@pytest.mark.parametrize("path", ["", ".", "..", "sub/", "sub/.", "sub/..", "{root}/"])
def test_a_held_parent_needs_a_plain_last_name(root: Path, path: str) -> None:
    with pytest.raises(ValueError, match="the last part is no file name"):
        privsep.Beneath(root, parent=True).hold(path.format(root=root))


@pytest.mark.parametrize("path", ["sub/a\0b", "\0", "a\0/b"])
def test_a_held_parent_takes_no_nul(root: Path, path: str) -> None:
    with pytest.raises(ValueError, match="no file can have this name"):
        privsep.Beneath(root, parent=True).hold(path)
