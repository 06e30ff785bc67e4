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
    "filters": ("rows_rootwrap.py",),
    "client": ("rows_client.py",),
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
    "CommandFilter /bin/ls root < /usr/bin/ls": "it is the same file",
    "CommandFilter ls root < /bin/ls": "it is the same file",
    "RegExpFilter /bin/ls root ls -[la]+ /tmp/.* < /bin/ls…": "it is the same file",
    "IpNetnsExecFilter ip root < /sbin/ip netns exec x ls": "it is the same file",
    "KillFilter root /bin/sleep -9 < kill -9 PID": "it is the same file",
    "RegExpFilter ls root ls foo|bar < ls foox": "a pattern matches the whole word",
    "PathFilter /bin/chown root nova /var/lib < chown nova /var/lib-evil/x": (
        "beneath a directory by components"
    ),
    "EnvFilter env root A= B= ls < env A= B= ls": "an empty variable is set",
    "IpFilter ip root < ip netns monitor": "refused, as the documentation says",
    "IpFilter ip root < ip -batch f": "it runs other commands",
    "IpFilter ip root < ip -b f": "it runs other commands",
    "IpFilter ip root < ip vrf exec x ls": "it runs another command",
    "IpNetnsExecFilter ip root < ip netns exec x": "no command follows",
    "ChainingRegExpFilter nice root nice -n -?\\d+ < nice -n 5": "no command follows",
    "ChainingFilter nice root…": "it names no words, so it allows none",
    "config: the default of exec_dirs is PATH": "never the caller's PATH",
    "run: the caller's variables": "a command's environment is clean",
    "match_filter: nothing": "the exception says why",
    "match_filter: nice -n 5 nothing": "the exception says why",
    "match_filter: ": "the exception says why",
    "start_subprocess: not allowed": "the exception says why",
    "execute: nothing": "99, where oslo.rootwrap 7.10 fails to say so",
    "execute: missing": "96, where oslo.rootwrap 7.10 fails to say so",
    "execute: nice -n 5 nothing": "99, where oslo.rootwrap 7.10 fails to say so",
    "execute: no such config": "the exception says why",
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
        return any(stands_for(each, self.name) for each in BETTER)


def stands_for(pattern: str, name: str) -> bool:
    """Return whether a key of `BETTER` is a row's, or the begin of it."""
    begin = pattern.removesuffix("…")
    return name == pattern or (begin != pattern and name.startswith(begin))


def rows(program: str) -> list[Row]:
    """Run a program with both, side by side, and return what they do."""
    name_of_script, *words = PROGRAMS[program]
    script = str(environments.TESTS / "both" / name_of_script)
    running = [environments.begin(side, script, *words) for side in ("theirs", "ours")]
    theirs, ours = (json.loads(environments.finish(each)) for each in running)
    return [
        Row(program, name, theirs.get(name), ours.get(name))
        for name in dict.fromkeys((*theirs, *ours))
    ]


def show(row: Row) -> str:
    """Return a row as text."""
    mark = "=" if row.theirs == row.ours else "better" if row.is_better else "DIFFERS"
    text = f"[{row.program}] {row.name}: {mark}\n    oslo: {row.theirs}\n"
    return text if mark == "=" else f"{text}    ours: {row.ours}\n"


if __name__ == "__main__":
    for program in PROGRAMS:
        for each in rows(program):
            print(show(each))
