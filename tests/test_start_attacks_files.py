"""Attacks on the start through sudo, by files that are not root's alone."""

from __future__ import annotations

import _ctypes
import contextlib
import importlib.util
import os
import py_compile
import shutil
import stat
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from start_attacks import (
    HONEST,
    Field,
    Outcome,
    any_words,
    exact_rule,
    field,
    gives_nothing,
    remove,
    rules_file,
)

from privsep._start import rules

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["any_words", "exact_rule", "field", "gives_nothing", "rules_file"]


# -- code --------------------------------------------------------------------------


class Placed(NamedTuple):
    """What an administrator's mistake has put where root's daemon looks."""

    path: Path  #: what the refusal has to name
    mode: int | None = None


def _owned_module(field: Field) -> Placed:
    path = field.packages / f"{field.module}.py"
    field.give(path)
    return Placed(path)


def _mode(mode: int) -> Callable[[Field], Placed]:
    def place(field: Field) -> Placed:
        path = field.packages / f"{field.module}.py"
        path.chmod(mode)
        return Placed(path, mode)

    return place


def _directory(mode: int) -> Callable[[Field], Placed]:
    def place(field: Field) -> Placed:
        field.packages.chmod(mode)
        return Placed(field.packages, mode)

    return place


def _owned(relative: str) -> Callable[[Field], Placed]:
    def place(field: Field) -> Placed:
        path = field.python.prefix / relative.format(packages=field.packages)
        field.give(path)
        return Placed(path)

    return place


def _linked_module(field: Field) -> Placed:
    target = field.plant("linked.py", HONEST + field.evil)
    path = field.packages / f"{field.module}.py"
    path.unlink()
    path.symlink_to(target)
    return Placed(field.home)


def _linked_by_another_link(field: Field) -> Placed:
    """The last link is root's, and leads to root's file, by a link of the user's."""
    link = field.home / "way"
    link.symlink_to(field.packages)
    field.give(link)
    real = field.packages / "real_module.py"
    real.write_text(HONEST)
    path = field.packages / f"{field.module}.py"
    path.unlink()
    path.symlink_to(link / "real_module.py")
    return Placed(field.home)


def _compiled(field: Field) -> Placed:
    """The compiled form of a module of root's, by somebody else."""
    path = field.packages / f"{field.module}.py"
    cached = Path(importlib.util.cache_from_source(str(path)))
    source = field.home / "evil.py"
    source.write_text(HONEST + field.evil)
    py_compile.compile(str(source), str(cached))
    data = bytearray(cached.read_bytes())
    status = path.stat()
    data[8:16] = int(status.st_mtime).to_bytes(4, "little") + status.st_size.to_bytes(
        4, "little"
    )
    cached.write_bytes(data)
    field.give(cached)
    return Placed(cached)


def _package(field: Field) -> Placed:
    """A package of the user's that stands before the module."""
    package = field.packages / field.module
    package.mkdir()
    (package / "__init__.py").write_text(HONEST + field.evil)
    field.give(package)
    return Placed(package)


def _imported(field: Field) -> Placed:
    """A module that the context's module imports."""
    other = field.packages / f"{field.module}_other.py"
    other.write_text(field.evil)
    field.give(other)
    (field.packages / f"{field.module}.py").write_text(f"import {other.stem}\n{HONEST}")
    return Placed(other)


def _linked_library(field: Field) -> Placed:
    """A shared library, as an extension module may be linked with one."""
    own = _ctypes.__file__
    library = field.packages / f"{field.module}_library.so"
    shutil.copy(own, library)
    field.give(library)
    load = f"import _ctypes; _ctypes.dlopen({str(library)!r}, 0)\n"
    (field.packages / f"{field.module}.py").write_text(load + HONEST)
    return Placed(library)


def _pth(text: str, *, owned: bool) -> Callable[[Field], Placed]:
    def place(field: Field) -> Placed:
        field.plant(f"{field.module}.py", HONEST + field.evil)
        (field.packages / f"{field.module}.py").unlink()
        path = field.packages / "evil.pth"
        evil = "; ".join(f"exec({line!r})" for line in [field.evil])
        path.write_text(text.format(home=field.home, evil=evil))
        if owned:
            field.give(path)
            return Placed(path)
        return Placed(field.home)

    return place


_HOOK = """
import sys, importlib.util
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            return importlib.util.spec_from_file_location(name, {file!r})
sys.meta_path.{how}
"""


