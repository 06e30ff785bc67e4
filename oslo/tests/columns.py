"""Rows of two columns: what oslo's packages do, and what ours do.

`python3 oslo/tests/columns.py` prints them all.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import environments

PROGRAMS = {
    "fork": ("rows_privsep.py", "fork"),
    "rootwrap": ("rows_privsep.py", "rootwrap"),
}

#: Rows that differ, and why ours is better.  "…" stands for any text at the end.
BETTER = {
    "begins as the prefix does": "a prefix ends at a dot",
    "names of daemon": "daemon.Message exists, as its documentation says",
    "names of daemon: PrivsepTimeout": "it exists, as the user guide says",
    "Message": "daemon.Message exists",
    "Message of comm": "daemon.Message exists",
    "exception: Two(1, 2)": "a constructor need not take its args",
    "exception: Keyword(a=3)": "attributes survive",
    "exception: Keyword('m', b=4)": "attributes survive",
    "exception: Local('local')": "arrives as its nearest base, with a note",
    "exception: FileNotFoundError(2, 'none', '/x')": "the file's name survives",
    "exception: Plain(object())": "arrives, with the argument's repr and a note",
    "exception: Plain({1})": "arrives whole",
    "exception: Plain(b'x', '\\udcff', 2**70)": "arrives whole",
    "exception: ExceptionGroup('group', [ValueError(1)])": "arrives whole",
    "name: begins as the prefix does": "nothing outside of the prefix is imported",
    "name: what begins as the prefix is imported": "nothing outside is imported",
    "name: no such function": "NameError, as for all that is no entrypoint",
    "timeout of a call": "the exception says which call, and what goes on",
    "timeout of an entrypoint": "the exception says which call",
}


class Row(NamedTuple):
    """What both do."""

    program: str
    name: str
    theirs: str | None
    ours: str | None

    @property
    def is_better(self) -> bool:
        """Whether they are to differ."""
        return self.name in BETTER


def rows() -> list[Row]:
    """Run every program with both, side by side, and return what they do."""
    found = []
    for program, words in PROGRAMS.items():
        script = str(environments.TESTS / "both" / words[0])
        running = [
            environments.begin(side, script, *words[1:]) for side in ("theirs", "ours")
        ]
        theirs, ours = (json.loads(environments.finish(each)) for each in running)
        found += [
            Row(program, name, theirs.get(name), ours.get(name))
            for name in dict.fromkeys((*theirs, *ours))
        ]
    return found


def show(row: Row) -> str:
    """Return a row as text."""
    mark = "=" if row.theirs == row.ours else "better" if row.is_better else "DIFFERS"
    text = f"[{row.program}] {row.name}: {mark}\n    oslo: {row.theirs}\n"
    return text if mark == "=" else f"{text}    ours: {row.ours}\n"


if __name__ == "__main__":
    for each in rows():
        print(show(each))
