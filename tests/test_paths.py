"""Paths beneath a root: what is opened, what is refused, and an attacker who renames.

The attacker is a process of its own, which exchanges what stands at two names all
the time, as whoever may write the directory can.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import pickle
import signal
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import beneath
import pytest
from conftest import IS_ROOT, METHOD

import privsep
from privsep._lockdown import attributes, libc, libseccomp, seccomp

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_MS_BIND = 0x1000
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100

_libc = ctypes.CDLL(None, use_errno=True)


# -- what stands where ---------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with files, and beside it another with a file."""
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "file").write_text("inside")
    (root / "sub/file").write_text("inside")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("outside")
    return root


@pytest.fixture
def descriptor(root: Path) -> Iterator[int]:
    """A descriptor of `root`."""
    descriptor = os.open(root, os.O_PATH)
    yield descriptor
    os.close(descriptor)


def read(descriptor: int) -> str:
    with open(descriptor) as file:
        return file.read()


def content(root: Any, path: Any, *flags: int) -> str:
    return read(privsep.open_beneath(root, path, *flags))


def refusal(root: Any, path: Any, *arguments: int) -> OSError:
    with pytest.raises(OSError) as caught:
        os.close(privsep.open_beneath(root, path, *arguments))
    return caught.value


# -- children that are filtered ------------------------------------------------


def in_child(function: Callable[[], object], *before: Callable[[], object]) -> Any:
    """Return what `function` returns in a child, which calls `before` first."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                for each in before:
                    each()
                outcome: object = (function(), None)
            except BaseException as error:  # noqa: BLE001 - it is told
                outcome = (None, error)
            os.write(writer, pickle.dumps(outcome))
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    value, raised = pickle.loads(data)  # noqa: S301 - of our own child
    if raised is not None:
        raise raised
    return value


def answer_openat2_with(number: int) -> None:
    """Make openat2 fail with errno `number` in this process from now on."""
    attributes.forbid_new_privileges()
    library = libseccomp.Library()
    rules = library.new_filter(libseccomp.ALLOW)
    rules.add(libseccomp.fail_with(number), library.number("openat2"))
    rules.load()


def refuse_openat2() -> None:
    """Refuse it as a sandbox does; the kernel logs each time, so this is slow."""
    attributes.forbid_new_privileges()
    library = seccomp.prepare()
    sandbox = privsep.Sandbox(
        syscalls=["~openat2"], network=True, execute=None, signals=True
    )
    seccomp.restrict(library, sandbox)


class Kernel(NamedTuple):
    """Runs functions where openat2 is there, or is not."""

    name: str
    restrict: tuple[Callable[[], object], ...]

    def run(self, function: Callable[[], object]) -> Any:
        return in_child(function, *self.restrict)


_NEW = Kernel("openat2", ())
_OLD = Kernel("old kernel", (functools.partial(answer_openat2_with, errno.ENOSYS),))
_REFUSED = Kernel("refused", (refuse_openat2,))


def on_kernels(*kernels: Kernel) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kernel", kernels, ids=lambda kernel: kernel.name)


any_kernel = on_kernels(_NEW, _OLD, _REFUSED)
without_openat2 = on_kernels(_OLD, _REFUSED)


# -- the attacker --------------------------------------------------------------


def exchange(one: bytes, other: bytes) -> None:
    """Exchange what two names stand for, in one step: renameat2(2)."""
    result = _libc.renameat2(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE)
    if result < 0:
        raise OSError(ctypes.get_errno(), "renameat2")


@contextlib.contextmanager
def attacker(one: Path, other: Path) -> Generator[None, None, None]:
    """Have a process exchange `one` and `other` all the time."""
    names = bytes(one), bytes(other)
    pid = os.fork()
    if pid == 0:
        try:
            while True:
                exchange(*names)
        finally:
            os._exit(1)
    try:
        yield
    finally:
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

    assert _OLD.run(attack) <= {"inside", "ENOTDIR", "ELOOP"}


@on_kernels(_NEW, _OLD)
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


# -- held paths ----------------------------------------------------------------


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
