"""Attacks on the start through sudo, by words and surroundings: 0 may give anything.

Each is tried for real: an unprivileged user runs sudo with the rule that allows him
one context.  See start_attacks.py; no row may end with a mark.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import msgpack
import pytest
from start_attacks import (
    HANGS,
    HONEST,
    READY,
    Field,
    Outcome,
    any_variables,
    any_words,
    child_of,
    exact_rule,
    field,
    gives_nothing,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["any_variables", "any_words", "exact_rule", "field", "gives_nothing"]


# -- what the rule is for, and that a mark would be seen ---------------------------


@pytest.mark.usefixtures("exact_rule")
def test_the_context_that_the_rule_names_starts(field: Field) -> None:
    assert field.attempt() == Outcome(True, "")


@pytest.mark.usefixtures("exact_rule")
def test_what_runs_as_root_leaves_a_mark(field: Field) -> None:
    module = field.packages / f"{field.module}.py"
    module.write_text(HONEST + field.evil)
    try:
        assert field.attempt().ready
        (mark,) = field.marks.iterdir()
        mark.unlink()
    finally:
        module.write_text(HONEST)


# -- other words -------------------------------------------------------------------

_OTHER_WORDS: dict[str, tuple[str | bytes, ...]] = {
    "another context": ("{module}:network",),
    "another module": ("os:system",),
    "the module of another package": ("service:plain",),
    "no words": ("",),
    "a config file": ("{module}:context", "--config-file", "{home}/evil.conf"),
    "a config file before": ("--config-file", "{home}/evil.conf", "{module}:context"),
    "an option of the interpreter": ("-c", "print(1)"),
    "an option in the name": ("-ic:context",),
    "a path": ("{home}/evil:context",),
    "a path upwards": ("../../../..{home}/evil:context",),
    "a relative module": (".evil:context",),
    "a name within the context": ("{module}:context.client",),
    "a dunder": ("{module}:__builtins__",),
    "the start itself": ("__main__:main",),
    "two colons": ("{module}:context:context",),
    "a line break": ("{module}:context\n",),
    "a blank": ("{module}:context ",),
    "bytes that are no text": (b"\xff\xfe:context",),
    "a letter that only looks alike": ("{module}:c\u043entext",),
    "a name of 60 KB": ("a" * 60_000 + ":context",),
    "a deep name": ("a." * 20_000 + "a:context",),
    "2,000 words": tuple("x" * 2000),
}
#: what the rule that allows any words does allow: contexts of root's
_CONTEXTS = ("another context", "the module of another package")


def _filled(words: Sequence[str | bytes], field: Field) -> list[str | bytes]:
    return [
        word
        if isinstance(word, bytes)
        else word.format(module=field.module, home=field.home)
        for word in words
    ]


@pytest.mark.parametrize("words", _OTHER_WORDS.values(), ids=_OTHER_WORDS)
@pytest.mark.usefixtures("exact_rule")
def test_sudo_allows_no_other_words(field: Field, words: Sequence[str | bytes]) -> None:
    field.plant("evil.py")
    field.plant("evil.conf", "user = root\n")
    outcome = field.attempt(*_filled(words, field))
    assert not outcome.ready
    assert "sudo: " in outcome.said


_SAID_OF_NO_CONTEXT = (
    "is no name of a context: write MODULE:CONTEXT",
    "is not a privsep.Context",
    "usage: privsep-daemon MODULE:CONTEXT",
    "ModuleNotFoundError: No module named ",
)
_NO_CONTEXT = {
    name: words for name, words in _OTHER_WORDS.items() if name not in _CONTEXTS
}


@pytest.mark.parametrize("words", _NO_CONTEXT.values(), ids=_NO_CONTEXT)
@pytest.mark.usefixtures("any_words")
def test_words_that_are_no_context_give_nothing_if_sudo_lets_them_through(
    field: Field, words: Sequence[str | bytes]
) -> None:
    field.plant("evil.py")
    field.plant("evil.conf", "user = root\n")
    outcome = field.attempt(*_filled(words, field))
    assert not outcome.ready
    assert any(said in outcome.said for said in _SAID_OF_NO_CONTEXT), outcome.said[:300]


@pytest.mark.usefixtures("exact_rule")
def test_words_beyond_what_execve_takes_give_nothing(field: Field) -> None:
    assert "too long" in field.attempt("a" * 3_000_000).said


# -- the caller's surroundings -----------------------------------------------------

_VARIABLES: dict[str, Mapping[str, str]] = {
    "PYTHONPATH": {"PYTHONPATH": "{home}"},
    "PYTHONHOME": {"PYTHONHOME": "{home}"},
    "PYTHONSTARTUP": {"PYTHONSTARTUP": "{home}/evil.py"},
    "PYTHONINSPECT": {"PYTHONINSPECT": "1", "PYTHONSTARTUP": "{home}/evil.py"},
    "PYTHONUSERBASE": {"PYTHONUSERBASE": "{home}"},
    "PYTHONPYCACHEPREFIX": {"PYTHONPYCACHEPREFIX": "{home}"},
    "PYTHONWARNINGS": {"PYTHONWARNINGS": "error::evil.Category"},
    "PYTHONBREAKPOINT": {"PYTHONBREAKPOINT": "evil.run"},
    "PYTHONEXECUTABLE": {"PYTHONEXECUTABLE": "{home}/bin/python3"},
    "PYTHONPLATLIBDIR": {"PYTHONPLATLIBDIR": "{home}"},
    "PYTHONSAFEPATH off": {"PYTHONSAFEPATH": "", "PYTHONPATH": "."},
    "PYTHONNOUSERSITE off": {"PYTHONNOUSERSITE": ""},
    "__PYVENV_LAUNCHER__": {"__PYVENV_LAUNCHER__": "{home}/bin/python3"},
    "PATH": {"PATH": "{home}/bin:/usr/bin:/bin"},
    "ENV": {"ENV": "{home}/evil.sh"},
    "BASH_ENV": {"BASH_ENV": "{home}/evil.sh"},
    "a function of bash": {"BASH_FUNC_exec%%": "() {{ . {home}/evil.sh; }}"},
    "SHELLOPTS": {"SHELLOPTS": "xtrace", "PS4": "$(. {home}/evil.sh)"},
    "IFS": {"IFS": "/"},
    "LD_PRELOAD": {"LD_PRELOAD": "{home}/evil.so"},
    "LD_LIBRARY_PATH": {"LD_LIBRARY_PATH": "{home}"},
    "LD_AUDIT": {"LD_AUDIT": "{home}/evil.so"},
    "GCONV_PATH": {"GCONV_PATH": "{home}", "LC_ALL": "evil.EVIL"},
    "LOCPATH": {"LOCPATH": "{home}", "LC_ALL": "evil"},
    "TMPDIR": {"TMPDIR": "{home}"},
    "SUDO_UID": {"SUDO_UID": "0"},
}


def _plant_modules(field: Field, *directories: str) -> None:
    """Have code of the attacker's under the names of what a daemon imports."""
    for directory in directories:
        for name in (field.module, "evil", "msgpack", "struct", "usercustomize"):
            field.plant(f"{directory}/{name}.py")


