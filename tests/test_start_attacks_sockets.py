"""Attacks on the start through sudo, by what stands in the socket's place."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import socket
import stat
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest
from start_attacks import (
    HANGS,
    Field,
    Outcome,
    exact_rule,
    field,
    gives_nothing,
    logged_input,
)

import scripts
from privsep._start.meeting import Meeting

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

__all__ = ["exact_rule", "field", "gives_nothing", "logged_input"]


# -- as standard input -------------------------------------------------------------


@pytest.mark.usefixtures("exact_rule")
@pytest.mark.parametrize(
    "kind", ["closed", "null", "file", "terminal", "stream", "datagram", "tcp"]
)
def test_what_is_no_control_socket_is_refused(
    field: Field, kind: str, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        before: list[str] = []
        given: int | socket.socket = subprocess.DEVNULL
        if kind == "closed":
            before = ["sh", "-c", 'exec "$@" <&-', "sh"]
        elif kind == "file":
            given = stack.enter_context((tmp_path / "file").open("w+")).fileno()
        elif kind == "terminal":
            outer, given = os.openpty()
            stack.callback(os.close, outer)
            stack.callback(os.close, given)
        elif kind in ("stream", "datagram"):
            which = socket.SOCK_STREAM if kind == "stream" else socket.SOCK_DGRAM
            with field.as_user():
                pair = socket.socketpair(socket.AF_UNIX, which)
            given = stack.enter_context(pair[0])
            stack.enter_context(pair[1])
        elif kind == "tcp":
            given = stack.enter_context(socket.socket())
        process = field.launch(given, before=before)
        output, _ = process.communicate(timeout=HANGS)
    assert b"standard input is not a control socket" in output


@pytest.mark.usefixtures("exact_rule")
def test_a_socket_that_root_made_is_not_written_to(field: Field) -> None:
    ours, daemons = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, daemons:
        process = field.launch(daemons)
        daemons.close()
        outcome = field.outcome(process, ours)
    assert not outcome.ready
    assert "is uid 0's, and SUDO_UID is " in outcome.said


@pytest.fixture
def line_to_a_service(
    field: Field, tmp_path: Path
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The attacker's connection to a service that is root's, and its other end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0{tmp_path}")
        listener.listen()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as ours:
            with field.as_user():
                ours.connect(f"\0{tmp_path}")
            theirs, _ = listener.accept()
            with theirs:
                yield ours, theirs


@pytest.mark.usefixtures("exact_rule")
def test_the_listener_of_a_service_is_not_written_to(
    field: Field, line_to_a_service: tuple[socket.socket, socket.socket]
) -> None:
    """As if root could be had to say something to it."""
    ours, theirs = line_to_a_service
    process = field.launch(ours)
    ours.close()
    assert not field.outcome(process, theirs).ready


@pytest.mark.parametrize("setting", ["", "keepenv "])
def test_the_listener_of_a_service_is_not_written_to_by_way_of_doas(
    field: Field,
    doas_rule: Callable[[str, str], None],
    line_to_a_service: tuple[socket.socket, socket.socket],
    setting: str,
) -> None:
    doas_rule(field.name, setting)
    ours, theirs = line_to_a_service
    done = subprocess.run(
        ["doas", "-n", field.python.launcher, field.name],
        stdin=ours.fileno(),
        capture_output=True,
        env=os.environ | {"SUDO_UID": "0", "SUDO_GID": "0"},
        user=field.user.pw_uid,
        group=field.user.pw_gid,
        extra_groups=[],
        text=True,
        check=False,
    )
    ours.close()
    assert theirs.recv(1) == b""
    assert f"DOAS_USER is {field.user.pw_name}" in done.stderr


@pytest.mark.parametrize("made_it", [True, False])
def test_whom_pkexec_names_must_have_made_the_socket(
    field: Field, made_it: bool
) -> None:
    """Root stands in for pkexec, which asks a daemon of the system."""
    uid = field.user.pw_uid if made_it else pwd.getpwnam("nobody").pw_uid
    ours, daemons = field.pair()
    with ours, daemons:
        process = subprocess.Popen(
            [field.python.launcher, field.name],
            stdin=daemons.fileno(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "PKEXEC_UID": str(uid)},
            start_new_session=True,
        )
        daemons.close()
        outcome = field.outcome(process, ours)
    assert outcome.ready == made_it
    if not made_it:
        assert f"PKEXEC_UID is {uid}" in outcome.said


@pytest.mark.usefixtures("exact_rule")
def test_datagrams_that_wait_before_the_start_are_no_harm(field: Field) -> None:
    ours, daemons = field.pair()
    with ours, daemons, field.home.joinpath("x").open("w") as file:
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                socket.send_fds(ours, [b"x" * 512], [file.fileno()] * 8)
        ours.setblocking(True)
        process = field.launch(daemons)
        daemons.close()
        field.outcome(process, ours)


@pytest.mark.usefixtures("exact_rule")
def test_a_client_that_is_gone_before_the_start_leaves_no_daemon(field: Field) -> None:
    ours, daemons = field.pair()
    ours.close()
    with daemons:
        process = field.launch(daemons)
    process.communicate(timeout=HANGS)


# -- by its path -------------------------------------------------------------------

_BY_PATH = """
    import importlib, os, sys, tempfile
    module = importlib.import_module(sys.argv[1])
    before = set(os.listdir(tempfile.gettempdir()))
    module.context.start("sudo")
    print(module.who())
    print(set(os.listdir(tempfile.gettempdir())) - before)
    module.context.stop()
