"""Commands by way of rootwrap's daemon: as in one-shot mode, as of subprocess."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import os
import pwd
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from conftest import IS_ROOT
from test_monkey_patched import EVENTLET, GEVENT
from wrapping import BAD_POLICY, NO_COMMAND, NO_EXECUTABLE, NOT_ALLOWED, Wrapped

import privsep
import scripts
from privsep._client.pending import NotStarted, PendingCall
from privsep._daemon.idle import Idleness
from privsep._daemon.slots import Slots
from privsep.rootwrap import Client, Process
from privsep.rootwrap.client import _RUN

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from public_python import PublicPython

_ROOT_ONLY = pytest.mark.skipif(not IS_ROOT, reason="only root may become another")
_LAUNCHER = str(Path(sys.executable).with_name("privsep-rootwrap-daemon"))
_LATE = 60.0  # seconds: what hangs fails its test, not the suite


def _client(wrapped: Wrapped) -> Client:
    return Client([_LAUNCHER, str(wrapped.config)])


def _wrapped(directory: Path, *options: str) -> Wrapped:
    """Return a policy with commands of many kinds."""
    wrapped = Wrapped(directory)
    wrapped.configure(*options, directories=["/usr/bin", "/bin"])
    wrapped.script("show")
    wrapped.copy("sh", "forked")
    wrapped.copy("sleep", "nap")
    names = ("show", "sh", "cat", "true", "gone", "forked", "nap")
    wrapped.allow(
        *[f"{name}: CommandFilter, {name}, @me" for name in names],
        "nobodys: CommandFilter, nobodys, nobody-of-that-name",
        "other: CommandFilter, id, nobody",
        "slow: RegExpFilter, slow, @me, slow, (a+)+$",
        "tagged: EnvFilter, env, @me, TAG=, sh",
        "kill: KillFilter, @me, @bin/nap, -9",
        # What posix_spawn cannot do.
        *("[Options forked]", "no_new_privs = true"),
        *("[Options nap]", "timeout = 600"),
    )
    return wrapped


class Shared(NamedTuple):
    """A policy, and a daemon of it that many tests use."""

    wrapped: Wrapped
    client: Client


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    wrapped = _wrapped(tmp_path_factory.mktemp("rootwrap"))
    with _client(wrapped) as client:
        client.execute(["true"])
        yield Shared(wrapped, client)


@pytest.fixture
def client(shared: Shared) -> Client:
    return shared.client


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Shared]:
    """A daemon of the test's own, to be killed or to be given many calls at once."""
    wrapped = _wrapped(tmp_path)
    with _client(wrapped) as client:
        yield Shared(wrapped, client)


@pytest.fixture(params=["sh", "forked"])
def shell(request: pytest.FixtureRequest) -> str:
    """A shell that is spawned, and one that is forked."""
    name: str = request.param
    return name


class Fifo:
    """A fifo by which a command tells something, and a test waits for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        # Both ends: so that neither side's opening waits, nor its end is seen.
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def read(self) -> str:
        """Wait for a line and return it."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        assert poll.poll(_LATE * 1000), f"nobody writes to {self.path}"
        return os.read(self._descriptor, 4096).decode().strip()

    def has_come(self) -> bool:
        """Return whether there is something to read."""
        return bool(select.select([self._descriptor], [], [], 0)[0])

    def write(self) -> None:
        """Let one command that reads a line go on."""
        os.write(self._descriptor, b"go on\n")

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def said(tmp_path: Path) -> Iterator[Fifo]:
    fifo = Fifo(tmp_path / "said")
    yield fifo
    fifo.close()


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Fifo]:
    fifo = Fifo(tmp_path / "held")
    yield fifo
    fifo.close()