@pytest.mark.parametrize("variables", _VARIABLES.values(), ids=_VARIABLES)
@pytest.mark.usefixtures("any_variables")
def test_no_variable_brings_code_to_the_daemon(
    field: Field, variables: Mapping[str, str]
) -> None:
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    _plant_modules(field, ".", f"lib/{version}/site-packages", f"lib/{version}")
    shell = f'python3 -c "{field.evil}"\n'
    field.plant("evil.sh", shell)
    field.plant("evil.so", "no shared object")
    for name in ("python3", "sh", "env"):
        field.plant(f"bin/{name}", f"#!/bin/sh\n{shell}").chmod(0o755)
    filled = {key: value.format(home=field.home) for key, value in variables.items()}
    field.attempt(variables=filled, cwd=field.home)


@pytest.mark.usefixtures("exact_rule")
def test_the_current_directory_is_not_on_the_path(field: Field) -> None:
    _plant_modules(field, ".")
    assert field.attempt(cwd=field.home).ready


@pytest.mark.usefixtures("exact_rule")
def test_the_users_own_site_packages_are_not_on_the_path(field: Field) -> None:
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    _plant_modules(field, f".local/lib/{version}/site-packages")
    field.plant(f".local/lib/{version}/site-packages/evil.pth", "import evil\n")
    assert field.attempt().ready