"""


@pytest.mark.usefixtures("logged_input")
def test_sudo_that_logs_its_input_starts_a_daemon_by_a_path(field: Field) -> None:
    lines = field.python.run(
        _BY_PATH,
        field.module,
        user=field.user.pw_name,
        variables={"TMPDIR": str(field.home)},
    )
    assert lines == ["0", "set()"]
    assert list(field.home.iterdir()) == []


def _answer(field: Field, said: bytes) -> Outcome:
    """Start by a path that the attacker says; nothing of privsep's client is here."""
    reader, writer = os.pipe()
    process = field.launch(reader)
    os.close(reader)
    os.write(writer, said)
    os.close(writer)
    output, _ = process.communicate(timeout=HANGS)
    return Outcome(process.returncode == 0, output.decode(errors="replace"))


_PATHS = {
    "nothing": b"",
    "no line": b"/nowhere",
    "a name that is not there": b"/nowhere/control\n",
    "a file of root's": b"/etc/shadow\n",
    "a directory of root's": b"/root/.ssh\n",
    "a device": b"/dev/zero\n",
    "itself": b"/proc/self/fd/0\n",
    "a NUL": b"/tmp/\0control\n",
    "an abstract name": b"\0control\n",
    "a long name": b"/" + b"a" * 4000 + b"\n",
}


@pytest.mark.parametrize("said", _PATHS.values(), ids=_PATHS)
@pytest.mark.usefixtures("exact_rule")
def test_a_path_without_a_socket_of_the_callers_is_refused(
    field: Field, said: bytes
) -> None:
    outcome = _answer(field, said)
    assert not outcome.ready
    assert "control socket" in outcome.said


@pytest.mark.usefixtures("exact_rule")
def test_a_path_without_end_is_not_read_to_its_end(field: Field) -> None:
    with subprocess.Popen(["cat", "/dev/zero"], stdout=subprocess.PIPE) as endless:
        assert endless.stdout is not None
        process = field.launch(endless.stdout.fileno())
        endless.stdout.close()
        output, _ = process.communicate(timeout=HANGS)
    assert b"says no path of one" in output


