"""Attacks on the start through sudo, by signals, and by keeping it waiting."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
from time import monotonic
from typing import TYPE_CHECKING

import msgpack
import pytest
from public_python import sudoers
from start_attacks import (
    HANGS,
    HONEST,
    READY,
    Field,
    any_variables,
    block_all,
    exact_rule,
    field,
    gives_nothing,
    ignore_all,
    rules_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

__all__ = ["any_variables", "exact_rule", "field", "gives_nothing", "rules_file"]


_HANGS = """
import sys, time
print("it hangs", file=sys.stderr, flush=True)
while True:
    try:
        time.sleep(1000)
    except BaseException:
        pass
"""


def _until_said(words: bytes, begin: Callable[[], bytes]) -> None:
    """Begin a start, which says something, and again if it came to its end before.

    On a busy machine its deadline of half a second may pass at any point.
    """
    end = monotonic() + HANGS
    while words not in (said := begin()):
        assert monotonic() < end, said


@contextlib.contextmanager
def _hanging(field: Field, rules_file: Path) -> Generator[None]:
    """The module does not end its import, and root allows the start half a second."""
    rules_file.write_text("deadline = 0.5\n")
    module = field.packages / f"{field.module}.py"
    module.write_text(_HANGS)
    try:
        yield
    finally:
        module.write_text(HONEST)


@pytest.mark.parametrize("prepare", [None, ignore_all, block_all])
@pytest.mark.usefixtures("exact_rule")
def test_a_start_ends_at_the_deadline_though_its_client_waits(
    field: Field, rules_file: Path, prepare: Callable[[], None] | None
) -> None:
    ours, daemons = field.pair()
    with ours, daemons, _hanging(field, rules_file):
        process = field.launch(daemons, prepare=prepare)
        daemons.close()
        process.communicate(timeout=HANGS)  # and we do not let go of it


@pytest.mark.usefixtures("exact_rule")
def test_a_client_that_stops_does_not_keep_a_start(
    field: Field, rules_file: Path
) -> None:
    """The control socket is a stopped process's; nobody closes it."""
    ours, daemons = field.pair()
    holder = subprocess.Popen(
        ["sleep", "infinity"], stdin=ours.fileno(), user=field.user.pw_uid
    )
    ours.close()
    holder.send_signal(signal.SIGSTOP)
    with holder, daemons, _hanging(field, rules_file):
        try:
            process = field.launch(daemons)
            daemons.close()
            process.communicate(timeout=HANGS)
        finally:
            holder.kill()


@pytest.mark.parametrize("prepare", [ignore_all, block_all])
@pytest.mark.usefixtures("exact_rule")
def test_signals_that_are_ignored_or_blocked_do_not_hinder_a_start(
    field: Field, prepare: Callable[[], None]
) -> None:
    assert field.attempt(prepare=prepare).ready


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGKILL,
        signal.SIGSTOP,
        signal.SIGTSTP,
        signal.SIGALRM,
        signal.SIGIO,
        signal.SIGUSR1,
        signal.SIGTERM,
    ],
)
@pytest.mark.usefixtures("exact_rule")
def test_signals_during_the_start_are_not_the_users_to_send(
    field: Field, number: signal.Signals
) -> None:
    """He sends them to sudo without end, until it is not his any more.

    What he stops before that runs nothing; here root has it go on.
    """
    ours, daemons = field.pair()
    with ours, daemons:
        process = field.launch(daemons)
        daemons.close()
        kill = f"kill -{number:d} -{process.pid}"
        sender = subprocess.Popen(
            ["sh", "-c", f"for _ in $(seq 9999); do {kill} || exit; done"],
            stderr=subprocess.DEVNULL,
            user=field.user.pw_uid,
        )
        sender.wait(HANGS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)
        field.outcome(process, ours)


def test_the_deadline_holds_where_the_helper_leaves_signals_blocked(
    field: Field, rules_file: Path
) -> None:
    """As sudo does not; the daemon waits for a path that nobody says."""
    rules_file.write_text("deadline = 0.5\n")
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [field.python.launcher, field.name],
        stdin=reader,
        env={"SUDO_UID": "0", "SUDO_GID": "0"},
        preexec_fn=block_all,  # noqa: PLW1509 - there is one thread
    )
    os.close(reader)
    try:
        assert process.wait(HANGS) == -signal.SIGALRM
    finally:
        process.kill()
        os.close(writer)


@pytest.mark.parametrize("prepare", [None, ignore_all, block_all])
@pytest.mark.usefixtures("any_variables")
def test_a_path_that_is_never_said_is_waited_for_until_the_deadline(
    field: Field, rules_file: Path, prepare: Callable[[], None] | None
) -> None:
    rules_file.write_text("deadline = 0.5\n")

    def begin() -> bytes:
        reader, writer = os.pipe()
        process = field.launch(reader, prepare=prepare)
        os.close(reader)
        output, _ = process.communicate(timeout=HANGS)
        os.close(writer)
        return output

    _until_said(b"waiting for the path of a socket", begin)


