"""Attacks on the start through sudo, by signals, and by keeping it waiting."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from start_attacks import (
    HANGS,
    HONEST,
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
    from collections.abc import Callable, Generator
    from pathlib import Path

__all__ = ["any_variables", "exact_rule", "field", "gives_nothing", "rules_file"]


_HANGS = """
import time
while True:
    try:
        time.sleep(1000)
    except BaseException:
        pass
"""


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
    reader, writer = os.pipe()
    process = field.launch(reader, prepare=prepare)
    os.close(reader)
    output, _ = process.communicate(timeout=HANGS)
    os.close(writer)
    assert b"waiting for the path of a socket" in output