def _wait_for_end(pid: int) -> None:
    """Wait until a process has ended that may be nobody's we know."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(_LATE * 1000), f"process {pid} goes on"
    os.close(pidfd)


def _daemon_of(client: Client) -> int:
    """Return the pid of the daemon: the parent of a command's worker.

    The command looks itself: afterwards a daemon that ends has no such worker.
    """
    shown = client.execute(["sh", "-c", "grep ^PPid: /proc/$PPID/status"]).stdout
    return int(shown.removeprefix("PPid:"))


# What comes back


def test_a_command_runs_with_its_words(client: Client) -> None:
    words = ["show", "one two", "", "*", "ü\udcff", "-x"]
    assert client.execute(words) == (0, "ran\none two\n\n*\nü\udcff\n-x\n", "")


def test_words_may_be_bytes_and_paths(client: Client) -> None:
    done = client.execute([b"show", Path("/a"), b"\xff"])
    assert done.stdout == "ran\n/a\n\udcff\n"


def test_a_text_is_no_command(client: Client) -> None:
    with pytest.raises(ValueError, match="must be a sequence of words"):
        client.execute("show")
    with pytest.raises(ValueError, match="must be a sequence of words"):
        Client("sudo privsep-rootwrap-daemon")


def test_output_and_errors_come_apart(client: Client, shell: str) -> None:
    done = client.execute([shell, "-c", "echo out; echo err >&2; exit 7"])
    assert done == (7, "out\n", "err\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


@pytest.mark.parametrize(
    ("given", "got"),
    [("ü\udcff", "ü\udcff"), (b"\xc3\xbc\xff\0", "ü\udcff\0"), ("", "")],
)
def test_a_command_reads_what_it_is_given(
    client: Client, given: str | bytes, got: str
) -> None:
    assert client.execute(["cat"], given) == (0, got, "")


def test_a_command_that_is_given_nothing_reads_nothing(
    client: Client, shell: str
) -> None:
    done = client.execute([shell, "-c", "readlink /proc/self/fd/0; cat"])
    assert done == (0, "/dev/null\n", "")


def test_megabytes_go_both_ways_at_once(client: Client) -> None:
    text = "0123456789abcdef" * (1 << 17)
    script = "tee /dev/stderr"
    assert client.execute(["sh", "-c", script], text) == (0, text, text)


def test_a_command_need_not_read_all_that_it_is_given(client: Client) -> None:
    assert client.execute(["sh", "-c", "exit 3"], "x" * (1 << 20)) == (3, "", "")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["other"], NOT_ALLOWED),
        ([""], NOT_ALLOWED),
        (["show", "a\0b"], NOT_ALLOWED),
        (["gone"], NO_EXECUTABLE),
        (["nobodys"], BAD_POLICY),
        ([], NO_COMMAND),
    ],
)
def test_what_does_not_run_has_a_status_and_no_output(
    shared: Shared, words: list[str], status: int
) -> None:
    shared.wrapped.script("nobodys")
    assert shared.client.execute(words) == (status, "", "")
    process = shared.client.popen(words)
    assert process.returncode == status


@pytest.mark.parametrize("name", ["broken", "forked-broken"])
def test_what_cannot_be_executed_has_a_status_and_no_output(
    own: Shared, name: str
) -> None:
    own.wrapped.script(name, text="no first line\n")
    own.wrapped.allow(
        f"{name}: CommandFilter, {name}, @me",
        *("[Options forked-broken]", "no_new_privs = true") * (name != "broken"),
    )
    assert own.client.execute([name]) == (NO_EXECUTABLE, "", "")
    assert own.client.popen([name]).wait() == NO_EXECUTABLE


def test_a_signal_is_a_negative_status(client: Client, shell: str) -> None:
    done = client.execute([shell, "-c", "echo x; kill -KILL $$"])
    assert done == (-signal.SIGKILL, "x\n", "")


def test_why_nothing_runs_is_logged(
    own: Shared, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "privsep.rootwrap"):
        own.client.execute(["other"])
        own.client.close()
    assert "'other' is not allowed: no filter is for 'other'" in caplog.text


# How a command runs

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
    wrapped = _wrapped(tmp_path)
    start = ["sh", "-c", f'umask {before}; exec "$@"', "sh"]
    with Client([*start, _LAUNCHER, str(wrapped.config)]) as client:
        mask = int(client.execute(["sh", "-c", "umask"]).stdout, 8)
    assert mask == int(before, 8) | 0o022


def test_rlimit_nofile_lowers_the_soft_limit_only(tmp_path: Path) -> None:
    wrapped = _wrapped(tmp_path, "rlimit_nofile = 100")
    script = ["sh", "-c", "ulimit -Sn; ulimit -Hn"]
    with _client(wrapped) as client:
        assert client.execute(script).stdout == wrapped.run(*script).stdout


def test_no_worker_leaves_a_descriptor_to_its_command(own: Shared) -> None:
    """Neither the one that is forked ahead, nor one that is forked for a client."""
    listing = ["sh", "-c", "ls /proc/$$/fd"]
    assert own.client.execute(listing).stdout.split() == ["0", "1", "2"]
    with _reading(own.client):
        assert own.client.execute(listing).stdout.split() == ["0", "1", "2"]


@contextmanager
def _reading(client: Client) -> Generator[Process]:
    """Run a command that ends with the ``with``."""
    reader, writer = os.pipe()
    try:
        with client.popen(["cat"], stdin=reader) as process:
            os.close(reader)
            yield process
            os.close(writer)
    except BaseException:
        os.close(writer)
        raise


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
    seconds = str(1000 + os.getpid())  # nobody else's
    with client.popen(["nap", seconds]) as process:
        pid = _child_of_a_worker(f"nap {seconds}")
        assert client.execute(["kill", "-15", str(pid)]).returncode == NOT_ALLOWED
        assert client.execute(["kill", "-9", str(pid)]) == (0, "", "")
        assert process.wait() == -signal.SIGKILL
    assert client.execute(["kill", "-9", str(os.getpid())]).returncode == NOT_ALLOWED


def _child_of_a_worker(command: str) -> int:
    done = subprocess.run(
        ["pgrep", "-nf", f"{command}$"], capture_output=True, check=True
    )
    return int(done.stdout)


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


# popen


def test_a_command_has_the_very_descriptors_that_it_is_given(
    client: Client, shell: str, tmp_path: Path
) -> None:
    names = [tmp_path / name for name in ("in", "out", "err")]
    (tmp_path / "in").write_text("given")
    with (
        names[0].open() as stdin,
        names[1].open("w") as stdout,
        names[2].open("w") as stderr,
    ):
        process = client.popen(
            [shell, "-c", "readlink /proc/$$/fd/0; cat; echo err >&2"],
            stdin=stdin,
            stdout=stdout.fileno(),
            stderr=stderr,
        )
        assert process.wait() == 0
    assert names[1].read_text() == f"{names[0]}\ngiven"
    assert names[2].read_text() == "err\n"


def test_a_command_that_is_given_no_descriptors_has_the_callers(own: Shared) -> None:
    lines = scripts.run(
        """
        import sys
        from privsep.rootwrap import Client
        with Client(sys.argv[1:]) as client:
            print("before", flush=True)
            client.popen(["sh", "-c", "echo $0 $1; cat", "a", "b"]).wait()
            print("after")
        """,
        _LAUNCHER,
        own.wrapped.config,
    )
    assert lines == ["before", "a b", "after"]


def test_output_streams(client: Client) -> None:
    reader, writer = os.pipe()
    stdin, ours = os.pipe()
    with (
        open(reader) as output,
        client.popen(["cat"], stdin=stdin, stdout=writer) as process,
    ):
        os.close(writer)
        os.close(stdin)
        for line in ("one\n", "two\n"):
            os.write(ours, line.encode())
            assert output.readline() == line
            assert process.poll() is None
        os.close(ours)
        assert output.read() == ""
        assert process.wait() == process.poll() == process.returncode == 0


@pytest.mark.parametrize("what", ["closed", "none", "negative"])
def test_what_is_no_open_descriptor_is_an_error_at_once(
    client: Client, what: str
) -> None:
    number = os.open("/dev/null", os.O_RDONLY)
    os.close(number)
    given = {"closed": number, "none": "x", "negative": subprocess.PIPE}[what]
    with pytest.raises((OSError, ValueError, AttributeError)):
        client.popen(["true"], stdout=given)  # type: ignore[arg-type]
    assert client.execute(["true"]).returncode == 0


@pytest.mark.parametrize(
    ("send", "number"),
    [
        (Process.terminate, signal.SIGTERM),
        (Process.kill, signal.SIGKILL),
        (lambda process: process.send_signal(signal.SIGUSR1), signal.SIGUSR1),
        (lambda process: process.send_signal(40), 40),
    ],
)
def test_a_signal_reaches_the_command(
    client: Client, shell: str, send: Callable[[Process], None], number: int
) -> None:
    process = client.popen([shell, "-c", "read x"], stdin=_never())
    assert process.poll() is None
    send(process)
    assert process.wait() == -number
    send(process)  # nobody gets it
    assert process.returncode == -number


def _never() -> int:
    """Return a descriptor from which nothing can ever be read, nor its end."""
    return _NEVER[0]


_NEVER = os.pipe()


def test_there_must_be_such_a_signal(client: Client) -> None:
    process = client.popen(["sh", "-c", "read x"], stdin=_never())
    for number in (0, -9, 99):
        with pytest.raises(ValueError, match=f"there is no signal {number}"):
            process.send_signal(number)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_waiting_may_be_bounded(client: Client) -> None:
    process = client.popen(["cat"], stdin=_never())
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.kill()
    assert process.wait(_LATE) == -signal.SIGKILL


def test_one_thread_waits_and_another_kills(client: Client) -> None:
    process = client.popen(["cat"], stdin=_never())
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(process.wait) for _ in range(2)]
        process.kill()
        assert [each.result() for each in waiting] == [-signal.SIGKILL] * 2


def test_a_process_shows_its_command(client: Client) -> None:
    process = client.popen(["sh", "-c", "exit 3"])
    process.wait()
    assert repr(process) == "<Process ['sh', '-c', 'exit 3'], returncode 3>"


def test_a_command_goes_on_when_nobody_uses_it(
    own: Shared, said: Fifo, held: Fifo
) -> None:
    process = own.client.popen(
        ["sh", "-c", f"read x < {held.path}; echo x > {said.path}"]
    )
    del process
    held.write()
    assert said.read() == "x"


# How long


_TIMEOUTS = (0.1, 1.0, 10.0, _LATE)  # until the command has come so far, under load


def test_a_command_that_takes_too_long_is_killed_with_its_group(
    client: Client, shell: str, said: Fifo
) -> None:
    script = f"sleep 1000 & echo $! > {said.path}; wait"
    for timeout in _TIMEOUTS:
        with pytest.raises(privsep.CallTimeout, match=f"did not end in {timeout:g} s"):
            client.execute([shell, "-c", script], timeout=timeout)
        if said.has_come():
            break
    _wait_for_end(int(said.read()))


def test_a_timeout_ends_a_judge_that_finds_no_end(own: Shared) -> None:
    """A pattern that takes for ever holds one worker, for the caller's time."""
    client = own.client
    with pytest.raises(privsep.CallTimeout):
        client.execute(["slow", "a" * 64 + "b"], timeout=0.05)
    assert client.execute(["true"], timeout=_LATE).returncode == 0