@pytest.mark.usefixtures("exact_rule")
def test_a_directory_that_is_gone_is_no_place_to_hang(field: Field) -> None:
    gone = field.home / "gone"
    gone.mkdir()
    field.give(gone)
    assert field.attempt(cwd=gone, prepare=gone.rmdir).ready


@pytest.mark.parametrize("mask", [0o000, 0o777], ids=["none", "all"])
@pytest.mark.usefixtures("any_variables")
def test_what_is_compiled_is_written_with_the_helpers_own_umask(
    field: Field, mask: int
) -> None:
    package = field.packages / "privsep"
    for directory in [*package.rglob("__pycache__")]:
        shutil.rmtree(directory)
    assert field.attempt(umask=mask).ready
    made = [*package.rglob("__pycache__")]
    assert package / "_start" / "__pycache__" in made
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o755}


_LIMITS = [
    name
    for name in dir(resource)
    if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
]


@pytest.mark.parametrize("name", _LIMITS)
@pytest.mark.usefixtures("exact_rule")
def test_a_resource_limit_of_nothing_gives_nothing(field: Field, name: str) -> None:
    limit = getattr(resource, name)
    field.attempt(prepare=lambda: resource.setrlimit(limit, (0, 0)))


@pytest.mark.parametrize("count", [4, 8, 16])
@pytest.mark.usefixtures("exact_rule")
def test_few_descriptors_give_nothing(field: Field, count: int) -> None:
    limit = resource.RLIMIT_NOFILE
    field.attempt(prepare=lambda: resource.setrlimit(limit, (count, count)))


@pytest.mark.usefixtures("any_variables")
def test_descriptors_that_are_left_open_do_not_reach_the_daemon(field: Field) -> None:
    copies = [os.dup(0) for _ in range(500)]
    ours, daemons = field.pair()
    with ours:
        with daemons:
            process = field.launch(daemons, keep=copies)
        for copy in copies:
            os.close(copy)
        ours.settimeout(HANGS)
        assert msgpack.unpackb(ours.recv(1 << 17))[0] == READY
        held = os.listdir(f"/proc/{child_of(process.pid)}/fd")
        ours.close()
        process.communicate(timeout=HANGS)
    assert len(held) < 50


@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2)], ids=str)
@pytest.mark.usefixtures("exact_rule")
def test_a_closed_stream_is_not_replaced_by_what_is_opened_next(
    field: Field, closed: tuple[int, ...]
) -> None:
    closing = "".join(f" {number}>&-" for number in closed)
    before = ["sh", "-c", f'exec "$@"{closing}', "sh"]
    assert field.attempt(before=before).ready


@pytest.mark.parametrize("closed", [(0,), (0, 1), (0, 1, 2)], ids=str)
def test_closed_streams_are_replaced_where_the_helper_does_not_do_it(
    field: Field, closed: tuple[int, ...]
) -> None:
    closing = "".join(f" {number}>&-" for number in closed)
    done = subprocess.run(
        ["sh", "-c", f'exec "$@"{closing}', "sh", field.python.launcher, field.name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    if 2 not in closed:
        assert "standard input is not a control socket" in done.stderr


def test_a_daemon_that_nobody_gave_a_stream_starts(field: Field) -> None:
    ours, daemons = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, daemons:
        process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", field.python.launcher, field.name],
            stdin=daemons.fileno(),
            stdout=subprocess.PIPE,
        )
        daemons.close()
        assert field.outcome(process, ours).ready
