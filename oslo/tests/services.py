"""What services have: an interpreter, and a rule of sudo for the helper."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import environments
import pytest
from public_python import need, sudoers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from public_python import PublicPython


@pytest.fixture(scope="session")
def service_python(public_python: PublicPython) -> PublicPython:
    """The interpreter that every user may run, with os-vif and with ours."""
    environments.python("ours")
    (common,) = environments.PLACE.glob("common/lib/python*/site-packages")
    (packages,) = public_python.prefix.glob("lib/python*/site-packages")
    for source in (common, environments.TESTS.parent / "src"):
        shutil.copytree(
            source,
            packages,
            copy_function=_link,
            dirs_exist_ok=True,
            symlinks=True,
            ignore=shutil.ignore_patterns("*.pyc.*"),  # what others compile
        )
    helper = public_python.prefix / "bin" / "privsep-helper"
    shutil.copy(environments.TESTS.parent / "scripts" / "privsep-helper", helper)
    helper.chmod(0o755)
    return public_python


def _link(source: str, target: str) -> None:
    if os.path.exists(target):
        return
    try:
        os.link(source, target)
    except OSError:  # another filesystem
        shutil.copy2(source, target)


@pytest.fixture
def helper_rule(unprivileged_user: str, service_python: PublicPython) -> Iterator[str]:
    """The helper's path; sudo lets the user start it with any arguments."""
    need("sudo", "visudo")
    helper = f"{service_python.prefix}/bin/privsep-helper"
    rule = f"{unprivileged_user} ALL=(root) NOPASSWD: {helper} *"
    with sudoers(f"{unprivileged_user}-oslo", rule):
        yield helper