def test_an_interrupt_kills_the_command(own: Shared, said: Fifo) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    def send() -> None:
        pids.append(int(said.read()))
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    thread = threading.Thread(target=send)
    pids: list[int] = []
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            script = f"echo $$ > {said.path}; exec sleep 1000"
            own.client.execute(["sh", "-c", script])
    finally:
        signal.signal(signal.SIGUSR1, before)
        thread.join()
    _wait_for_end(pids[0])


# Many at once


def test_many_threads_run_commands_at_once(own: Shared, said: Fifo, held: Fifo) -> None:
    """None ends before all have begun."""
    script = f"echo $0 > {said.path}; read x < {held.path}; echo $0"
    with ThreadPoolExecutor(8) as threads:
        calls = [
            threads.submit(own.client.execute, ["sh", "-c", script, str(number)])
            for number in range(8)
        ]
        begun: set[str] = set()
        while len(begun) < 8:
            begun.update(said.read().split())
        for _ in calls:
            held.write()
        done = [each.result() for each in calls]
    assert done == [(0, f"{number}\n", "") for number in range(8)]


def test_each_thread_gets_its_own_output(own: Shared) -> None:
    def call(number: int) -> bool:
        text = f"{number}" * 1000
        return own.client.execute(["cat"], text) == (0, text, "")

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(call, range(80)))


