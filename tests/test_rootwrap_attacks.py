"""What a service that was taken over would try: none of it gets through.

The first six parts are the ways in which filters that look at words alone are passed;
the rest is what any program that runs with another's privileges has to expect.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import IS_ROOT
from wrapping import BAD_POLICY, NO_EXECUTABLE, NOT_ALLOWED, Wrapped, running

import scripts
from privsep._start import trust
from privsep.rootwrap import BadPolicy, Untrusted, load
from privsep.rootwrap.judge import judge

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT_ONLY = pytest.mark.skipif(not IS_ROOT, reason="only root can be attacked so")
_STRANGER = 65534


@pytest.fixture(scope="module")
def wrapped(tmp_path_factory: pytest.TempPathFactory) -> Wrapped:
    """A policy with a filter of each kind, and another file of each name."""
    wrapped = Wrapped(tmp_path_factory.mktemp("attacked"))
    names = ("show", "ip", "nice", "chown", "cat", "sh", "env", "touch", "rm")
    wrapped.script(*names)
    evil = wrapped.directory / "evil"
    evil.mkdir(mode=0o755)
    for name in names:
        (evil / name).write_text("#!/bin/sh\necho evil\n")
        (evil / name).chmod(0o755)
    (evil / "sub").mkdir()
    images = wrapped.directory / "images"
    (images / "sub").mkdir(parents=True)
    (images / "file").touch()
    (wrapped.directory / "images-evil").mkdir()
    (wrapped.directory / "images-evil" / "file").touch()
    for name, target in (
        ("out", "/etc/passwd"),
        ("etc", "/etc"),
        ("up", ".."),
        ("evil", "../images-evil"),
        ("twice", "up/images-evil"),
        ("loop", "loop"),
        ("root", "/"),
        ("proc", "/proc/self/root"),
    ):
        (images / name).symlink_to(target)
    wrapped.allow(
        "show: CommandFilter, show, @me",
        "ip: IpFilter, ip, @me",
        "ip_exec: IpNetnsExecFilter, ip, @me",
        r"nice: ChainingRegExpFilter, nice, @me, nice, -n, -?\d+",
        "env: EnvFilter, env, @me, TAG=, show",
        "cat: ReadFileFilter, @dir/secret",
        "chown: PathFilter, chown, @me, nova, @dir/images",
        "touch: RegExpFilter, touch, @me, touch, a|b",
        "kill: KillFilter, @me, sleep, -9, -HUP",
    )
    return wrapped


def _is_refused(wrapped: Wrapped, *words: str) -> None:
    verdict = wrapped.judge(*words)
    verdict.close()
    assert verdict.status == NOT_ALLOWED, f"{verdict.argv} would run"


# 1. The command after a chain is the filter's file

_CHAINS = {"ip": ["ip", "netns", "exec", "one"], "nice": ["nice", "-n", "5"]}


@pytest.mark.parametrize("chain", _CHAINS)
@pytest.mark.parametrize(
    "within",
    [
        ["@dir/evil/show"],
        ["./show"],
        ["evil/show"],
        ["./evil/show"],
        ["../evil/show"],
        ["@bin/../evil/show"],
        ["//@dir/evil/show"],
        ["/proc/self/cwd/evil/show"],
        ["/dev/fd/3/show"],
        ["@bin/show/"],
        ["@bin/show/."],
        ["@bin/nothing/show"],
        ["~/show"],
        ["$HOME/show"],
        ["`show`"],
        ["$(show)"],
        ["show;id"],
        ["show\nid"],
        ["show\n"],
        ["\nshow"],
        [" show"],
        ["show "],
        ["show\t"],
        ["SHOW"],
        ["sho"],
        ["shows"],
        ["sh"],
        ["@bin/sh", "-c", "show"],
        ["sh", "-c", "show"],
        ["env", "show"],
        ["env", "-i", "show"],
        ["env", "TAG=1", "sh"],
        ["env", "TAG=1", "@dir/evil/show"],
        ["env", "PATH=@dir/evil", "show"],
        ["env", "LD_PRELOAD=/x", "TAG=1", "show"],
        ["TAG=1", "@dir/evil/show"],
        ["TAG=1"],
        ["env"],
        ["--", "show"],
        ["-show"],
        ["-c", "show"],
        ["exec", "show"],
        [""],
        ["", "show"],
        ["."],
        ["/"],
        ["@dir/evil"],
        ["ip", "netns", "exec", "two", "show"],
        ["ip", "netns", "exec", "two", "sh"],
        ["nice", "-n", "5", "show"],
        ["nice", "-n", "5", "sh"],
        ["ip", "-batch", "/x"],
        ["ip", "vrf", "exec", "red", "show"],
        ["chown", "nova", "/etc/passwd"],
        ["cat", "/etc/shadow"],
        ["touch", "ab"],
        ["kill", "-9", "1"],
        ["kill", "-9", "-1"],
    ],
)
def test_a_chain_runs_no_other_file_than_a_filter_names(
    wrapped: Wrapped, chain: str, within: list[str]
) -> None:
    _is_refused(wrapped, *_CHAINS[chain], *within)


@pytest.mark.parametrize("chain", _CHAINS)
def test_a_link_to_the_filters_file_runs_the_filters_file(
    wrapped: Wrapped, chain: str, tmp_path: Path
) -> None:
    """Whatever the link is by the time that it runs."""
    link = tmp_path / "show"
    link.symlink_to(wrapped.bin / "show")
    with wrapped.judge(*_CHAINS[chain], str(link), "x") as verdict:
        assert verdict.argv[-2:] == (f"{wrapped.bin}/show", "x")


# 2. A pattern is for the whole word


@pytest.mark.parametrize(
    ("pattern", "word"),
    [
        ("foo|bar", "foox"),
        ("foo|bar", "xbar"),
        ("foo|bar", "foo|bar"),
        ("foo|bar", "foobar"),
        ("foo|bar", "foo\n"),
        ("foo|bar", "bar\n"),
        ("foo|bar", "bar; id"),
        ("foo|bar|", "x"),
        ("(foo|bar)", "foox"),
        ("foo|bar$", "foox"),
        ("^foo|bar", "fooo"),
        ("^foo|bar$", "foo bar"),
        ("^foo$|^bar$", "foo\nbar"),
        ("foo", "foo\n"),
        ("foo", "foo\n\n"),
        ("foo", "foo\nbar"),
        ("foo", "\nfoo"),
        ("foo", "foo\r"),
        ("foo", "foo\x0b"),
        ("foo", "foo\x85"),
        ("foo", "foo\u2028"),
        ("foo", "foo "),
        ("foo", "FOO"),
        ("foo$", "foo\n"),
        ("^foo$", "foo\n"),
        (r"foo\Z", "foo\n"),
        (r"\d+", "5\n"),
        (r"\d+", "5 6"),
        (r"\d+", ""),
        (r"\d+", "-5"),
        (r"-?\d+", "--5"),
        (".*", "a\nb"),
        (".*", "\n"),
        (".+", "a\n"),
        ("/etc/.*", "/etc/x\n/tmp"),
        ("/etc/.*", "x/etc/y"),
        ("/etc/.*", "/etcetera"),
        (r"/etc/(?!\.\.).*", "/etc/../x"),
        (r"a\.conf", "aXconf"),
        ("[a-z]+", "abC"),
        ("[a-z]+", "ab\n"),
        ("a*b", "aab\n"),
        ("--size=[0-9]+", "--size=1 --x"),
        (r"blkio:\S+", "blkio:a b"),
        (r"blkio:\S+", "blkio:\n"),
    ],
)
def test_a_pattern_accepts_nothing_around_it(
    pattern: str, word: str, tmp_path: Path
) -> None:
    policy = Wrapped(tmp_path)
    policy.script("show", "nice", "cat")
    policy.allow(
        f"one: RegExpFilter, show, @me, show, {pattern}",
        f"chain: ChainingRegExpFilter, nice, @me, nice, {pattern}",
        "cat: CommandFilter, cat, @me",
    )
    _is_refused(policy, "show", word)
    _is_refused(policy, "nice", word, "cat")


# 3. A path is beneath a directory by its components


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
    _is_refused(wrapped, "chown", "nova", path)


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
    _is_refused(wrapped, "cat", path)


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
        os.chown(place, _STRANGER, _STRANGER)
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


@_ROOT_ONLY
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


@_ROOT_ONLY
def test_a_directory_that_a_stranger_may_exchange_is_held(strangers: Wrapped) -> None:
    sub = strangers.directory / "images" / "sub"
    with strangers.judge("ls", str(sub)) as verdict:
        (word,) = verdict.argv[1:]
        assert stat.S_ISDIR(os.lstat(word).st_mode)  # chown -R follows no link
        sub.rename(sub.with_name("away"))
        sub.symlink_to("/etc")
        assert os.listdir(word) == ["file"]


@_ROOT_ONLY
def test_the_command_gets_what_is_held(strangers: Wrapped) -> None:
    done = strangers.run("cat", "@dir/images/sub/file")
    assert (done.returncode, done.stdout, done.stderr) == (0, "mine", "")
    done = strangers.run("ls", "@dir/images/sub")
    assert (done.returncode, done.stdout, done.stderr) == (0, "file\n", "")


@_ROOT_ONLY
@pytest.mark.parametrize("command", ["touch", "cat", "ls"])
@pytest.mark.parametrize("name", ["new", "sub/new", "new/er"])
def test_a_name_that_a_stranger_may_take_is_refused(
    strangers: Wrapped, command: str, name: str
) -> None:
    """It could be a link by the time that the command makes it."""
    _is_refused(strangers, command, f"@dir/images/{name}")


@_ROOT_ONLY
def test_a_sticky_directory_is_a_strangers_for_what_is_not_roots(
    strangers: Wrapped,
) -> None:
    images = strangers.directory / "images"
    os.chown(images, 0, 0)
    images.chmod(0o1777)
    (images / "ours").touch()
    _is_refused(strangers, "touch", str(images / "new"))
    with strangers.judge("cat", str(images / "file")) as verdict:
        assert verdict.argv[1].startswith("/proc/self/fd/")
    with strangers.judge("cat", str(images / "ours")) as verdict:
        assert verdict.argv[1] == str(images / "ours")


@_ROOT_ONLY
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


@_ROOT_ONLY
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


@_ROOT_ONLY
def test_the_one_file_of_a_filter_is_held_too(strangers: Wrapped) -> None:
    file = strangers.directory / "images" / "sub" / "file"
    done = strangers.run("cat", str(file))
    assert done.stdout == "mine"
    file.unlink()
    file.symlink_to(strangers.directory / "secret")
    _is_refused(strangers, "cat", str(file))


@_ROOT_ONLY
@pytest.mark.parametrize("link", ["images/sub", "images"])
def test_a_directory_of_a_filter_that_a_stranger_made_a_link_is_refused(
    strangers: Wrapped, link: str
) -> None:
    place = strangers.directory / link
    place.rename(strangers.directory / "away")
    place.symlink_to("/etc")
    os.chown(place, _STRANGER, _STRANGER, follow_symlinks=False)
    _is_refused(strangers, "stat", "/etc/passwd")
    _is_refused(strangers, "stat", f"@dir/{link}/passwd")
    _is_refused(strangers, "cat", f"@dir/{link}/passwd")


@_ROOT_ONLY
def test_links_of_root_above_a_directory_of_a_stranger_are_followed(
    strangers: Wrapped,
) -> None:
    """As /var/run is, and then /var/run/service of its user."""
    (strangers.directory / "run").symlink_to(strangers.directory)
    strangers.allow("cat: PathFilter, cat, root, @dir/run/images/sub")
    assert strangers.run("cat", "@dir/run/images/sub/file").stdout == "mine"
    assert strangers.run("cat", "@dir/images/sub/file").stdout == "mine"
    _is_refused(strangers, "cat", "@dir/run/images/file")


@_ROOT_ONLY
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


@_ROOT_ONLY
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


# 4. No form of ip runs a command


@pytest.mark.parametrize(
    "words",
    [
        "netns exec one sh",
        "netns exe one sh",
        "netns ex one sh",
        "netns e one sh",
        "netn exec one sh",
        "net exec one sh",
        "net e one sh",
        "netns exec one @dir/evil/show",
        "-o netns exec one sh",
        "-oneline netns exec one sh",
        "-4 netns exec one sh",
        "-6 netns e one sh",
        "-0 netns exec one sh",
        "-B netns exec one sh",
        "-M netns exec one sh",
        "-s -s netns exec one sh",
        "-d netns exec one sh",
        "-r netns exec one sh",
        "-t netns exec one sh",
        "-ts netns exec one sh",
        "-j -p netns exec one sh",
        "-br netns exec one sh",
        "-h netns exec one sh",
        "-iec netns exec one sh",
        "-N netns exec one sh",
        "-c netns exec one sh",
        "-color netns exec one sh",
        "-color=never netns exec one sh",
        "-c=always netns e one sh",
        "-echo netns exec one sh",
        "-f inet netns exec one sh",
        "-family inet netns exec one sh",
        "-fam inet netns exec one sh",
        "-f link netns exec one sh",
        "-l 5 netns exec one sh",
        "-loops 5 netns exec one sh",
        "-rc 1024 netns exec one sh",
        "-rcvbuf 1024 netns exec one sh",
        "-n two netns exec one sh",
        "-netns two netns exec one sh",
        "-net two net e one sh",
        "-n link netns exec one sh",
        "-f netns netns exec one sh",
        "-- netns exec one sh",
        "-o -- netns exec one sh",
        "--oneline netns exec one sh",
        "--o netns exec one sh",
        "--family inet netns exec one sh",
        "--n two netns exec one sh",
        "---o netns exec one sh",
        "- link netns exec one sh",
        "- 5 link",
        "-a netns exec sh",
        "-all netns exec sh",
        "-al netns exec sh",
        "--all netns exec sh",
        "-all link",
        "-b /x",
        "-b link",  # a file of that name
        "-batch link",
        "-br -b link",
        "-family=inet inet link",
        "-s=1 link",
        "-b -",
        "-ba /x",
        "-bat /x",
        "-batch /x",
        "-batch -",
        "--batch /x",
        "-force -batch /x",
        "-fo -b /x",
        "-force link",
        "-o -b /x",
        "-n one -b /x",
        "vrf exec red sh",
        "vrf exe red sh",
        "vrf e red sh",
        "vr exec red sh",
        "v e red sh",
        "-o vrf exec red sh",
        "-n one vrf exec red sh",
        "-c=never v e red sh",
        "-unknown netns exec one sh",
        "-x link",
        "-color=never=x netns exec one sh",
        "-family=inet netns exec one sh",
        "-netns",
        "-n",
        "-f",
        "-n ../../proc/1/ns/net link",
        "-n .. link",
        "-n -x link",
        "NETNS exec one sh",
        "Netns exec one sh",
        "unknown",
        "netnsx exec one sh",
        "net\nns exec one sh",
        "netns\n exec one sh",
        "netns EXEC one sh",
        "netns exec",
        "netns exec one",
        "netns unknown",
        "netns listx",
        "netns add ../x",
        "netns add a/b",
        "netns delete ..",
        "netns add -x",
        "vrf unknown",
        "vrf execx",
    ],
)
def test_ip_runs_no_command(wrapped: Wrapped, words: str) -> None:
    # A word with a newline is one word.
    _is_refused(wrapped, "ip", *words.split(" "))


@pytest.mark.parametrize(
    "words", [["", "exec", "one", "sh"], ["netns", "", "one", "sh"], ["-n", "", "link"]]
)
def test_ip_has_no_empty_words(wrapped: Wrapped, words: list[str]) -> None:
    _is_refused(wrapped, "ip", *words)


@pytest.mark.skipif(shutil.which("ip") is None, reason="iproute2 is not installed")
@pytest.mark.parametrize(
    "option", ["-o", "-c", "-s", "-h", "-t", "-d", "-j", "-0", "-B"]
)
def test_ip_reads_an_option_as_we_do(option: str) -> None:
    """A word after it is the object, and not the option's."""
    done = subprocess.run(
        ["ip", option, "no-such-object", "netns"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert '"no-such-object"' in done.stderr


@pytest.mark.skipif(shutil.which("ip") is None, reason="iproute2 is not installed")
@pytest.mark.parametrize("option", ["-f", "-fam", "-l", "-rc", "-n", "-netns", "-net"])
def test_ip_takes_a_word_for_an_option_as_we_do(option: str) -> None:
    done = subprocess.run(
        ["ip", option, "no-such-object", "link"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert 'Object "no-such-object"' not in done.stderr


# 5. A kill is for the process that was judged


@pytest.fixture
def process(wrapped: Wrapped) -> Iterator[subprocess.Popen[bytes]]:
    """A process of another program than the filter's, with its name in its words."""
    program = wrapped.copy("cat", "other")
    with running(program, "-", "sleep") as other:
        yield other


@pytest.fixture
def killing(wrapped: Wrapped) -> Iterator[Wrapped]:
    wrapped.copy("sleep")
    yield wrapped
    (wrapped.bin / "sleep").unlink()


@pytest.mark.parametrize(
    "form",
    [
        "+{pid}",
        "-{pid}",
        "0{pid}",
        " {pid}",
        "{pid} ",
        "{pid}\n",
        "0x{pid:x}",
        "{pid}.0",
        "%{pid}",
        "{pid},1",
        "{pid} 1",
        "-1",
        "0",
        "-0",
        "1",
        "",
        "self",
        "999999999",
        "99999999999999999999",
    ],
)
def test_a_kill_is_for_one_pid(killing: Wrapped, form: str) -> None:
    with running(killing.bin / "sleep", "1000") as process:
        _is_refused(killing, "kill", "-9", form.format(pid=process.pid))


@pytest.mark.parametrize(
    "signal_word",
    ["-15", "-TERM", "9", "KILL", "-SIGKILL", "-9 ", "-09", "--", "-s", "-l"],
)
def test_a_kill_has_one_of_the_filters_signals(
    killing: Wrapped, signal_word: str
) -> None:
    with running(killing.bin / "sleep", "1000") as process:
        _is_refused(killing, "kill", signal_word, str(process.pid))
        with killing.judge("kill", "-9", str(process.pid)) as verdict:
            assert verdict.allowed


@pytest.mark.parametrize(
    "words", [["/bin/kill"], ["./kill"], ["kill", "-9"], ["kill", "-9", "-9"], ["KILL"]]
)
def test_a_kill_is_called_kill(killing: Wrapped, words: list[str]) -> None:
    with running(killing.bin / "sleep", "1000") as process:
        pid = str(process.pid)
        arguments = words[1:] or ["-9"]
        _is_refused(killing, words[0], *arguments, pid, *([pid] if words[1:] else []))


def test_a_pid_that_another_process_has_by_now_is_not_signalled(
    killing: Wrapped,
) -> None:
    """The process that was judged ends before it is signalled."""
    with running(killing.bin / "sleep", "1000") as process:
        verdict = killing.judge("kill", "-9", str(process.pid))
        assert verdict.target is not None
        process.kill()
        process.wait()
        with pytest.raises(ProcessLookupError):
            signal.pidfd_send_signal(verdict.target.pidfd, 9)
        verdict.close()


_REUSED = """
import os, subprocess, sys
from privsep.rootwrap import load
from privsep.rootwrap.judge import judge
from privsep.rootwrap.run import run

first = subprocess.Popen(["sleep", "1000"])
verdict = judge(["kill", "-9", str(first.pid)], load(sys.argv[1]))
assert verdict.allowed, verdict.message
first.kill()
first.wait()
with open("/proc/sys/kernel/ns_last_pid", "w") as file:
    file.write(str(first.pid - 1))
second = subprocess.Popen(["sleep", "1000"])
print(second.pid == first.pid)
try:
    run(verdict, 1024)
except ProcessLookupError:
    print(second.poll())
second.kill()
second.wait()
"""


@_ROOT_ONLY
def test_a_pid_that_is_anothers_by_now_is_not_signalled(tmp_path: Path) -> None:
    """Not even if the other runs the same program."""
    policy = Wrapped(tmp_path)
    policy.configure(directories=["/usr/bin", "/bin"])
    policy.allow("kill: KillFilter, root, sleep, -9")
    before = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    assert scripts.run(_REUSED, policy.config, before=before) == ["True", "None"]


@_ROOT_ONLY
def test_a_program_that_a_stranger_may_exchange_stops_no_other_filter(
    tmp_path: Path,
) -> None:
    policy = Wrapped(tmp_path)
    place = tmp_path / "strangers"
    place.mkdir()
    shutil.copy("/bin/sleep", place / "sleep")
    os.chown(place, _STRANGER, _STRANGER)
    program = policy.copy("sleep")
    policy.allow(
        "one: KillFilter, root, @dir/strangers/sleep, -9",
        "two: KillFilter, root, @bin/sleep, -9",
    )
    with (
        running(program, "1000") as process,
        policy.judge("kill", "-9", str(process.pid)) as verdict,
    ):
        assert verdict.allowed


def test_a_process_that_has_ended_is_none_of_the_program(killing: Wrapped) -> None:
    with running(killing.bin / "sleep", "0") as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        _is_refused(killing, "kill", "-9", str(process.pid))


@pytest.mark.parametrize(
    "zero", ["\N{ARABIC-INDIC DIGIT ZERO}", "\N{FULLWIDTH DIGIT ZERO}"]
)
def test_a_pid_has_the_digits_of_ascii(killing: Wrapped, zero: str) -> None:
    """Others are numbers to Python, and none to the kernel's names."""
    digits = {ord("0") + n: chr(ord(zero) + n) for n in range(10)}
    with running(killing.bin / "sleep", "1000") as process:
        _is_refused(killing, "kill", "-9", str(process.pid).translate(digits))


def test_a_process_of_another_program_is_not_signalled(
    killing: Wrapped, process: subprocess.Popen[bytes]
) -> None:
    """Whatever its words are."""
    _is_refused(killing, "kill", "-9", str(process.pid))


def test_a_process_of_a_file_named_like_a_deleted_one_is_another(
    killing: Wrapped,
) -> None:
    fake = killing.copy("cat", "sleep (deleted)")
    with running(fake) as process:
        _is_refused(killing, "kill", "-9", str(process.pid))


def test_a_copy_of_the_program_is_another_file(
    killing: Wrapped, tmp_path: Path
) -> None:
    copy = shutil.copy("/bin/sleep", tmp_path / "sleep")
    with running(copy, "1000") as process:
        _is_refused(killing, "kill", "-9", str(process.pid))


@_ROOT_ONLY
def test_a_program_that_a_stranger_may_exchange_names_no_process(
    killing: Wrapped, tmp_path: Path
) -> None:
    """Or he would make it a link to the program whose process he wants to end."""
    policy = Wrapped(tmp_path)
    place = tmp_path / "strangers"
    place.mkdir()
    (place / "program").symlink_to(killing.bin / "sleep")
    os.chown(place, _STRANGER, _STRANGER)
    policy.allow("kill: KillFilter, root, @dir/strangers/program, -9")
    with running(killing.bin / "sleep", "1000") as process:
        _is_refused(policy, "kill", "-9", str(process.pid))


# 6. Nobody else can write the policy, or what runs

_PARTS = {
    "config": "rootwrap.conf",
    "directory of filters": "rootwrap.d",
    "filters": "rootwrap.d/test.filters",
    "directory of executables": "bin",
    "directory above": ".",
}
_EXECUTABLES = {"executable": "bin/show", "target of a link": "real/link"}


@pytest.fixture
def own(tmp_path: Path) -> Wrapped:
    """A policy in a directory of its own, whose only command is `show` and `link`."""
    place = tmp_path / "own"
    place.mkdir(mode=0o755)
    wrapped = Wrapped(place)
    wrapped.script("show")
    real = wrapped.directory / "real"
    real.mkdir(mode=0o755)
    shutil.copy(wrapped.bin / "show", real / "link")
    (wrapped.bin / "link").symlink_to(real / "link")
    wrapped.allow("a: CommandFilter, show, @me", "b: CommandFilter, link, @me")
    return wrapped


@pytest.mark.parametrize("mode", [0o020, 0o002, 0o022])
@pytest.mark.parametrize("part", _PARTS)
def test_a_policy_that_others_may_write_is_refused(
    own: Wrapped, part: str, mode: int
) -> None:
    place = own.directory / _PARTS[part]
    place.chmod(place.stat().st_mode | mode)
    with pytest.raises(BadPolicy) as error:
        own.load()
    assert f"{place.resolve()} belongs to uid {os.getuid()}" in str(error.value)
    assert f"mode {place.stat().st_mode & 0o7777:04o}" in str(error.value)


def test_nothing_runs_by_a_policy_that_others_may_write(own: Wrapped) -> None:
    own.config.chmod(0o666)
    done = own.run("show")
    assert (done.returncode, done.stdout) == (BAD_POLICY, "")
    assert f"{own.config} belongs to uid {os.getuid()}" in done.stderr
    assert done.stderr.count("\n") == 1


@_ROOT_ONLY
@pytest.mark.parametrize("part", _PARTS)
def test_a_policy_that_another_owns_is_refused(own: Wrapped, part: str) -> None:
    place = own.directory / _PARTS[part]
    os.chown(place, _STRANGER, 0)
    with pytest.raises(BadPolicy) as error:
        own.load()
    assert f"{place.resolve()} belongs to uid {_STRANGER}" in str(error.value)


@pytest.mark.parametrize("mode", [0o020, 0o002, 0o022])
@pytest.mark.parametrize("part", _EXECUTABLES)
def test_an_executable_that_others_may_write_is_not_run(
    own: Wrapped, part: str, mode: int
) -> None:
    place = own.directory / _EXECUTABLES[part]
    place.chmod(place.stat().st_mode | mode)
    done = own.run("link" if "link" in part else "show")
    assert (done.returncode, done.stdout) == (NOT_ALLOWED, "")
    assert f"{place.resolve()} belongs to uid" in done.stderr
    assert f"mode {place.stat().st_mode & 0o7777:04o}" in done.stderr


@_ROOT_ONLY
@pytest.mark.parametrize("part", _EXECUTABLES)
def test_an_executable_that_another_owns_is_not_run(own: Wrapped, part: str) -> None:
    place = own.directory / _EXECUTABLES[part]
    os.chown(place, _STRANGER, 0)
    done = own.run("link" if "link" in part else "show")
    assert (done.returncode, done.stdout) == (NOT_ALLOWED, "")
    assert f"{place.resolve()} belongs to uid {_STRANGER}" in done.stderr


def test_an_executable_that_others_may_write_ends_the_search(own: Wrapped) -> None:
    """It is the first that is allowed: another would hide that."""
    shutil.copy(own.bin / "show", own.directory / "show")
    own.allow(
        "one: CommandFilter, @bin/show, @me", "two: CommandFilter, @dir/show, @me"
    )
    assert own.run("show").returncode == 0
    (own.bin / "show").chmod(0o775)
    assert own.run("show").returncode == NOT_ALLOWED


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o1777])
def test_a_directory_of_a_link_is_looked_at_too(own: Wrapped, mode: int) -> None:
    (own.directory / "real").chmod(mode)
    done = own.run("link")
    if mode & 0o1000:  # nobody else can exchange what is ours there
        assert done.returncode == 0
    else:
        assert (done.returncode, done.stdout) == (NOT_ALLOWED, "")


@_ROOT_ONLY
def test_a_link_that_another_made_is_not_followed(own: Wrapped) -> None:
    os.chown(own.bin / "link", _STRANGER, 0, follow_symlinks=False)
    assert own.run("link").returncode == NOT_ALLOWED


@pytest.mark.parametrize("part", ["rootwrap.d", "bin"])
def test_a_sticky_directory_is_no_place_for_what_is_looked_for(
    own: Wrapped, part: str
) -> None:
    """Others could put a file of another name there."""
    (own.directory / part).chmod(0o1777)
    assert own.run("show").returncode == BAD_POLICY


def test_a_file_of_ours_in_a_sticky_directory_is_ours(own: Wrapped) -> None:
    own.directory.chmod(0o1777)
    assert own.run("show").returncode == 0


@_ROOT_ONLY
def test_a_file_of_another_in_a_sticky_directory_is_not(own: Wrapped) -> None:
    own.directory.chmod(0o1777)
    os.chown(own.config, _STRANGER, 0)
    assert own.run("show").returncode == BAD_POLICY


@_ROOT_ONLY
def test_a_user_who_is_not_root_trusts_himself_and_root(own: Wrapped) -> None:
    own.directory.parent.parent.chmod(0o755)
    own.directory.parent.chmod(0o755)
    own.directory.chmod(0o755)
    pid = os.fork()
    if pid == 0:
        os.setresuid(_STRANGER, _STRANGER, _STRANGER)
        try:
            trust.read_file(str(own.config))
            os._exit(0)
        except BaseException:  # noqa: BLE001 - none may reach the test's own code
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    reachable = all(p.stat().st_mode & 1 for p in own.directory.parents)
    assert status == 0 or not reachable
    os.chown(own.config, 65533, 0)
    with pytest.raises(Untrusted):
        trust.read_file(str(own.config))


@pytest.mark.parametrize(
    "line", ["#!sh", "#! sh", "#!./sh", "#!", "#!   ", "#!evil/sh"]
)
def test_a_script_whose_interpreter_is_where_the_caller_is_is_not_run(
    own: Wrapped, line: str
) -> None:
    own.script("show", text=f"{line}\necho ran\n")
    shutil.copy("/bin/sh", own.directory / "sh")
    done = own.run("show", cwd=own.directory)
    assert (done.returncode, done.stdout) == (NOT_ALLOWED, "")
    assert "no absolute path" in done.stderr


@pytest.mark.parametrize("line", ["#!@dir/real/sh", "#! @dir/real/sh -e", "#!@dir/a"])
def test_a_script_whose_interpreter_others_may_write_is_not_run(
    own: Wrapped, line: str
) -> None:
    shell = own.directory / "real" / "sh"
    shutil.copy("/bin/sh", shell)
    (own.directory / "a").write_text(own.filled("#!@dir/real/sh\n"))
    (own.directory / "a").chmod(0o755)
    own.script("show", text=own.filled(f"{line}\necho ran\n"))
    assert own.run("show").returncode == 0
    shell.chmod(0o775)
    done = own.run("show")
    assert (done.returncode, done.stdout) == (NOT_ALLOWED, "")
    assert f"{shell} belongs to uid" in done.stderr


def test_interpreters_that_lead_round_are_no_executable(own: Wrapped) -> None:
    own.script("show", text=own.filled("#!@bin/show\n"))
    assert own.run("show").returncode == NO_EXECUTABLE


# The environment, the descriptors and the place that it is started in

_VARIABLES = [
    "BASH_ENV",
    "BASH_FUNC_show%%",
    "CDPATH",
    "ENV",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "HOSTALIASES",
    "IFS",
    "IP_LIB_DIR",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LD_AUDIT",
    "LD_DEBUG_OUTPUT",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LOCALDOMAIN",
    "LOCPATH",
    "MALLOC_TRACE",
    "NLSPATH",
    "PERL5LIB",
    "PERL5OPT",
    "PROMPT_COMMAND",
    "PS4",
    "PYTHONHOME",
    "PYTHONINSPECT",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONVERBOSE",
    "RESOLV_HOST_CONF",
    "RES_OPTIONS",
    "RUBYLIB",
    "RUBYOPT",
    "SHELLOPTS",
    "TERMCAP",
    "TMPDIR",
    "TZ",
    "XDG_RUNTIME_DIR",
]


@pytest.fixture(scope="module")
def showing(tmp_path_factory: pytest.TempPathFactory) -> Wrapped:
    wrapped = Wrapped(tmp_path_factory.mktemp("showing"))
    wrapped.configure(directories=["/usr/bin", "/bin"])
    wrapped.allow("env: CommandFilter, env, @me", "sh: CommandFilter, sh, @me")
    return wrapped


@pytest.fixture(scope="module")
def reached(showing: Wrapped) -> set[str]:
    """The variables of a command whose caller has set all of those."""
    done = showing.run("env", variables=dict.fromkeys(_VARIABLES, "/nowhere/evil"))
    assert done.returncode == 0
    return {line.partition("=")[0] for line in done.stdout.splitlines()}


@pytest.mark.parametrize("name", _VARIABLES)
def test_no_variable_of_the_caller_reaches_the_command(
    reached: set[str], name: str
) -> None:
    assert "PATH" in reached
    assert name not in reached


@pytest.mark.parametrize("path", ["@dir/evil", ".", "", ":", "evil", "@dir/evil:@bin"])
def test_the_callers_path_finds_nothing(wrapped: Wrapped, path: str) -> None:
    done = wrapped.run(
        "show",
        variables={"PATH": wrapped.filled(path)},
        cwd=wrapped.directory / "evil",
    )
    assert done.stdout == "ran\n"


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PATH", "IFS", "TAG2", "tag", "TAG "])
def test_an_env_filter_lets_no_other_variable_pass(wrapped: Wrapped, name: str) -> None:
    _is_refused(wrapped, "env", f"{name}=x", "show")
    _is_refused(wrapped, "env", "TAG=1", f"{name}=x", "show")
    _is_refused(wrapped, f"{name}=x", "TAG=1", "show")


@pytest.mark.parametrize(
    "option",
    ["-i", "-u", "-S", "-C", "--chdir=/", "--split-string=sh", "-", "--", "-v", "-0"],
)
def test_an_env_filter_lets_no_option_of_env_pass(
    wrapped: Wrapped, option: str
) -> None:
    _is_refused(wrapped, "env", option, "TAG=1", "show")
    _is_refused(wrapped, "env", "TAG=1", option, "show")


@pytest.mark.parametrize(
    "word",
    ["./show", "evil/show", "@dir/evil/show", "../evil/show", "@dir/evil", "@dir", "."],
)
def test_a_path_to_another_file_is_another_command(wrapped: Wrapped, word: str) -> None:
    _is_refused(wrapped, word)
    _is_refused(wrapped, word.replace("show", "touch"), "a")


# Words that are no words


@pytest.mark.parametrize("word", ["\0", "a\0", "\0a", "a\0b", "@dir/images/\0"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_word_with_a_nul_is_refused(wrapped: Wrapped, place: int, word: str) -> None:
    """The command would see what stands before it."""
    words = ["show", "x", "y"]
    words[place] = word
    _is_refused(wrapped, *words)


@pytest.mark.parametrize(
    "word", ["show\n", "\nshow", "sh\r\now", "show\x1b[2J", "\x85"]
)
def test_a_refusal_is_one_line_whatever_the_words(wrapped: Wrapped, word: str) -> None:
    done = wrapped.run(f"no{word}\nprivsep-rootwrap: forged")
    assert done.returncode == NOT_ALLOWED
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr


def test_a_long_word_is_a_word(wrapped: Wrapped) -> None:
    word = "x" * 131_000
    assert wrapped.run("show", word).stdout == f"ran\n{word}\n"


@pytest.mark.parametrize("command", ["show", "ip", "nice", "chown", "touch", "env"])
@pytest.mark.parametrize("length", [100_000, 1_000_000])
def test_a_very_long_word_is_judged(
    wrapped: Wrapped, command: str, length: int
) -> None:
    verdict = wrapped.judge(command, "x" * length)
    verdict.close()
    assert verdict.status in (0, NOT_ALLOWED)
    assert len(verdict.message) < 2000


def test_a_path_that_no_system_call_takes_is_refused(wrapped: Wrapped) -> None:
    """And its components are not looked at one by one."""
    _is_refused(wrapped, "chown", "nova", "@dir/images/" + "a/" * 60_000)


def test_a_very_long_command_is_not_repeated(wrapped: Wrapped) -> None:
    done = wrapped.run("x" * 131_000)
    assert done.returncode == NOT_ALLOWED
    assert len(done.stderr) < 2000


@pytest.mark.parametrize(
    "words",
    [
        ["show"] * 10_000,
        ["nope"] * 10_000,
        ["ip", *["netns", "exec", "one", "ip"] * 2_500],
        ["ip", *["-o"] * 10_000, "netns", "exec", "one", "sh"],
        [*["nice", "-n", "5"] * 3_333, "sh"],
        ["env", *["TAG=1"] * 10_000, "show"],
        ["TAG=1"] * 10_000,
        ["chown", *["nova"] * 10_000],
        ["kill", *["-9"] * 10_000],
    ],
)
def test_ten_thousand_words_are_judged(wrapped: Wrapped, words: list[str]) -> None:
    verdict = wrapped.judge(*words)
    verdict.close()
    assert verdict.allowed is (words[0] == "show")


# What stands in the place of a file


def test_a_fifo_is_no_file_of_filters(own: Wrapped) -> None:
    """And nobody waits for its writer."""
    os.mkfifo(own.filters / "fifo.filters", 0o644)
    done = own.run("show")
    assert (done.returncode, done.stdout) == (BAD_POLICY, "")
    assert "fifo.filters: it cannot be read: it is a fifo" in done.stderr


def test_a_fifo_is_no_config(own: Wrapped) -> None:
    own.config.unlink()
    os.mkfifo(own.config, 0o644)
    done = own.run("show")
    assert (done.returncode, done.stdout) == (BAD_POLICY, "")


def test_a_socket_is_no_file_of_filters(own: Wrapped) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(own.filters)
        try:
            listener.bind("socket.filters")
        finally:
            os.chdir("/")
        done = own.run("show")
    assert (done.returncode, done.stdout) == (BAD_POLICY, "")
    assert "it is a socket" in done.stderr


def test_a_device_is_no_config(own: Wrapped) -> None:
    done = own.call("/dev/null", "show")
    assert (done.returncode, done.stdout) == (BAD_POLICY, "")


def test_a_directory_is_no_config(own: Wrapped) -> None:
    done = own.call(str(own.directory), "show")
    assert (done.returncode, done.stdout) == (BAD_POLICY, "")
    assert "it is a directory" in done.stderr


def test_a_link_that_leads_round_is_no_config(own: Wrapped) -> None:
    own.config.unlink()
    own.config.symlink_to(own.config)
    assert own.run("show").returncode == BAD_POLICY


def test_a_link_that_leads_nowhere_is_no_file_of_filters(own: Wrapped) -> None:
    (own.filters / "gone.filters").symlink_to("nowhere")
    assert own.run("show").returncode == BAD_POLICY


def test_a_magic_link_does_not_lead_round_the_check(own: Wrapped) -> None:
    own.config.chmod(0o666)
    with own.config.open() as file, pytest.raises(BadPolicy, match="0666"):
        load(f"/proc/self/fd/{file.fileno()}")


@pytest.mark.skipif(IS_ROOT, reason="root may read any file")
@pytest.mark.parametrize("part", ["rootwrap.conf", "rootwrap.d/test.filters"])
def test_a_file_that_cannot_be_read_allows_nothing(own: Wrapped, part: str) -> None:
    (own.directory / part).chmod(0)
    done = own.run("show")
    assert (done.returncode, done.stdout) == (BAD_POLICY, "")
    assert "Permission denied" in done.stderr


@pytest.mark.skipif(IS_ROOT, reason="root may read any directory")
def test_a_directory_that_cannot_be_listed_allows_nothing(own: Wrapped) -> None:
    own.filters.chmod(0o311)
    done = own.run("show")
    own.filters.chmod(0o755)
    assert (done.returncode, done.stdout) == (BAD_POLICY, "")


@pytest.mark.parametrize("change", ["append", "truncate", "overwrite"])
def test_a_file_that_changes_while_it_is_read_is_not_used(
    own: Wrapped, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    read = os.read

    def read_and_change(descriptor: int, count: int) -> bytes:
        data = read(descriptor, count)
        if data.startswith(b"[DEFAULT]"):
            if change == "append":
                with own.config.open("a") as file:
                    file.write("exec_dirs = /evil\n")
            elif change == "truncate":
                os.truncate(own.config, 10)
            else:
                with own.config.open("r+") as file:
                    file.write("x")
                os.utime(own.config, ns=(0, 0))
        return data

    monkeypatch.setattr(os, "read", read_and_change)
    with pytest.raises(BadPolicy, match="it changed while it was read"):
        own.load()


def test_the_file_that_is_read_is_the_one_that_was_looked_at(
    own: Wrapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = trust.check
    other = own.directory / "other.conf"
    other.write_text("[DEFAULT]\nfilters_path = /nowhere\n")
    other.chmod(0o666)

    def check_and_exchange(
        status: os.stat_result, path: str, trusted: tuple[int, ...]
    ) -> None:
        check(status, path, trusted)
        if path == str(own.config):
            other.rename(own.config)

    monkeypatch.setattr(trust, "check", check_and_exchange)
    assert len(own.load().filters) == 3


def test_policies_are_read_whole_while_they_are_renewed(own: Wrapped) -> None:
    """By rename, as it should be: each is the old one or the new one."""
    lines = [f"n{n}: CommandFilter, none, @me" for n in range(2_000)]
    stop = threading.Event()

    def renew() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            new = own.directory / "new"
            head = "show: CommandFilter, show, @me"
            text = "\n".join(["[Filters]", *(lines[: turn % 2 * 2000]), head])
            new.write_text(own.filled(text))
            new.rename(own.filters / "test.filters")

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        counts = {len(own.load().filters) for _ in range(30)}
    finally:
        stop.set()
        thread.join()
    assert counts <= {2, 3, 2002}


# What a file of filters may hold


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        b"\xff\xfe[Filters]",
        b"[Filters",
        b"[]",
        b"[Filters]\n: CommandFilter, show, root\n",
        b"[Filters]\n = CommandFilter, show, root\n",
        b"show: CommandFilter, show, root\n",
        b"[Filters]\nshow\n",
        b"\x7fELF",
        b"#!/bin/sh\nshow\n",
        b"[Filters]\rshow",
        b"[Filters]\nshow: CommandFilter, , root\n",
        b"[Filters]\nshow: CommandFilter, show,\n",
    ],
)
def test_a_file_that_cannot_be_understood_allows_nothing(
    own: Wrapped, data: bytes
) -> None:
    (own.filters / "bad.filters").write_bytes(data)
    with pytest.raises(BadPolicy) as error:
        own.load()
    assert "\n" not in str(error.value)


def test_a_name_with_a_nul_is_a_name_that_no_command_has(own: Wrapped) -> None:
    own.allow("show: CommandFilter, sh\0ow, @me")
    _is_refused(own, "show")
    _is_refused(own, "sh\0ow")


def test_a_very_long_line_is_a_line(own: Wrapped) -> None:
    patterns = ", ".join(["a"] * 100_000)
    own.allow(f"show: RegExpFilter, show, @me, show, {patterns}")
    with own.judge("show", *["a"] * 100_000) as verdict:
        assert verdict.allowed
    _is_refused(own, "show", *["a"] * 99_999)


def test_no_section_of_another_name_allows_anything(own: Wrapped) -> None:
    own.allow("[filters]", "a: CommandFilter, show, @me", "[Other]", "b: X, y, z")
    assert own.run("show").returncode == NOT_ALLOWED


def test_an_executable_is_never_looked_for_in_the_working_directory(
    own: Wrapped,
) -> None:
    own.allow("only: CommandFilter, only, @me")
    script = own.directory / "only"
    script.write_text("#!/bin/sh\necho evil\n")
    script.chmod(0o755)
    assert own.run("only", cwd=own.directory).returncode == NO_EXECUTABLE


@pytest.mark.parametrize("name", ["exec_dirs", "filters_path"])
@pytest.mark.parametrize("path", ["bin", ".", "..", "./bin", "~/bin"])
def test_a_relative_directory_is_refused(own: Wrapped, name: str, path: str) -> None:
    with own.config.open("a") as file:
        file.write(f"{name} = {path}\n")
    with pytest.raises(BadPolicy, match="no absolute path"):
        own.load()


def test_an_option_for_people_cannot_follow_the_config(wrapped: Wrapped) -> None:
    """sudoers names the config first: what follows is the command."""
    for option in ("--check", "--list", "--convert"):
        assert wrapped.run(option, "/etc/shadow").returncode == NOT_ALLOWED


def test_a_verdict_that_refuses_cannot_be_carried_out(wrapped: Wrapped) -> None:
    from privsep.rootwrap.run import run

    verdict = judge(["nope"], wrapped.load())
    with pytest.raises(ValueError, match="does not allow"):
        run(verdict, 1024)


def test_a_pattern_that_takes_for_ever_can_be_ended(own: Wrapped) -> None:
    own.allow("show: RegExpFilter, show, @me, show, (a*)*b")
    with pytest.raises(subprocess.TimeoutExpired):
        own.run("show", "a" * 40, timeout=0.2)
