"""Policies of rootwrap that a service that was taken over would try to pass."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from conftest import IS_ROOT
from wrapping import NOT_ALLOWED, Wrapped

if TYPE_CHECKING:
    from pathlib import Path


root_only = pytest.mark.skipif(not IS_ROOT, reason="only root can be attacked so")
STRANGER = 65534


@pytest.fixture(scope="module")
def wrapped(tmp_path_factory: pytest.TempPathFactory) -> Wrapped:
    """A policy with a filter of each kind, and another file of each name."""
    wrapped = Wrapped(tmp_path_factory.mktemp("attacked"))
    names = ("show", "ip", "nice", "chown", "cat", "sh", "env", "touch", "rm")
    wrapped.script(*names)
    evil = wrapped.directory / "evil"
    evil.mkdir(mode=0o755)
    for name in names:
        (evil / name).write_text("#!/bin/sh\necho evil\n")
        (evil / name).chmod(0o755)
    (evil / "sub").mkdir()
    images = wrapped.directory / "images"
    (images / "sub").mkdir(parents=True)
    (images / "file").touch()
    (wrapped.directory / "images-evil").mkdir()
    (wrapped.directory / "images-evil" / "file").touch()
    for name, target in (
        ("out", "/etc/passwd"),
        ("etc", "/etc"),
        ("up", ".."),
        ("evil", "../images-evil"),
        ("twice", "up/images-evil"),
        ("loop", "loop"),
        ("root", "/"),
        ("proc", "/proc/self/root"),
    ):
        (images / name).symlink_to(target)
    wrapped.allow(
        "show: CommandFilter, show, @me",
        "ip: IpFilter, ip, @me",
        "ip_exec: IpNetnsExecFilter, ip, @me",
        r"nice: ChainingRegExpFilter, nice, @me, nice, -n, -?\d+",
        "env: EnvFilter, env, @me, TAG=, show",
        "cat: ReadFileFilter, @dir/secret",
        "chown: PathFilter, chown, @me, nova, @dir/images",
        "touch: RegExpFilter, touch, @me, touch, a|b",
        "kill: KillFilter, @me, sleep, -9, -HUP",
    )
    return wrapped


@pytest.fixture
def own(tmp_path: Path) -> Wrapped:
    """A policy in a directory of its own, whose only command is `show` and `link`."""
    wrapped = Wrapped(tmp_path / "own")
    wrapped.script("show")
    real = wrapped.directory / "real"
    real.mkdir(mode=0o755)
    shutil.copy(wrapped.bin / "show", real / "link")
    (wrapped.bin / "link").symlink_to(real / "link")
    wrapped.allow("a: CommandFilter, show, @me", "b: CommandFilter, link, @me")
    return wrapped


def is_refused(wrapped: Wrapped, *words: str) -> None:
    verdict = wrapped.judge(*words)
    verdict.close()
    assert verdict.status == NOT_ALLOWED, f"{verdict.argv} would run"