def _hook(how: str) -> Callable[[Field], Placed]:
    """An editable installation by a finder, as setuptools makes it."""

    def place(field: Field) -> Placed:
        target = field.plant("hooked.py", HONEST + field.evil)
        (field.packages / f"{field.module}.py").unlink()
        finder = field.packages / f"{field.module}_finder.py"
        finder.write_text(_HOOK.format(module=field.module, file=str(target), how=how))
        (field.packages / "evil.pth").write_text(f"import {finder.stem}\n")
        return Placed(field.home)

    return place


def _archive(field: Field) -> Placed:
    archive = field.packages / "evil.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(f"{field.module}.py", HONEST + field.evil)
    field.give(archive)
    (field.packages / f"{field.module}.py").unlink()
    (field.packages / "evil.pth").write_text(f"{archive}\n")
    return Placed(archive)


def _customized(field: Field) -> Placed:
    path = field.packages / "sitecustomize.py"
    path.write_text(field.evil)
    field.give(path)
    return Placed(path)


def _namespace(field: Field) -> Placed:
    """A part of a namespace package."""
    field.plant("parts/of/part.py")
    (field.packages / "evil.pth").write_text(f"{field.home}/parts\n")
    (field.packages / f"{field.module}.py").write_text(f"import of.part\n{HONEST}")
    return Placed(field.home)


_FILES: dict[str, Callable[[Field], Placed]] = {
    "the module": _owned_module,
    "a module that its group may write": _mode(0o664),
    "a module that all may write": _mode(0o646),
    "a directory that its group may write": _directory(0o775),
    "a directory that all may write": _directory(0o757),
    "a directory like /tmp": _directory(0o1777),
    "the environment": _owned("."),
    "the directory of the interpreter": _owned("bin"),
    "the link to the interpreter": _owned("bin/python3"),
    "the launcher": _owned("bin/privsep-daemon"),
    "pyvenv.cfg": _owned("pyvenv.cfg"),
    "site-packages": _owned("{packages}"),
    "a file of privsep that is loaded early": _owned(
        "{packages}/privsep/_start/trust.py"
    ),
    "a file of privsep that is loaded late": _owned(
        "{packages}/privsep/_daemon/supervisor.py"
    ),
    "a directory of privsep": _owned("{packages}/privsep/_lockdown"),
    "msgpack": _owned("{packages}/msgpack/__init__.py"),
    "the directory of msgpack": _owned("{packages}/msgpack"),
    "a link to a module of the user's": _linked_module,
    "a link by way of the user's": _linked_by_another_link,
    "a compiled module": _compiled,
    "a package before the module": _package,
    "what the module imports": _imported,
    "a library that something is linked with": _linked_library,
    "a .pth file with a path": _pth("{home}\n", owned=True),
    "a .pth file with code": _pth("import os; {evil}\n", owned=True),
    "a .pth file of root's with a path": _pth("{home}\n", owned=False),
    "a finder behind the others": _hook("append(Finder)"),
    "a finder before the others": _hook("insert(0, Finder)"),
    "an archive": _archive,
    "sitecustomize": _customized,
    "a part of a namespace package": _namespace,
}


@contextlib.contextmanager
def _restored(field: Field) -> Generator[None]:
    """Put the environment back as it was."""
    prefix = field.python.prefix
    before = {path: path.lstat() for path in (prefix, *prefix.rglob("*"))}
    try:
        yield
    finally:
        (field.packages / f"{field.module}.py").unlink(missing_ok=True)
        (field.packages / f"{field.module}.py").write_text(HONEST)
        for path in sorted(prefix.rglob("*"), reverse=True):
            if path not in before:
                remove(path)
        for path, status in before.items():
            if path.exists():
                os.lchown(path, 0, 0)
                if not path.is_symlink():
                    path.chmod(stat.S_IMODE(status.st_mode))


@pytest.mark.parametrize("place", _FILES.values(), ids=_FILES)
@pytest.mark.usefixtures("exact_rule")
def test_a_file_that_is_not_roots_alone_is_refused_by_name(
    field: Field, place: Callable[[Field], Placed]
) -> None:
    with _restored(field):
        placed = place(field)
        outcome = field.attempt()
    assert not outcome.ready
    said = outcome.said.replace(str(field.python.prefix / "bin" / ".."), "")
    assert f"{placed.path} belongs to uid " in said
    if placed.mode is None:
        assert f"belongs to uid {field.user.pw_uid}, gid " in said
        assert f"owners = [{field.user.pw_uid}] in {rules.path_of(field.name)}" in said
    else:
        assert f"mode {placed.mode:04o}: " in said
        assert "take write permission from group and others" in said
    assert "\n" not in outcome.said.strip()


