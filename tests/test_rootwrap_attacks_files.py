"""Nobody else can write the policy, or what runs; and no policy is half read."""

from __future__ import annotations

import os
import shutil
import socket
import threading

import pytest
from conftest import IS_ROOT
from rootwrap_attacks import STRANGER, is_refused, own, root_only
from wrapping import BAD_POLICY, NO_EXECUTABLE, NOT_ALLOWED, Wrapped

from privsep._start import trust
from privsep.rootwrap import BadPolicy, Untrusted, load

__all__ = ["own"]


# Whose they are

_PARTS = {
    "config": "rootwrap.conf",
    "directory of filters": "rootwrap.d",
    "filters": "rootwrap.d/test.filters",
    "directory of executables": "bin",
    "directory above": ".",
}
_EXECUTABLES = {"executable": "bin/show", "target of a link": "real/link"}


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


@root_only
@pytest.mark.parametrize("part", _PARTS)
def test_a_policy_that_another_owns_is_refused(own: Wrapped, part: str) -> None:
    place = own.directory / _PARTS[part]
    os.chown(place, STRANGER, 0)
    with pytest.raises(BadPolicy) as error:
        own.load()
    assert f"{place.resolve()} belongs to uid {STRANGER}" in str(error.value)


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


@root_only
@pytest.mark.parametrize("part", _EXECUTABLES)
def test_an_executable_that_another_owns_is_not_run(own: Wrapped, part: str) -> None:
    place = own.directory / _EXECUTABLES[part]
    os.chown(place, STRANGER, 0)
    done = own.run("link" if "link" in part else "show")
    assert (done.returncode, done.stdout) == (NOT_ALLOWED, "")
    assert f"{place.resolve()} belongs to uid {STRANGER}" in done.stderr


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


@root_only
def test_a_link_that_another_made_is_not_followed(own: Wrapped) -> None:
    os.chown(own.bin / "link", STRANGER, 0, follow_symlinks=False)
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


@root_only
def test_a_file_of_another_in_a_sticky_directory_is_not(own: Wrapped) -> None:
    own.directory.chmod(0o1777)
    os.chown(own.config, STRANGER, 0)
    assert own.run("show").returncode == BAD_POLICY


@root_only
def test_a_user_who_is_not_root_trusts_himself_and_root(own: Wrapped) -> None:
    own.directory.parent.parent.chmod(0o755)
    own.directory.parent.chmod(0o755)
    own.directory.chmod(0o755)
    pid = os.fork()
    if pid == 0:
        os.setresuid(STRANGER, STRANGER, STRANGER)
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
    is_refused(own, "show")
    is_refused(own, "sh\0ow")


def test_a_very_long_line_is_a_line(own: Wrapped) -> None:
    patterns = ", ".join(["a"] * 100_000)
    own.allow(f"show: RegExpFilter, show, @me, show, {patterns}")
    with own.judge("show", *["a"] * 100_000) as verdict:
        assert verdict.allowed
    is_refused(own, "show", *["a"] * 99_999)


def test_no_section_of_another_name_allows_anything(own: Wrapped) -> None:
    own.allow("[filters]", "a: CommandFilter, show, @me", "[Other]", "b: X, y, z")
    assert own.run("show").returncode == NOT_ALLOWED
