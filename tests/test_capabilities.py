"""A context with one capability can do what needs that one, and nothing else.

For each capability that the kernel knows, on a real daemon.  As an ordinary user, the
daemon is in a user namespace, and what is left is what the kernel allows in there.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from capability_table import REFUSED, STRANGER, TABLE, Row, Stage, in_a_child, outcomes
from conftest import IS_ROOT, METHOD
from one_capability import USERS, served

import privsep
from privsep._lockdown import libc

if TYPE_CHECKING:
    from collections.abc import Iterator

EMPTY = "0" * 16
NOBODY = 65534

of_each = pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
# In a user namespace only root is mapped.
by_each_user = pytest.mark.parametrize("user", USERS if IS_ROOT else ["root"])


class Seen(NamedTuple):
    """What a daemon is able to do, and what it is said to be."""

    outcomes: dict[str, str]  #: of the action of each row
    sets: dict[str, list[str]]  #: of the daemon, its worker and its program


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A file and a process of a stranger, if root makes them, and a directory."""
    with tempfile.TemporaryDirectory(prefix="privsep-stage-") as directory:
        os.chmod(directory, 0o1777)  # noqa: S103 - a daemon's user makes a file there
        file = Path(directory) / "file"
        file.touch()
        file.chmod(0o644)
        whose = STRANGER if IS_ROOT else None
        if IS_ROOT:
            os.chown(file, STRANGER, STRANGER)
        with subprocess.Popen(
            ["cat"],
            stdin=subprocess.PIPE,
            cwd="/",
            user=whose,
            group=whose,
            extra_groups=[] if IS_ROOT else None,
        ) as process:
            yield Stage(directory, str(file), process.pid)  # its input ends here


@functools.cache
def seen(capability: str | None, user: str, stage: Stage) -> Seen:
    """Start the daemon of `capability`, let it try everything, and stop it."""
    one = served[capability, user]
    one.context.start(METHOD)
    try:
        return Seen(one.try_every_action(*stage), one.capability_sets())
    finally:
        one.context.stop()


# -- what this machine can show ------------------------------------------------


def become_nobody() -> None:
    """Give up every privilege as any program does, without privsep."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def outcomes_without_privsep(stage: Stage, *, privileged: bool) -> dict[str, str]:
    """Return what comes of the actions in a child of this process."""

    def run() -> str:
        if IS_ROOT and not privileged:
            become_nobody()
        return json.dumps(outcomes(stage))

    found: dict[str, str] = json.loads(in_a_child(run))
    return found


@pytest.fixture(scope="module")
def not_shown(stage: Stage) -> dict[str, str]:
    """The capabilities whose action shows nothing here, each with the reason."""
    root_s = outcomes_without_privsep(stage, privileged=True)
    everybody_s = outcomes_without_privsep(stage, privileged=False)

    def reason(row: Row) -> str | None:
        if row.action is None:
            return row.without_action
        if not IS_ROOT and not row.own_namespace:
            return "not to be had in a user namespace of one user: needs root"
        if IS_ROOT and root_s[row.name] not in row.granted:
            return f"root, without privsep, gets no further: {root_s[row.name]}"
        if everybody_s[row.name] not in REFUSED:
            return f"everybody may do it here: {everybody_s[row.name]}"
        return None

    reasons = {row.name: reason(row) for row in TABLE}
    return {name: why for name, why in reasons.items() if why is not None}


def is_lacking(row: Row) -> bool:
    """Return whether no daemon can be given the capability here."""
    return IS_ROOT and not libc.capget()[1] >> TABLE.index(row) & 1


def skip_if_lacking(row: Row) -> None:
    if is_lacking(row):
        pytest.skip(f"root has no {row.name} here, so it has none to give")


# -- the table -----------------------------------------------------------------


def test_every_capability_of_this_kernel_has_a_row() -> None:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    missing = [*range(len(TABLE), last + 1)]
    assert not missing, (
        f"this kernel has capabilities with the numbers {missing}: give each a row in "
        "tests/capability_table.py, and its name to privsep"
    )


@of_each
def test_the_name_of_a_capability_is_that_of_its_number(row: Row) -> None:
    context = privsep.Context("named", capabilities=[row.name])
    assert context.capability_mask == 1 << TABLE.index(row)


@pytest.mark.skipif(shutil.which("capsh") is None, reason="capsh is not on PATH")
def test_the_names_are_those_of_libcap() -> None:
    everything = f"{(1 << len(TABLE)) - 1:x}"
    said = subprocess.run(
        ["capsh", f"--decode={everything}"], check=True, capture_output=True, text=True
    )
    names = said.stdout.strip().partition("=")[2].upper().split(",")
    assert names == [row.name for row in TABLE]


# -- what they can do ----------------------------------------------------------


@by_each_user
@of_each
def test_a_context_with_one_capability_can_do_what_needs_it(
    row: Row, user: str, stage: Stage, not_shown: dict[str, str]
) -> None:
    skip_if_lacking(row)
    if row.name in not_shown:
        pytest.skip(f"{row.name} is not shown to work: {not_shown[row.name]}")
    outcomes = seen(row.name, user, stage).outcomes
    refused = {
        other.name: outcomes[other.name]
        for other in TABLE
        if row.name in (other.name, *other.also)
        and other.name not in not_shown
        and outcomes[other.name] not in other.granted
    }
    assert refused == {}


@by_each_user
@of_each
def test_a_context_with_one_capability_cannot_do_what_needs_another(
    row: Row, user: str, stage: Stage, not_shown: dict[str, str]
) -> None:
    skip_if_lacking(row)
    outcomes = seen(row.name, user, stage).outcomes
    allowed = {
        other.name: outcomes[other.name]
        for other in TABLE
        if row.name not in (other.name, *other.also, *other.formerly)
        and other.name not in not_shown
        and outcomes[other.name] not in REFUSED
    }
    assert allowed == {}


@by_each_user
def test_a_context_without_capabilities_can_do_nothing_that_needs_one(
    user: str, stage: Stage, not_shown: dict[str, str]
) -> None:
    outcomes = seen(None, user, stage).outcomes
    allowed = {
        row.name: outcomes[row.name]
        for row in TABLE
        if row.name not in not_shown and outcomes[row.name] not in REFUSED
    }
    assert allowed == {}


# -- what the kernel says that they have ---------------------------------------


@by_each_user
@of_each
def test_daemon_worker_and_program_have_the_one_capability_at_most(
    row: Row, user: str, stage: Stage
) -> None:
    skip_if_lacking(row)
    one = f"{1 << TABLE.index(row):016x}"
    has = [EMPTY, one, one, one, EMPTY]  # inheritable to ambient, in proc(5)'s order
    may_have = [EMPTY, EMPTY, EMPTY, one, EMPTY]
    assert seen(row.name, user, stage).sets == {
        "daemon": has,
        "worker": has,
        "program": has if user == "root" else may_have,
    }