def test_developers_whom_root_names_start_what_is_theirs(
    field: Field, rules_file: Path, exact_rule: None
) -> None:
    """Their virtual environment, their module, their .pth file: by one line."""
    rules_file.write_text(f'owners = ["{field.user.pw_name}"]\n')
    with _restored(field):
        for path in (field.python.prefix, *field.python.prefix.rglob("*")):
            field.give(path)
        (field.packages / f"{field.module}.py").unlink()
        field.plant(f"{field.module}.py", HONEST)
        (field.packages / "own.pth").write_text(f"{field.home}\n")
        assert field.attempt() == Outcome(True, "")


# -- root's file -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("users = []", "does not let uid {uid} start it"),
        ('users = ["root"]\ngroups = ["root"]', "does not let uid {uid} start it"),
        ('groups = ["root"]', "does not let uid {uid} start it"),
        (
            'users = ["privsep-no-such-user"]',
            "users: there is no user 'privsep-no-such-user'",
        ),
        ("users = 0", "users: it is 0; it must be a list"),
        ("users = [true]", "True is neither a name nor a number"),
        ("owner = [0]", "no key 'owner'; there are: users, groups"),
        ("owners = [", "Invalid value (at end of document)"),
        ("deadline = 0", "it is 0; it may be up to 3600 seconds"),
        ("deadline = inf", "it is inf; it may be"),
        ('capabilities = ["CAP_SYS_ADMINN"]', "did you mean CAP_SYS_ADMIN?"),
    ],
)
@pytest.mark.usefixtures("exact_rule")
def test_roots_file_says_who_may_start_and_says_it_without_a_mistake(
    field: Field, rules_file: Path, text: str, words: str
) -> None:
    rules_file.write_text(f"{text}\n")
    outcome = field.attempt()
    assert not outcome.ready
    assert str(rules_file) in outcome.said
    assert words.format(uid=field.user.pw_uid) in outcome.said


@pytest.mark.parametrize(
    "text", ["users = [{uid}]", "groups = [{gid}]", "groups = []\nusers = ['{name}']"]
)
@pytest.mark.usefixtures("exact_rule")
def test_who_is_named_in_roots_file_may_start(
    field: Field, rules_file: Path, text: str
) -> None:
    user = field.user
    rules_file.write_text(
        text.format(uid=user.pw_uid, gid=user.pw_gid, name=user.pw_name)
    )
    assert field.attempt().ready


@pytest.mark.usefixtures("any_words")
def test_a_context_has_no_capability_that_roots_file_lacks(
    field: Field, rules_file: Path
) -> None:
    path = rules_file.with_name(f"{field.module}:network.toml")
    path.write_text('capabilities = ["CAP_CHOWN"]\n')
    try:
        outcome = field.attempt(f"{field.module}:network")
    finally:
        path.unlink()
    assert not outcome.ready
    assert "asks for CAP_NET_ADMIN, which capabilities in" in outcome.said


def _own_rules(field: Field, path: Path) -> None:
    path.write_text("users = []\n")
    field.give(path)


def _open_rules(field: Field, path: Path) -> None:
    path.write_text("users = []\n")
    path.chmod(0o666)


def _linked_rules(field: Field, path: Path) -> None:
    path.symlink_to(field.plant("rules.toml", f"owners = [{field.user.pw_uid}]\n"))


def _open_directory(field: Field, path: Path) -> None:
    path.write_text("")
    path.parent.chmod(0o775)


def _directory_of_rules(field: Field, path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (_own_rules, "belongs to uid {uid}"),
        (_open_rules, "mode 0666"),
        (_linked_rules, "belongs to uid {uid}"),
        (_open_directory, "mode 0775"),
        (_directory_of_rules, "it is a directory"),
    ],
)
@pytest.mark.usefixtures("exact_rule")
def test_a_file_of_rules_that_is_not_roots_alone_is_refused(
    field: Field,
    rules_file: Path,
    place: Callable[[Field, Path], None],
    words: str,
) -> None:
    mode = stat.S_IMODE(rules_file.parent.stat().st_mode)
    place(field, rules_file)
    try:
        outcome = field.attempt()
    finally:
        rules_file.parent.chmod(mode)
        if rules_file.is_dir():
            rules_file.rmdir()
    assert not outcome.ready
    assert words.format(uid=field.user.pw_uid) in outcome.said