@contextlib.contextmanager
def _listening(path: Path, uid: int, owner: int) -> Generator[socket.socket]:
    """Listen as `uid` at a path that is the owner's; the directory may be anybody's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        path.chmod(0o777)
        os.chown(path, owner, -1)
        os.seteuid(uid)
        try:
            listener.listen()
        finally:
            os.seteuid(0)
        listener.settimeout(HANGS)
        yield listener
    path.unlink()


@pytest.mark.parametrize("way", ["it itself", "a link"])
@pytest.mark.parametrize("whose", ["root", "nobody"])
@pytest.mark.usefixtures("exact_rule")
def test_a_socket_where_somebody_else_listens_is_not_spoken_to(
    field: Field, way: str, whose: str, tmp_path: Path
) -> None:
    place = field.home / "control"
    with _listening(place, pwd.getpwnam(whose).pw_uid, field.user.pw_uid) as listener:
        link = field.home / "link"
        link.symlink_to(place)
        said = place if way == "it itself" else link
        outcome = _answer(field, f"{said}\n".encode())
        assert not outcome.ready
        listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(1) == b""


@contextlib.contextmanager
def _flipping(place: Path, targets: Sequence[Path]) -> Generator[None]:
    """Have a name lead to one target after the other, as fast as that goes."""
    draft = place.with_suffix(".draft")
    over = threading.Event()

    def flip() -> None:
        for target in itertools.cycle(targets):
            draft.symlink_to(target)
            draft.replace(place)
            if over.is_set():
                return

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def _hanging_up(listener: socket.socket) -> Generator[None]:
    """Accept and, when the daemon is ready or has ended, let go of it."""
    over = threading.Event()

    def hang_up() -> None:
        while not over.is_set():
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(HANGS)
                connection.recv(1 << 17)

    thread = threading.Thread(target=hang_up)
    thread.start()
    try:
        yield
    finally:
        over.set()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as last:
            last.connect(listener.getsockname())
        thread.join()


@pytest.mark.usefixtures("exact_rule")
def test_nobody_comes_to_a_socket_that_another_user_made(field: Field) -> None:
    """Its mode keeps the caller from it, and would not keep root."""
    place = field.home / "control"
    nobody = pwd.getpwnam("nobody").pw_uid
    with _listening(place, nobody, nobody) as listener:
        place.chmod(0o600)
        assert not _answer(field, f"{place}\n".encode()).ready
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.usefixtures("exact_rule")
def test_a_race_for_the_path_gets_no_word_said_to_another_s_listener(
    field: Field,
) -> None:
    own, others, place = (field.home / name for name in ("own", "others", "control"))
    with (
        _listening(others, 0, field.user.pw_uid) as victim,
        _listening(own, field.user.pw_uid, field.user.pw_uid) as listener,
        _hanging_up(listener),
        _flipping(place, [own, others]),
    ):
        outcomes = [_answer(field, f"{place}\n".encode()) for _ in range(20)]
        print([outcome.said or "ready" for outcome in outcomes])
        victim.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = victim.accept()
                with connection:
                    assert connection.recv(1) == b""


@pytest.mark.usefixtures("exact_rule")
def test_a_path_that_only_root_could_open_is_not_opened(
    field: Field, tmp_path: Path
) -> None:
    """Though the attacker listens there: it is not his to reach."""
    hidden = field.marks.parent / "hidden"
    hidden.mkdir(mode=0o700)
    try:
        with _listening(hidden / "control", *[field.user.pw_uid] * 2):
            outcome = _answer(field, f"{hidden}/control\n".encode())
    finally:
        hidden.rmdir()
    assert "Permission denied" in outcome.said


_FIRST = """
    import os, socket, sys
    from privsep._start import meeting
    place = meeting.Meeting()
    os.chmod(os.path.dirname(place.path), 0o755)
    os.chmod(place.path, 0o777)
    print(place.path, flush=True)
    sys.stdin.readline()
    print(place.accept())
    place.close()
    print(os.path.exists(os.path.dirname(place.path)))
"""


def test_whoever_is_not_root_is_turned_away_though_he_comes_first(
    field: Field,
) -> None:
    with field.python.begin(
        _FIRST,
        user=field.user.pw_name,
        stdin=subprocess.PIPE,
        variables={"TMPDIR": str(field.home)},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        path = process.stdout.readline().strip()
        nobody = pwd.getpwnam("nobody").pw_uid
        with (
            field.as_user(nobody),
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as ours,
        ):
            ours.connect(path)
            process.stdin.write("\n")
            process.stdin.flush()
            ours.settimeout(HANGS)
            assert ours.recv(1) == b""
        assert scripts.finish(process) == ["None", "False"]


def test_nobody_else_can_enter_where_the_client_listens(tmp_path: Path) -> None:
    place = Meeting()
    try:
        directory = os.stat(os.path.dirname(place.path))
        assert (stat.S_IMODE(directory.st_mode), directory.st_uid) == (0o700, 0)
    finally:
        place.close()
