"""The same program with oslo's packages and with ours does the same.

Where it does not, ours is better, and the row is named in `columns.BETTER`.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess

import pytest
from columns import BETTER, PROGRAMS, Row, rows, show, stands_for
from public_python import etc_locked


def _may_sudo() -> bool:
    if shutil.which("sudo") is None:
        return False
    return subprocess.run(["sudo", "-n", "true"], check=False).returncode == 0


@pytest.fixture(scope="module")
def table() -> list[Row]:
    if not _may_sudo():
        pytest.skip("sudo does not allow this user a daemon")
    found = []
    for program in PROGRAMS:
        with etc_locked(fcntl.LOCK_SH):  # as `root_says_the_same`, which comes later
            found += rows(program)
    for row in found:
        print(show(row))
    return found


@pytest.mark.parametrize("program", PROGRAMS)
def test_ours_does_what_theirs_does_or_better(table: list[Row], program: str) -> None:
    differ = [
        show(row)
        for row in table
        if row.program == program and row.theirs != row.ours and not row.is_better
    ]
    assert not differ, "\n".join(differ)


def test_what_is_called_better_differs(table: list[Row]) -> None:
    differ = {row.name for row in table if row.theirs != row.ours}
    same = [
        each for each in BETTER if not any(stands_for(each, name) for name in differ)
    ]
    assert not same


def test_each_program_has_rows(table: list[Row]) -> None:
    assert len(table) > 700
