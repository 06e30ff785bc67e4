"""Paths beneath a root: what is opened, and what is refused."""

from __future__ import annotations

import errno
import functools
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import beneath
import pytest
from conftest import IS_ROOT, METHOD
from rooted import (
    Kernel,
    answer_openat2_with,
    any_kernel,
    content,
    descriptor,
    in_child,
    refusal,
    root,
    without_openat2,
)

import privsep
from privsep._lockdown import libc

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["descriptor", "root"]


_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_MS_BIND = 0x1000


# -- what is beneath -----------------------------------------------------------


@any_kernel
@pytest.mark.parametrize(
    "path",
    ["sub/file", b"sub/file", Path("sub/file"), "./sub//./file", "{root}/sub/file"],
    ids=str,
)
def test_what_is_beneath_is_opened(
    root: Path, path: str | bytes | Path, kernel: Kernel
) -> None:
    if isinstance(path, str):
        path = path.format(root=root)
    assert kernel.run(lambda: content(root, path)) == "inside"
    assert kernel.run(lambda: content(f"{root}/", path)) == "inside"


@any_kernel
@pytest.mark.parametrize("path", [".", "./", "{root}", "{root}/", "//{root}//."])
def test_the_root_itself_is_beneath(root: Path, path: str, kernel: Kernel) -> None:
    path = path.format(root=root)
    names = kernel.run(lambda: os.listdir(privsep.open_beneath(root, path)))
    assert sorted(names) == ["file", "sub"]


@any_kernel
def test_a_descriptor_serves_as_root(
    root: Path, descriptor: int, kernel: Kernel
) -> None:
    root.rename(root.with_name("moved"))
    assert kernel.run(lambda: content(descriptor, "sub/file")) == "inside"
    for path in ("/etc/passwd", str(root / "file"), f"/proc/self/fd/{descriptor}"):
        error = kernel.run(functools.partial(refusal, descriptor, path))
        assert error.errno == errno.EXDEV


def test_a_relative_root_is_of_the_current_directory(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    assert content("root", "file") == "inside"
    for path in (str(root / "file"), "/root/file"):
        assert refusal("root", path).errno == errno.EXDEV


@any_kernel
@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/",
        "{root}/../outside/file",
        "{root}x/file",
        "{root}x",
        "{root}/../root/file",
        "../outside/file",
        "..",
        "sub/../../outside/file",
    ],
)
def test_what_leaves_the_root_is_refused(root: Path, path: str, kernel: Kernel) -> None:
    beside = root.with_name("rootx")
    beside.mkdir()
    (beside / "file").write_text("outside")
    path = path.format(root=root)
    error = kernel.run(lambda: refusal(root, path))
    assert error.errno in (errno.EXDEV, errno.ELOOP)
    assert error.filename == path
    assert repr(str(root)) in str(error)
    assert "The path leaves the root" in str(error) or "'..'" in str(error)


def test_dots_that_stay_beneath_are_followed(root: Path) -> None:
    assert content(root, "sub/../file") == "inside"
    assert content(root, f"{root}/sub/../sub/file") == "inside"


def test_links_that_stay_beneath_are_followed(root: Path) -> None:
    (root / "link").symlink_to("sub")
    (root / "sub/up").symlink_to("../file")
    assert content(root, "link/file") == "inside"
    assert content(root, "link/up") == "inside"


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside/file", "{root}/file"])
def test_links_that_leave_are_refused(root: Path, target: str) -> None:
    (root / "link").symlink_to(target.format(root=root))
    assert refusal(root, "link").errno == errno.EXDEV


@without_openat2
@pytest.mark.parametrize("path", ["link/file", "sub/up", "sub/../file", "sub/.."])
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_PATH, os.O_WRONLY | os.O_CREAT])
def test_no_link_is_followed_without_openat2(
    root: Path, path: str, flags: int, kernel: Kernel
) -> None:
    (root / "link").symlink_to("sub")
    (root / "sub/up").symlink_to("../file")
    error = kernel.run(lambda: refusal(root, path, flags))
    assert error.errno in (errno.ELOOP, errno.ENOTDIR)
    assert "openat2" in str(error)


def test_magic_links_are_refused(root: Path) -> None:
    with open(root / "file") as file:
        for path in (
            "self/root/etc",
            "self/cwd/file",
            f"self/fd/{file.fileno()}",
            "self/exe",
            "thread-self/root",
        ):
            error = refusal("/proc", path)
            assert error.errno == errno.ELOOP
            assert "a magic one of /proc" in str(error)
    assert content("/proc", "self/comm")  # a link, but of names


@without_openat2
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_PATH])
def test_magic_links_are_refused_without_openat2(flags: int, kernel: Kernel) -> None:
    for path in ("self/root/etc", f"{os.getpid()}/root", f"{os.getpid()}/root/etc"):
        error = kernel.run(functools.partial(refusal, "/proc", path, flags))
        assert error.errno in (errno.ELOOP, errno.ENOTDIR)


@any_kernel
def test_mounts_beneath_the_root_are_crossed(root: Path, kernel: Kernel) -> None:
    (root / "mounted").mkdir()
    outside, target = os.fspath(root.parent / "outside"), os.fspath(root / "mounted")

    def read_mounted() -> str:
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS)
        libc.mount(outside, target, "none", _MS_BIND)
        for restrict in kernel.restrict:
            restrict()
        return content(root, "mounted/file")

    assert in_child(read_mounted) == "outside"


# -- errors --------------------------------------------------------------------


