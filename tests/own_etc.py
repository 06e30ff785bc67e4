"""An /etc of a command's own, by a mount namespace; the machine's is left alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

#: what looking up users needs, and the dynamic loader
OF_ETC = ("passwd", "group", "nsswitch.conf", "ld.so.cache", "localtime")


def own_mounts(mounts: Mapping[str, Path]) -> list[str]:
    """Return words before a command that has `mounts`, target to source, of its own."""
    unshare = ["unshare", "--mount", "--propagation", "private"]
    script = [f'mount --bind "{place}" {target}' for target, place in mounts.items()]
    return [*unshare, "sh", "-c", " && ".join([*script, 'exec "$@"']), "sh"]


def need_own_mounts() -> None:
    if subprocess.run([*own_mounts({}), "true"], check=False).returncode:
        pytest.skip("root may not mount here, even in a namespace of its own")


def copy_of_etc(names: Iterable[str], etc: Path) -> None:
    for name in names:
        source = f"/etc/{name}"
        if os.path.isdir(source):
            shutil.copytree(source, etc / name, symlinks=True)
        elif os.path.exists(source):
            shutil.copy(source, etc / name)


def make_etc(place: Path, variable: str, admission: str) -> Path:
    """Make what is to be /etc for a daemon; return it."""
    etc = place / "etc"
    contexts = etc / "privsep" / "contexts.d"
    contexts.mkdir(parents=True)
    copy_of_etc(OF_ETC, etc)
    if admission:
        (contexts / f"{variable}.toml").write_text(admission)
    return etc