# -- by what the caller shares with the daemon --------------------------------------

_F_SETSIG = 10


def _have_signal_sent(number: int, daemons: socket.socket, ours: socket.socket) -> None:
    """Have the kernel signal whoever owns the control socket's description."""
    fcntl.fcntl(daemons, _F_SETSIG, number)
    flags = fcntl.fcntl(daemons, fcntl.F_GETFL)
    fcntl.fcntl(daemons, fcntl.F_SETFL, flags | os.O_ASYNC)
    ours.send(b"x")


@pytest.mark.usefixtures("exact_rule")
def test_a_start_is_not_stopped_by_way_of_the_socket_that_its_caller_has_too(
    field: Field, rules_file: Path
) -> None:
    def begin() -> bytes:
        ours, daemons = field.pair()
        with ours, daemons:
            process = field.launch(daemons)
            assert process.stdout is not None
            said = process.stdout.readline()
            with field.as_user():
                _have_signal_sent(signal.SIGSTOP, daemons, ours)
            process.communicate(timeout=HANGS)
        return said

    with _hanging(field, rules_file):
        _until_said(b"it hangs\n", begin)


@pytest.mark.usefixtures("exact_rule")
def test_a_daemon_is_not_killed_by_way_of_the_socket_that_its_caller_has_too(
    field: Field,
) -> None:
    ours, daemons = field.pair()
    with ours, daemons:
        process = field.launch(daemons)
        assert msgpack.unpackb(ours.recv(1 << 17))[0] == READY
        with field.as_user():
            _have_signal_sent(signal.SIGKILL, daemons, ours)
        ours.close()
        process.communicate(timeout=HANGS)
    assert process.returncode == 0


@pytest.mark.usefixtures("exact_rule")
def test_a_client_that_takes_no_answer_does_not_keep_a_start(field: Field) -> None:
    ours, daemons = field.pair()
    with ours, daemons:
        for size in (1000, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    daemons.send(b"x" * size, socket.MSG_DONTWAIT)
        process = field.launch(daemons)
        process.communicate(timeout=HANGS)  # and its own copy keeps the queue full
    assert process.returncode == 1


# -- by the terminal ---------------------------------------------------------------

# A shell: what it runs is in the foreground of its terminal, alone in its group.
_SHELL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
terminal = os.open(sys.argv[1], os.O_RDWR)
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(terminal, os.getpid())
    os.closerange(3, 100)
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execvp(sys.argv[2], sys.argv[2:])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) % 256)
"""


@pytest.fixture
def terminal(field: Field) -> Iterator[tuple[int, list[str]]]:
    """A terminal of the attacker's, and what runs words in its foreground."""
    outer, inner = os.openpty()
    name = os.ttyname(inner)
    os.chown(name, field.user.pw_uid, -1)
    yield outer, [f"{field.python.prefix}/bin/python3", "-c", _SHELL, name]
    os.close(outer)
    os.close(inner)


def _press_stop(terminal: int) -> None:
    """Press Ctrl-Z: it is shown when those in the foreground have the signal."""
    os.write(terminal, b"\x1a")
    assert os.read(terminal, 2) == b"^Z"


@pytest.mark.usefixtures("exact_rule")
def test_a_start_ends_at_the_deadline_though_its_caller_presses_ctrl_z(
    field: Field, rules_file: Path, terminal: tuple[int, list[str]]
) -> None:
    rules_file.write_text("deadline = 0.5\n")
    outer, shell = terminal
    user = field.user.pw_name

    def begin() -> bytes:
        reader, writer = os.pipe()
        process = field.launch(reader, before=shell)
        os.close(reader)
        assert process.stdout is not None
        said = process.stdout.readline()
        if said:
            _press_stop(outer)
        process.communicate(timeout=HANGS)
        os.close(writer)
        return said

    with sudoers(f"{user}-terminal", f"Defaults:{user} !use_pty"):
        _until_said(b"waiting for the path", begin)


def test_a_daemon_that_cannot_leave_the_session_is_not_stopped_by_ctrl_z(
    field: Field, terminal: tuple[int, list[str]]
) -> None:
    """As sudo starts it that executes the command in its own place."""
    outer, shell = terminal
    ours, daemons = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with daemons:
            process = subprocess.Popen(
                [*shell, field.python.launcher, field.name],
                stdin=daemons.fileno(),
                start_new_session=True,
            )
        assert msgpack.unpackb(ours.recv(1 << 17))[0] == READY
        _press_stop(outer)
        ours.close()
        assert process.wait(HANGS) == 0