@pytest.mark.parametrize("path", ["file\0", "\0", b"sub\0/file", "\ud800", "a\0/../.."])
def test_a_name_that_no_file_can_have_is_refused(root: Path, path: str | bytes) -> None:
    with pytest.raises(ValueError, match="no file can have this name") as caught:
        privsep.open_beneath(root, path)
    assert str(root) in str(caught.value)


@any_kernel
@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("", errno.ENOENT),
        ("missing", errno.ENOENT),
        ("missing/file", errno.ENOENT),
        ("file/", errno.ENOTDIR),
        ("file/.", errno.ENOTDIR),
        ("file/file", errno.ENOTDIR),
        ("n" * 256, errno.ENAMETOOLONG),
        ("./" * 2048, errno.ENAMETOOLONG),
    ],
)
def test_errors_are_those_of_open(
    root: Path, path: str, number: int, kernel: Kernel
) -> None:
    error = kernel.run(lambda: refusal(root, path))
    assert error.errno == number
    assert error.filename == path
    assert f"(root: {str(root)!r})" in str(error)


def test_a_root_that_is_not_there_is_named(tmp_path: Path) -> None:
    error = refusal(tmp_path / "none", "file")
    assert error.errno == errno.ENOENT
    assert "The root cannot be opened: No such file" in str(error)
    assert f"{tmp_path}/none" in str(error)


@any_kernel
def test_a_file_is_no_root(root: Path, kernel: Kernel) -> None:
    for path in ("file", ".", ""):
        error = kernel.run(functools.partial(refusal, root / "file", path))
        assert error.errno == errno.ENOTDIR


def test_endless_renaming_is_an_error_in_the_end(root: Path) -> None:
    # No attacker is sure to meet each of the tries, so a filter answers for one.
    busy = functools.partial(answer_openat2_with, errno.EAGAIN)
    error = in_child(lambda: refusal(root, "sub/../file"), busy)
    assert error.errno == errno.EAGAIN
    assert "Tried 100 times" in str(error)


@pytest.mark.skipif(not IS_ROOT, reason="needs a file of another user")
def test_a_lack_of_permission_is_not_taken_for_a_lack_of_openat2(
    root: Path, descriptor: int
) -> None:
    (root / "link").symlink_to("file")

    def open_as_nobody() -> OSError:
        os.setuid(65534)
        return refusal(descriptor, "link", os.O_RDONLY | os.O_NOATIME)

    error = in_child(open_as_nobody)
    assert error.errno == errno.EPERM
    assert "openat2" not in str(error)


# -- flags and modes -----------------------------------------------------------


@any_kernel
def test_a_descriptor_is_closed_on_exec(root: Path, kernel: Kernel) -> None:
    assert not kernel.run(
        lambda: os.get_inheritable(privsep.open_beneath(root, "sub/file"))
    )


@any_kernel
def test_no_other_descriptor_stays_open(root: Path, kernel: Kernel) -> None:
    (root / "sub/out").symlink_to("../../outside/file")

    def open_and_fail() -> bool:
        before = os.listdir("/proc/self/fd")
        os.close(privsep.open_beneath(root, "sub/file"))
        refusal(root, "sub/out", os.O_PATH)
        refusal(root, "sub/missing")
        refusal(root, "missing/file")
        return os.listdir("/proc/self/fd") == before

    assert kernel.run(open_and_fail)


@any_kernel
def test_a_file_is_made_for_its_owner_unless_the_mode_says_otherwise(
    root: Path, kernel: Kernel
) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL

    def make() -> list[int]:
        os.umask(0o022)
        made = [
            privsep.open_beneath(root, "sub/one", flags),
            privsep.open_beneath(root, "sub/two", flags, 0o666),
        ]
        return [stat.S_IMODE(os.fstat(descriptor).st_mode) for descriptor in made]

    assert kernel.run(make) == [0o600, 0o644]
    assert sorted(os.listdir(root / "sub")) == ["file", "one", "two"]
    assert kernel.run(lambda: refusal(root, "file", flags)).errno == errno.EEXIST


def test_a_file_is_made_where_a_link_leads_unless_that_is_outside(root: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT
    (root / "sub/in").symlink_to("../made")
    (root / "sub/out").symlink_to("../../outside/made")
    os.close(privsep.open_beneath(root, "sub/in", flags))
    assert (root / "made").exists()
    assert refusal(root, "sub/out", flags).errno == errno.EXDEV
    assert os.listdir(root.parent / "outside") == ["file"]


@any_kernel
def test_a_file_without_a_name_is_made_beneath(root: Path, kernel: Kernel) -> None:
    def make() -> int:
        descriptor = privsep.open_beneath(root, "sub", os.O_TMPFILE | os.O_RDWR)
        return stat.S_IMODE(os.fstat(descriptor).st_mode)

    assert kernel.run(make) == 0o600
    assert os.listdir(root / "sub") == ["file"]


def test_it_serves_as_opener(root: Path) -> None:
    opener = functools.partial(privsep.open_beneath, root)
    with open("sub/new", "w", opener=opener) as file:
        file.write("text")
    assert (root / "sub/new").read_text() == "text"


# -- in a daemon ---------------------------------------------------------------


@pytest.mark.parametrize("read_it", [beneath.read, beneath.read_held])
def test_it_works_in_a_sandbox(read_it: Callable[[str], str]) -> None:
    beneath.context.start(METHOD)
    try:
        assert read_it("trivial.py") == (beneath.ROOT / "trivial.py").read_text()
        with pytest.raises(OSError, match="The path leaves the root"):
            read_it("../pyproject.toml")
    finally:
        beneath.context.stop()
