"""How rootwrap's daemon runs a command: as in one-shot mode."""

from __future__ import annotations

import os
import pwd
import re
import signal
from typing import TYPE_CHECKING

import pytest
from commanding import (
    LAUNCHER,
    Shared,
    client,
    client_of,
    make_policy,
    own,
    reading,
    shared,
    shell,
    worker_of,
)
from conftest import IS_ROOT
from procfs import children
from wrapping import NO_EXECUTABLE, NOT_ALLOWED

import privsep
from privsep.rootwrap import Client

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["client", "own", "shared", "shell"]


_ROOT_ONLY = pytest.mark.skipif(not IS_ROOT, reason="only root may become another")
_SURROUNDINGS = """
umask; pwd; env | sort; ulimit -a -S; ulimit -a -H; ls /proc/$$/fd
grep -E '^(Uid|Gid|Groups|Sig(Ign|Blk|Cgt|Pnd)|Cap...|NoNewPrivs|Seccomp):' \
    /proc/self/status
cat /proc/self/oom_score_adj
"""


def _without_own_signals(found: str) -> list[str]:
    """Return lines; the C library's posix_spawn leaves its own signals ignored."""
    return re.sub(r"SigIgn:\t0{7}[01][08]", "SigIgn:\t000000000", found).splitlines()


def test_a_command_has_what_it_has_in_one_shot_mode(
    shared: Shared, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Environment, directory, umask, limits, descriptors, signals, privileges."""
    monkeypatch.chdir("/usr")
    command = [shell, "-c", _SURROUNDINGS]
    one_shot = shared.wrapped.run(*command, cwd="/usr").stdout
    assert "/usr\n" in one_shot
    found = shared.client.execute(command).stdout
    assert _without_own_signals(found) == _without_own_signals(one_shot)


@pytest.mark.parametrize("before", ["000", "027", "077"])
def test_the_umask_of_the_starter_is_kept_as_far_as_it_is_strict(
    tmp_path: Path, before: str
) -> None:
    wrapped = make_policy(tmp_path)
    start = ["sh", "-c", f'umask {before}; exec "$@"', "sh"]
    with Client([*start, LAUNCHER, str(wrapped.config)]) as client:
        mask = int(client.execute(["sh", "-c", "umask"]).stdout, 8)
    assert mask == int(before, 8) | 0o022


def test_rlimit_nofile_lowers_the_soft_limit_only(tmp_path: Path) -> None:
    wrapped = make_policy(tmp_path, "rlimit_nofile = 100")
    script = ["sh", "-c", "ulimit -Sn; ulimit -Hn"]
    with client_of(wrapped) as client:
        assert client.execute(script).stdout == wrapped.run(*script).stdout


def test_no_worker_leaves_a_descriptor_to_its_command(own: Shared) -> None:
    """Neither the one that is forked ahead, nor one that is forked for a client."""
    listing = ["sh", "-c", "ls /proc/$$/fd"]
    assert own.client.execute(listing).stdout.split() == ["0", "1", "2"]
    with reading(own.client):
        assert own.client.execute(listing).stdout.split() == ["0", "1", "2"]


def test_a_command_leads_a_process_group_without_a_terminal(
    client: Client, shell: str
) -> None:
    done = client.execute([shell, "-c", "ps -o pid=,pgid=,tty= -p $$"])
    pid, group, terminal = done.stdout.split()
    assert pid == group
    assert terminal == "?"


def test_a_path_is_one_of_where_the_caller_is(
    own: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "file").write_text("here")
    own.wrapped.allow(f"cat: PathFilter, cat, @me, {place}")
    assert own.client.execute(["cat", "file"]).returncode == NOT_ALLOWED
    monkeypatch.chdir(place)
    assert own.client.execute(["cat", "file"]) == (0, "here", "")


def test_a_variable_crosses_by_an_env_filter(client: Client) -> None:
    command = ["env", "TAG=one two", "sh", "-c", "echo $TAG"]
    assert client.execute(command) == (0, "one two\n", "")


@_ROOT_ONLY
def test_a_command_of_another_user_is_that_user(client: Client) -> None:
    entry = pwd.getpwnam("nobody")
    status = client.execute(["id"]).stdout
    assert status.startswith(f"uid={entry.pw_uid}(nobody) gid={entry.pw_gid}(")
    assert "root" not in status


def test_a_kill_is_sent(own: Shared) -> None:
    client = own.client
    worker = worker_of(client)
    with client.popen(["nap", "1000"]) as process:
        (pid,) = children(worker)
        assert client.execute(["kill", "-15", str(pid)]).returncode == NOT_ALLOWED
        assert client.execute(["kill", "-9", str(pid)]) == (0, "", "")
        assert process.wait() == -signal.SIGKILL
    assert client.execute(["kill", "-9", str(os.getpid())]).returncode == NOT_ALLOWED


@pytest.mark.parametrize("shell", ["sh", "forked"])
def test_more_words_than_the_system_takes_run_nothing(
    client: Client, shell: str
) -> None:
    words = [shell, "-c", "echo ran", *["x" * 100_000] * 30]
    assert client.execute(words) == (NO_EXECUTABLE, "", "")


def test_a_message_is_bounded(client: Client) -> None:
    with pytest.raises(privsep.MessageTooLarge):
        client.execute(["show", "x" * (9 << 20)])
    assert client.execute(["true"]).returncode == 0


def test_a_timeout_of_the_policy_ends_a_command(own: Shared) -> None:
    own.wrapped.allow("nap: CommandFilter, nap, @me", "[Options nap]", "timeout = 0.05")
    assert own.client.execute(["nap", "1000"]).returncode == -signal.SIGALRM
