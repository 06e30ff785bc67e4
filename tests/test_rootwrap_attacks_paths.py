"""A path is beneath a directory by its components, and stays what was judged."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from rootwrap_attacks import STRANGER, is_refused, root_only, wrapped
from wrapping import NOT_ALLOWED, Wrapped

__all__ = ["wrapped"]


@pytest.mark.parametrize(
    "path",
    [
        "@dir/images-evil/file",
        "@dir/images-evil",
        "@dir/imagesx",
        "@dir/image",
        "@dir",
        "@dir/",
        "/",
        "//",
        "",
        ".",
        "..",
        "/etc/passwd",
        "/etc/../etc/passwd",
        "@dir/images/..",
        "@dir/images/../",
        "@dir/images/../secret",
        "@dir/images/../images-evil/file",
        "@dir/images/sub/../../secret",
        "@dir/images/sub/../../images-evil",
        "@dir/images/./../images-evil",
        "@dir/images//..//images-evil",
        "@dir/images/nothing/../../secret",
        "@dir/images/out",
        "@dir/images/etc",
        "@dir/images/etc/passwd",
        "@dir/images/etc/shadow",
        "@dir/images/up",
        "@dir/images/up/secret",
        "@dir/images/evil",
        "@dir/images/evil/file",
        "@dir/images/evil/new",
        "@dir/images/twice/file",
        "@dir/images/root",
        "@dir/images/root/etc/passwd",
        "@dir/images/proc/etc/passwd",
        "@dir/images/up/images/out",
        "@dir/IMAGES/file",
        "@dir/images\n",
        "@dir/images\n/file",
        " @dir/images/file",
        "-R",
        "--reference=@dir/images/file",
        "--from=root @dir/images/file",
        "file",
        "./file",
        "../images-evil/file",
        "/proc/self/cwd/../secret",
        "/proc/self/root/etc/passwd",
        "/dev/fd/0",
        "~nova/file",
        "*",
        "@dir/images-evil/../images-evil/file",
    ],
)
def test_a_path_outside_of_its_directory_is_refused(
    wrapped: Wrapped, path: str
) -> None:
    is_refused(wrapped, "chown", "nova", path)


@pytest.mark.parametrize(
    "path",
    [
        "@dir/secret/../secret",
        "@dir//secret",
        "@dir/./secret",
        "@dir/secret/",
        "secret",
    ],
)
def test_a_file_by_another_spelling_is_another_file(
    wrapped: Wrapped, path: str
) -> None:
    is_refused(wrapped, "cat", path)


def test_where_a_link_leads_is_not_told(wrapped: Wrapped) -> None:
    """Root sees that where the caller may not."""
    (wrapped.directory / "leading").symlink_to("/nowhere/hidden")
    done = wrapped.run("chown", "nova", f"{wrapped.directory}/leading")
    assert done.returncode == NOT_ALLOWED
    assert "/leading' resolves to nothing beneath" in done.stderr
    assert "hidden" not in done.stderr


def test_a_word_with_a_line_break_is_told_in_one_line(wrapped: Wrapped) -> None:
    done = wrapped.run("/x\nforged: line/chown", "nova", "@dir/images/file")
    assert done.returncode == NOT_ALLOWED
    assert "forged: line" in done.stderr
    assert not any(line.startswith("forged") for line in done.stderr.splitlines())


def test_a_place_that_is_gone_has_no_paths(wrapped: Wrapped, tmp_path: Path) -> None:
    script = (
        "import os, sys; os.rmdir(os.getcwd()); os.execv(sys.argv[1], sys.argv[1:])"
    )
    before = [sys.executable, "-c", script]
    done = wrapped.run("chown", "nova", "images/file", cwd=tmp_path, before=before)
    assert (done.returncode, done.stdout) == (NOT_ALLOWED, "")
    assert "cannot be resolved" in done.stderr


def test_a_path_with_a_loop_is_no_path(wrapped: Wrapped) -> None:
    with wrapped.judge("chown", "nova", "@dir/images/loop") as verdict:
        for word in verdict.argv[2:]:
            assert word == f"{wrapped.directory}/images/loop"  # chown finds the loop


@pytest.fixture
def strangers(tmp_path: Path) -> Wrapped:
    """A policy for paths in a directory that a stranger may write."""
    tmp_path.chmod(0o755)
    wrapped = Wrapped(tmp_path)
    wrapped.configure(directories=["/usr/bin", "/bin"])
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    (images / "file").write_text("mine")
    (images / "sub" / "file").write_text("mine")
    for place in (images, images / "sub", images / "file", images / "sub" / "file"):
        os.chown(place, STRANGER, STRANGER)
    (tmp_path / "secret").write_text("secret")
    wrapped.allow(
        *[
            f"{name}: PathFilter, {name}, root, @dir/images"
            for name in ("cat", "ls", "rm", "rmdir", "unlink", "mkdir", "touch")
        ],
        "read: ReadFileFilter, @dir/images/sub/file",
        "base: PathFilter, stat, root, @dir/images/sub",
    )
    return wrapped


@root_only
@pytest.mark.parametrize("name", ["file", "sub/file"])
def test_what_a_stranger_may_exchange_is_held(strangers: Wrapped, name: str) -> None:
    """The file is exchanged for a link between the judgement and the command."""
    path = strangers.directory / "images" / name
    with strangers.judge("cat", str(path)) as verdict:
        (word,) = verdict.argv[1:]
        assert word == f"/proc/self/fd/{verdict.held[0]}"
        path.unlink()
        path.symlink_to(strangers.directory / "secret")
        assert Path(word).read_text() == "mine"


@root_only
def test_a_directory_that_a_stranger_may_exchange_is_held(strangers: Wrapped) -> None:
    sub = strangers.directory / "images" / "sub"
    with strangers.judge("ls", str(sub)) as verdict:
        (word,) = verdict.argv[1:]
        assert stat.S_ISDIR(os.lstat(word).st_mode)  # chown -R follows no link
        sub.rename(sub.with_name("away"))
        sub.symlink_to("/etc")
        assert os.listdir(word) == ["file"]


@root_only
def test_the_command_gets_what_is_held(strangers: Wrapped) -> None:
    done = strangers.run("cat", "@dir/images/sub/file")
    assert (done.returncode, done.stdout, done.stderr) == (0, "mine", "")
    done = strangers.run("ls", "@dir/images/sub")
    assert (done.returncode, done.stdout, done.stderr) == (0, "file\n", "")


@root_only
@pytest.mark.parametrize("command", ["touch", "cat", "ls"])
@pytest.mark.parametrize("name", ["new", "sub/new", "new/er"])
def test_a_name_that_a_stranger_may_take_is_refused(
    strangers: Wrapped, command: str, name: str
) -> None:
    """It could be a link by the time that the command makes it."""
    is_refused(strangers, command, f"@dir/images/{name}")


@root_only
def test_a_sticky_directory_is_a_strangers_for_what_is_not_roots(
    strangers: Wrapped,
) -> None:
    images = strangers.directory / "images"
    os.chown(images, 0, 0)
    images.chmod(0o1777)
    (images / "ours").touch()
    is_refused(strangers, "touch", str(images / "new"))
    with strangers.judge("cat", str(images / "file")) as verdict:
        assert verdict.argv[1].startswith("/proc/self/fd/")
    with strangers.judge("cat", str(images / "ours")) as verdict:
        assert verdict.argv[1] == str(images / "ours")


@root_only
def test_a_command_for_names_works_where_a_stranger_may_write(
    strangers: Wrapped,
) -> None:
    images = strangers.directory / "images"
    assert strangers.run("mkdir", "@dir/images/new").returncode == 0
    assert (images / "new").is_dir()
    assert strangers.run("rmdir", "@dir/images/new").returncode == 0
    assert strangers.run("rm", "@dir/images/sub/file").returncode == 0
    assert strangers.run("unlink", "@dir/images/file").returncode == 0
    assert sorted(each.name for each in images.iterdir()) == ["sub"]


@root_only
@pytest.mark.parametrize("command", ["rm", "rmdir", "unlink", "mkdir"])
def test_a_command_for_names_acts_in_the_directory_that_was_judged(
    strangers: Wrapped, command: str
) -> None:
    images = strangers.directory / "images"
    (images / "sub" / "file").unlink()
    name = "new" if command == "mkdir" else "file"
    if name == "file":
        (images / "sub" / "file").touch()
    with strangers.judge(command, f"@dir/images/sub/{name}") as verdict:
        (word,) = verdict.argv[1:]
        (images / "sub").rename(images / "away")
        (images / "sub").symlink_to("/etc")
        assert os.path.realpath(os.path.dirname(word)) == str(images / "away")
        assert os.path.basename(word) == name


@root_only
def test_the_one_file_of_a_filter_is_held_too(strangers: Wrapped) -> None:
    file = strangers.directory / "images" / "sub" / "file"
    done = strangers.run("cat", str(file))
    assert done.stdout == "mine"
    file.unlink()
    file.symlink_to(strangers.directory / "secret")
    is_refused(strangers, "cat", str(file))


@root_only
@pytest.mark.parametrize("link", ["images/sub", "images"])
def test_a_directory_of_a_filter_that_a_stranger_made_a_link_is_refused(
    strangers: Wrapped, link: str
) -> None:
    place = strangers.directory / link
    place.rename(strangers.directory / "away")
    place.symlink_to("/etc")
    os.chown(place, STRANGER, STRANGER, follow_symlinks=False)
    is_refused(strangers, "stat", "/etc/passwd")
    is_refused(strangers, "stat", f"@dir/{link}/passwd")
    is_refused(strangers, "cat", f"@dir/{link}/passwd")


@root_only
def test_links_of_root_above_a_directory_of_a_stranger_are_followed(
    strangers: Wrapped,
) -> None:
    """As /var/run is, and then /var/run/service of its user."""
    (strangers.directory / "run").symlink_to(strangers.directory)
    strangers.allow("cat: PathFilter, cat, root, @dir/run/images/sub")
    assert strangers.run("cat", "@dir/run/images/sub/file").stdout == "mine"
    assert strangers.run("cat", "@dir/images/sub/file").stdout == "mine"
    is_refused(strangers, "cat", "@dir/run/images/file")


@root_only
def test_what_a_filter_held_and_then_refused_is_let_go(strangers: Wrapped) -> None:
    strangers.script("nice")
    strangers.allow(
        "nice: ChainingRegExpFilter, nice, root, nice",
        "one: PathFilter, cat, root, @dir/images, no",
        "two: PathFilter, cat, root, @dir/images, pass",
    )
    for chain in ((), ("nice",)):
        with strangers.judge(*chain, "cat", "@dir/images/file", "yes") as verdict:
            assert verdict.allowed
            assert len(verdict.held) == 1


@root_only
def test_no_race_with_a_link_reads_another_file(strangers: Wrapped) -> None:
    """A stranger exchanges the file and a link to a secret as fast as he can."""
    script = """
import ctypes, os, sys
os.chdir(sys.argv[1])
os.symlink("../secret", "link")
exchange = ctypes.CDLL(None).renameat2
print(flush=True)
while True:
    exchange(-100, b"link", -100, b"file", 2)
"""
    images = strangers.directory / "images"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(images)],
        stdout=subprocess.PIPE,
    ) as stranger:
        assert stranger.stdout is not None
        stranger.stdout.readline()
        try:
            said = {
                strangers.run("cat", str(images / "file")).stdout for _ in range(20)
            }
        finally:
            stranger.kill()
    assert said <= {"mine", ""}