def test_calls_leave_nothing_behind(own: Shared) -> None:
    """No descriptor in the client, the daemon or its worker; and no zombie."""

    def call() -> None:
        own.client.execute(["true"], "x")
        own.client.execute(["other"])
        own.client.execute(["forked", "-c", "exit 1"])
        own.client.popen(["true"]).wait()
        with pytest.raises(privsep.Refused):
            _call(own.client, ["true", *_valid()[1:]])

    daemon = _daemon_of(own.client)
    call()
    before = _held_by(daemon)
    for _ in range(20):
        call()
    assert _held_by(daemon) == before


def _held_by(daemon: int) -> list[int]:
    """Return how many descriptors and children this process and the daemon's have."""
    workers = _children(daemon)
    pids = [os.getpid(), daemon, *workers]
    return [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids] + [
        len(_children(pid)) for pid in pids[1:]
    ]


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def test_a_forked_child_of_the_client_has_commands_of_its_own(own: Shared) -> None:
    with _reading(own.client):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                if own.client.execute(["cat"], "x") == (0, "x", ""):
                    status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert own.client.execute(["cat"], "y") == (0, "y", "")


# The daemon's life


def test_the_first_command_starts_the_daemon(own: Shared) -> None:
    before = _children(os.getpid())
    assert own.client.execute(["true"]).returncode == 0
    assert len(_children(os.getpid())) == len(before) + 1


def test_running_commands_finish_when_the_daemon_is_told_to_end(
    own: Shared, said: Fifo, held: Fifo
) -> None:
    daemon = _daemon_of(own.client)
    script = f"echo x > {said.path}; read x < {held.path}; echo done"
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(own.client.execute, ["sh", "-c", script])
        said.read()
        os.kill(daemon, signal.SIGTERM)
        while _daemon_of(own.client) == daemon:  # it has not heard of that yet
            pass
        held.write()
        assert call.result() == (0, "done\n", "")
    _wait_for_end(daemon)


def test_a_call_ends_at_once_when_the_daemon_is_killed(
    own: Shared, said: Fifo, held: Fifo, tmp_path: Path
) -> None:
    """It is an error, and nothing runs twice; the next starts another daemon."""
    daemon = _daemon_of(own.client)
    script = f"echo x >> {tmp_path}/ran; echo x > {said.path}; read x < {held.path}"
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(own.client.execute, ["sh", "-c", script])
        said.read()
        os.kill(daemon, signal.SIGKILL)
        with pytest.raises(privsep.DaemonGone):
            call.result()
    assert _daemon_of(own.client) != daemon
    held.write()
    assert (tmp_path / "ran").read_text() == "x\n"


def test_who_waits_for_a_process_hears_that_the_daemon_was_killed(
    own: Shared, said: Fifo, held: Fifo
) -> None:
    daemon = _daemon_of(own.client)
    script = f"read x < {held.path}; echo x > {said.path}"
    process = own.client.popen(["sh", "-c", script])
    os.kill(daemon, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(privsep.DaemonGone):
            process.wait()
    with pytest.raises(privsep.DaemonGone):
        process.poll()
    process.kill()
    held.write()
    assert said.read() == "x"


def test_a_command_that_was_not_begun_is_begun_by_the_next_daemon(own: Shared) -> None:
    """What the daemon has not seen may be sent again."""
    daemon = _daemon_of(own.client)
    for number in (signal.SIGTERM, signal.SIGKILL):
        workers = _children(daemon)
        os.kill(daemon, number)
        for pid in (daemon, *workers):
            _wait_for_end(pid)
        daemon = _daemon_of(own.client)


def test_a_command_that_its_worker_did_not_begin_goes_to_another(
    own: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that retires says so, where it has read no whole call."""
    retired: list[PendingCall] = []
    result = PendingCall.result

    def retire_once(call: PendingCall) -> object:
        if retired:
            return result(call)
        retired.append(call)
        call.abandon()
        raise NotStarted

    monkeypatch.setattr(PendingCall, "result", retire_once)
    assert own.client.execute(["cat"], "x") == (0, "x", "")
    retired.clear()
    assert asyncio.run(own.client.aexecute(["cat"], "x")) == (0, "x", "")
    retired.clear()
    assert own.client.popen(["other"]).wait() == NOT_ALLOWED


def test_an_idle_daemon_ends_and_is_started_again(tmp_path: Path) -> None:
    wrapped = _wrapped(tmp_path, "daemon_timeout = 1")
    with _client(wrapped) as client:
        daemon = _daemon_of(client)
        _wait_for_end(daemon)
        assert _daemon_of(client) != daemon


def test_a_daemon_that_runs_a_command_is_not_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = itertools.count()
    monkeypatch.setattr("privsep._daemon.idle.monotonic", lambda: next(seconds))
    slots = Slots(2)
    slot = slots.slot(slots.take())
    idleness = Idleness(slots, 4.0)
    slot.begin(math.inf)
    assert not any(idleness.is_over() for _ in range(20))
    slot.end()
    idle = [idleness.is_over() for _ in range(6)]
    assert idle[:4] == [False] * 4  # the first look is that which saw the end
    assert any(idle)
    slots.close_reader()
    os.close(slot._writer or -1)


def test_commands_outlive_the_client(own: Shared, said: Fifo, held: Fifo) -> None:
    script = f"read x < {held.path}; echo x > {said.path}"
    scripts.run(
        """
        import sys
        from privsep.rootwrap import Client
        client = Client(sys.argv[1:3])
        client.popen(["sh", "-c", sys.argv[3]], stdout=0, stderr=0)
        """,
        _LAUNCHER,
        own.wrapped.config,
        script,
    )
    held.write()
    assert said.read() == "x"


def test_a_client_that_is_used_no_more_lets_the_daemon_go(tmp_path: Path) -> None:
    client = _client(_wrapped(tmp_path))
    daemon = _daemon_of(client)
    del client
    gc.collect()
    _wait_for_end(daemon)


def test_a_client_may_be_used_again_after_it_was_closed(own: Shared) -> None:
    daemon = _daemon_of(own.client)
    own.client.close()
    assert not Path(f"/proc/{daemon}").exists()
    assert _daemon_of(own.client) != daemon


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "rootwrap.conf: it cannot be read: No such file or directory"),
        ("nothing\n", "rootwrap.conf:1: "),
        ("[DEFAULT]\n", "rootwrap.conf: filters_path is missing"),
    ],
)
def test_a_daemon_without_a_policy_does_not_start(
    tmp_path: Path, text: str | None, said: str
) -> None:
    config = tmp_path / "rootwrap.conf"
    if text is not None:
        config.write_text(text)
    client = Client([_LAUNCHER, str(config)])
    with pytest.raises(privsep.StartError) as raised:
        client.execute(["true"])
    assert said in str(raised.value)
    assert "it ended with status 97" in str(raised.value)
    assert _LAUNCHER in str(raised.value)


def test_a_policy_that_others_may_write_starts_no_daemon(tmp_path: Path) -> None:
    wrapped = _wrapped(tmp_path)
    (wrapped.filters / "test.filters").chmod(0o666)
    with pytest.raises(privsep.StartError, match="mode 0666"):
        _client(wrapped).execute(["true"])


@pytest.mark.parametrize("arguments", [[], ["a", "b"]])
def test_the_daemon_takes_one_argument(arguments: list[str]) -> None:
    done = subprocess.run(
        [_LAUNCHER, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == BAD_POLICY
    assert done.stderr.startswith("privsep-rootwrap: usage: privsep-rootwrap-daemon")


def test_the_daemon_is_started_by_a_client_only(shared: Shared) -> None:
    done = subprocess.run(
        [_LAUNCHER, shared.wrapped.config],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "standard input is not a control socket: privsep starts this program\n"
    )


def test_what_was_skipped_in_the_policy_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrapped = _wrapped(tmp_path)
    wrapped.allow("odd: DnsmasqFilter, /x, root", "true: CommandFilter, true, @me")
    with _client(wrapped) as client:
        assert client.execute(["true"]).returncode == 0
    assert "odd is skipped: no filter class 'DnsmasqFilter'" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IFS", "/"),
        ("ENV", "/tmp/x"),
        ("BASH_ENV", "/tmp/x"),
        ("PYTHONPATH", "/tmp"),
        ("PYTHONHOME", "/tmp"),
        ("PYTHONUTF8", "0"),
        ("LC_ALL", "tr_TR.ISO-8859-9"),
        ("LD_LIBRARY_PATH", "/tmp"),
        ("BASH_FUNC_exec%%", "() { echo evil; }"),
    ],
)
def test_no_variable_of_the_starter_sways_the_daemon(
    shared: Shared, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with _client(shared.wrapped) as client:
        done = client.execute(["sh", "-c", "echo $0; env", "ü"])
    first, *variables = done.stdout.splitlines()
    assert first == "ü"
    names = {line.partition("=")[0] for line in variables}
    assert names == {"PATH", "HOME", "LOGNAME", "USER", "PWD"}


def test_an_unprivileged_user_runs_commands_by_sudo(
    tmp_path: Path,
    public_python: PublicPython,
    unprivileged_user: str,
    sudoers_rule: Callable[..., None],
) -> None:
    wrapped = Wrapped(tmp_path)
    wrapped.configure(directories=["/usr/bin"])
    wrapped.allow(
        "id: CommandFilter, id, root",
        "cat: CommandFilter, cat, root",
    )
    command = [public_python.rootwrap_daemon, str(wrapped.config)]
    sudoers_rule(command)
    lines = public_python.run(
        """
        import os, sys
        from privsep.rootwrap import Client
        with Client(["sudo", "-n", *sys.argv[1:]]) as client:
            print(os.getuid() != 0, client.execute(["id", "-u"]).stdout.strip())
            print(client.execute(["id", "-G"]).stdout.strip())
            print(client.execute(["cat"], "x" * 100_000).stdout == "x" * 100_000)
            process = client.popen(["cat"], stdin=os.pipe()[0])
            process.kill()
            print(process.wait(), client.execute(["sh"]).returncode)
        """,
        *command,
        user=unprivileged_user,
    )
    groups = " ".join(map(str, os.getgrouplist("root", 0)))
    assert lines == ["True 0", groups, "True", "-9 99"]


def test_no_command_runs_where_its_caller_may_not_go(
    tmp_path: Path,
    public_python: PublicPython,
    unprivileged_user: str,
    sudoers_rule: Callable[..., None],
) -> None:
    """To open it by O_PATH takes no leave; one that is allowed goes on."""
    wrapped = Wrapped(tmp_path)
    wrapped.configure(directories=["/usr/bin"])
    wrapped.allow("cat: RegExpFilter, cat, root, cat, secret")
    command = [public_python.rootwrap_daemon, str(wrapped.config)]
    sudoers_rule(command)
    with tempfile.TemporaryDirectory() as hidden, ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory())
        os.chmod(place, 0o710)  # noqa: S103 - who is in its group may enter
        group = pwd.getpwnam(unprivileged_user).pw_gid
        os.chown(place, 0, group)
        for directory in (hidden, place):
            Path(directory, "secret").write_text(directory)
        lines = public_python.run(
            """
            import os, sys
            from privsep.rootwrap import Client
            hidden, place, *command = sys.argv[1:]
            get = os.open
            with Client(["sudo", "-n", *command]) as client:
                for there in (place, hidden, place):
                    os.open = lambda path, flags: get(there, flags)
                    try:
                        print(client.execute(["cat", "secret"]).stdout)
                    except PermissionError:
                        print("refused")
            """,
            hidden,
            place,
            *command,
            user=unprivileged_user,
        )
    assert lines == [place, "refused", place]


def test_workers_of_an_unprivileged_user_do_not_survive_the_daemon(
    tmp_path: Path,
    public_python: PublicPython,
    unprivileged_user: str,
    sudoers_rule: Callable[..., None],
) -> None:
    wrapped = Wrapped(tmp_path)
    wrapped.configure(directories=["/usr/bin"])
    wrapped.allow("sh: CommandFilter, sh, root")
    command = [public_python.rootwrap_daemon, str(wrapped.config)]
    sudoers_rule(command)
    lines = public_python.run(
        """
        import os, sys, privsep
        from privsep.rootwrap import Client
        kill = "read _ _ _ daemon _ < /proc/$PPID/stat; kill -9 $daemon; read _"
        with Client(["sudo", "-n", *sys.argv[1:]]) as client:
            stdin, end = os.pipe()
            process = client.popen(["sh", "-c", kill], stdin=stdin)
            os.close(stdin)
            try:
                print(process.wait())
            except privsep.DaemonGone:
                print("gone")
        """,
        *command,
        user=unprivileged_user,
    )
    assert lines == ["gone"]


# What a client may send


def _call(client: Client, arguments: list[object]) -> object:
    """Call the entrypoint with arguments that `Client` would not send."""
    return client._client.call(_RUN, tuple(arguments), {})


def _valid() -> list[object]:
    """Return arguments that would run a command."""
    line, ours = socket.socketpair()
    ours.close()
    numbers = [
        os.open("/", os.O_RDONLY),
        *(os.open("/dev/null", os.O_RDWR) for _ in "123"),
    ]
    return [[b"true"], *map(privsep.Fd, numbers), privsep.Fd(line.detach())]


def test_valid_arguments_run_a_command(client: Client) -> None:
    assert _call(client, _valid()) == 0


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize(
    "value", [0, "true", b"true", (b"true",), ["true"], [b"true", 1], {}, None, True]
)
def test_what_is_no_command_is_refused(
    client: Client, place: int, value: object
) -> None:
    arguments = _valid()
    arguments[place] = value
    if place == 2 and value is None:
        assert _call(client, arguments) == 0
    else:
        with pytest.raises(privsep.Refused):
            _call(client, arguments)


@pytest.mark.parametrize(("place", "error"), [(1, NotADirectoryError), (5, OSError)])
def test_a_descriptor_of_another_kind_is_refused(
    client: Client, place: int, error: type[OSError]
) -> None:
    arguments = _valid()
    arguments[place] = privsep.Fd(os.open("/dev/null", os.O_RDWR))
    with pytest.raises(error):
        _call(client, arguments)


def test_a_line_takes_anything(client: Client, said: Fifo) -> None:
    """Signals that are none, for nobody, or too many: they change nothing."""
    ours, line = socket.socketpair()
    arguments = _valid()
    arguments[0] = [
        b"sh",
        b"-c",
        f"trap '' USR1; echo x > {said.path}; sleep 0".encode(),
    ]
    arguments[5] = privsep.Fd(line.detach())
    harmless = bytes([0, 65, 127, 0x80, 256 - 65])
    ours.send(harmless * 50)
    with ours:
        assert _call(client, arguments) == 0
    said.read()


# asyncio and green threads


def test_commands_run_in_an_event_loop(own: Shared) -> None:
    async def main() -> None:
        client = own.client
        many = [client.aexecute(["cat"], f"{number}" * 100_000) for number in range(6)]
        for number, done in enumerate(await asyncio.gather(*many)):
            assert done == (0, f"{number}" * 100_000, "")
        assert await client.aexecute(["other"]) == (NOT_ALLOWED, "", "")
        process = client.popen(["cat"], stdin=_never())
        waiting = [asyncio.create_task(process.await_()) for _ in range(2)]
        await asyncio.sleep(0)
        process.kill()
        assert await asyncio.gather(*waiting) == [-signal.SIGKILL] * 2
        assert await process.await_() == -signal.SIGKILL

    asyncio.run(main())


def test_a_timeout_in_an_event_loop_kills_the_command(own: Shared, said: Fifo) -> None:
    script = f"sleep 1000 & echo $! > {said.path}; wait"

    async def main() -> None:
        for timeout in _TIMEOUTS:
            with pytest.raises(privsep.CallTimeout, match=f"not end in {timeout:g} s"):
                await own.client.aexecute(["sh", "-c", script], timeout=timeout)
            if said.has_come():
                break

    asyncio.run(main())
    _wait_for_end(int(said.read()))


def test_a_cancelled_task_kills_its_command(own: Shared, said: Fifo) -> None:
    script = f"echo $$ > {said.path}; exec sleep 1000"

    async def main() -> None:
        task = asyncio.create_task(own.client.aexecute(["sh", "-c", script]))
        pid = int(await asyncio.to_thread(said.read))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(_wait_for_end, pid)

    asyncio.run(main())


def test_a_task_that_is_cancelled_before_its_command_began_leaves_nothing(
    own: Shared,
) -> None:
    async def main() -> None:
        task = asyncio.create_task(own.client.aexecute(["sleep", "1000"]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_the_daemon_that_is_killed_ends_an_awaited_call(
    own: Shared, said: Fifo
) -> None:
    daemon = _daemon_of(own.client)

    async def main() -> None:
        script = f"echo x > {said.path}; exec sleep 0.1"
        task = asyncio.create_task(own.client.aexecute(["sh", "-c", script]))
        await asyncio.to_thread(said.read)
        os.kill(daemon, signal.SIGKILL)
        with pytest.raises(privsep.DaemonGone):
            await task

    asyncio.run(main())


@pytest.mark.parametrize("patch", [GEVENT, EVENTLET], ids=["gevent", "eventlet"])
def test_a_patched_client_runs_commands(own: Shared, patch: str) -> None:
    lines = scripts.run(
        patch
        + """
import os, sys
from privsep.rootwrap import Client
with Client(sys.argv[1:]) as client:
    texts = [str(number) * 100_000 for number in range(6)]
    greens = [spawn(client.execute, ["cat"], text) for text in texts]
    print([wait(green) for green in greens] == [(0, text, "") for text in texts])
    reader, writer = os.pipe()
    process = client.popen(["cat"], stdin=reader)
    other = spawn(process.wait)
    pause(0)
    process.kill()
    print(wait(other), process.wait())
""",
        _LAUNCHER,
        own.wrapped.config,
    )
    assert lines == ["True", "-9 -9"]
