"""What root says of contexts holds for privsep-helper, too.

Where root says nothing, it runs the code of whoever owns it, as oslo.privsep does.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import environments
import pytest
from public_python import etc_locked, need, sudoers

from privsep._start import rules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from public_python import PublicPython

_MODULE = """
import os, tempfile
if os.geteuid() == 0:
    tempfile.mkstemp(dir={marks!r})
from oslo_privsep import priv_context
context = priv_context.PrivContext(
    __name__, cfg_section="said", pypath=__name__ + ".context",
    capabilities=["CAP_CHOWN"])
@context.entrypoint
def who():
    return os.getuid()
"""
_CALL = """
from oslo_config import cfg
import {module}
cfg.CONF([], project="x")
cfg.CONF.set_override("helper_command", "sudo -n {helper}", group="said")
try:
    print("uid", {module}.who())
except Exception as error:
    print(error)
"""


class Service:
    """A service whose user's own source is on the path, as developers have it."""

    def __init__(
        self, python: PublicPython, helper: str, user: str, place: Path
    ) -> None:
        self.python = python
        self.helper = helper
        self.user = pwd.getpwnam(user)
        self.marks = place / "marks"
        self.marks.mkdir(mode=0o700)
        self.source = place / "source"
        self.source.mkdir()
        self.module = f"said_{os.getpid()}"
        (self.packages,) = python.prefix.glob("lib/python*/site-packages")
        self.write(self.source / f"{self.module}.py", self.text)
        self.give(self.source)

    @property
    def text(self) -> str:
        return _MODULE.format(marks=str(self.marks))

    @property
    def own(self) -> Path:
        """The place of root's file for the context."""
        return Path(rules.path_of(f"{self.module}:context"))

    def give(self, path: Path) -> None:
        os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def write(self, path: Path, text: str) -> Path:
        path.write_text(text)
        self.give(path)
        return path

    def call(self) -> str:
        """Call as the service's user; return the result, or what went wrong."""
        script = _CALL.format(module=self.module, helper=self.helper)
        done = subprocess.run(
            [self.python.executable, "-c", script],
            user=self.user.pw_uid,
            group=self.user.pw_gid,
            extra_groups=[],
            env={"PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def is_marked(self) -> bool:
        """Return whether the service's code has run as root."""
        return bool(os.listdir(self.marks))


@pytest.fixture
def service(service_python: PublicPython, unprivileged_user: str) -> Iterator[Service]:
    need("sudo", "visudo")
    helper = f"{service_python.prefix}/bin/privsep-helper"
    rule = f"{unprivileged_user} ALL=(root) NOPASSWD: {helper} *"
    with (
        tempfile.TemporaryDirectory(prefix="said-", dir="/var/tmp") as name,
        etc_locked(fcntl.LOCK_EX),
        sudoers(f"{unprivileged_user}-said", rule),
    ):
        Path(name).chmod(0o755)
        service = Service(service_python, helper, unprivileged_user, Path(name))
        path = service.packages / f"{service.module}.pth"
        path.write_text(f"{service.source}\n")
        yield service
        path.unlink()


@pytest.fixture
def everywhere() -> Iterator[Path]:
    """Root's file for every PrivContext that has none of its own."""
    path = Path(rules.DIRECTORY) / "oslo_privsep.toml"
    made = [x for x in (path.parent.parent, path.parent) if not x.exists()]
    for directory in made:
        directory.mkdir(mode=0o755)
    path.touch(0o644)
    yield path
    path.unlink(missing_ok=True)
    for directory in made[::-1]:
        directory.rmdir()


@pytest.fixture
def own(service: Service, everywhere: Path) -> Iterator[Path]:
    """Root's file for the context."""
    everywhere.unlink()
    service.own.touch(0o644)
    yield service.own
    service.own.unlink()


def test_where_root_says_nothing_the_services_own_source_runs(service: Service) -> None:
    assert service.call() == "uid 0\n"
    assert service.is_marked()


def test_where_root_speaks_of_other_contexts_alone_it_runs_as_well(
    service: Service, everywhere: Path
) -> None:
    everywhere.rename(everywhere.with_name("os:path.toml"))
    try:
        assert service.call() == "uid 0\n"
    finally:
        everywhere.with_name("os:path.toml").unlink()


@pytest.mark.usefixtures("everywhere")
def test_where_root_speaks_of_all_contexts_no_code_runs_that_others_may_change(
    service: Service,
) -> None:
    said = service.call()
    assert not service.is_marked()
    uid = service.user.pw_uid
    assert f"{service.source} belongs to uid {uid}" in said
    assert f"write owners = [{uid}] in {rules.DIRECTORY}/oslo_privsep.toml" in said


def test_where_root_speaks_of_the_context_no_code_runs_that_others_may_change(
    service: Service, own: Path
) -> None:
    assert f"{service.source} belongs to uid " in service.call()
    assert str(own) in service.call()
    assert not service.is_marked()


@pytest.mark.usefixtures("everywhere")
def test_code_of_roots_runs_wherever_root_speaks(service: Service) -> None:
    service.source.rename(service.source.with_name("theirs"))
    path = service.packages / f"{service.module}.py"
    path.write_text(service.text)
    try:
        assert service.call() == "uid 0\n"
    finally:
        path.unlink()


def test_code_of_owners_that_root_names_runs(
    service: Service, everywhere: Path
) -> None:
    everywhere.write_text(f"owners = [{service.user.pw_uid}]\n")
    assert service.call() == "uid 0\n"


def test_the_contexts_own_file_counts_before_that_of_all(
    service: Service, own: Path, everywhere: Path
) -> None:
    own.write_text(f"owners = [{service.user.pw_uid}]\n")
    everywhere.touch()
    assert service.call() == "uid 0\n"


def test_only_users_that_root_names_start_the_context(
    service: Service, own: Path
) -> None:
    owners = f"owners = [{service.user.pw_uid}]\n"
    own.write_text(f"{owners}users = []\n")
    assert f"does not let uid {service.user.pw_uid} start it" in service.call()
    own.write_text(f"{owners}groups = [{service.user.pw_gid}]\n")
    assert service.call() == "uid 0\n"


def test_the_context_gets_no_more_capabilities_than_root_says(
    service: Service, own: Path
) -> None:
    own.write_text(f'owners = [{service.user.pw_uid}]\ncapabilities = ["CAP_KILL"]\n')
    assert "asks for CAP_CHOWN" in service.call()


def test_a_pth_file_of_others_is_not_read_where_root_speaks(
    service: Service, everywhere: Path
) -> None:
    text = f"import tempfile; tempfile.mkstemp(dir={str(service.marks)!r})\n"
    guarded = f"import os; os.geteuid() or exec({text!r})\n"
    path = service.write(service.packages / f"{service.module}-evil.pth", guarded)
    try:
        said = service.call()
        assert f"{path} belongs to uid {service.user.pw_uid}" in said
        assert not service.is_marked()
        everywhere.unlink()
        service.call()
        assert service.is_marked()
    finally:
        path.unlink()


def test_a_file_of_roots_that_others_may_change_is_none(
    service: Service, everywhere: Path
) -> None:
    service.give(everywhere)
    said = service.call()
    assert f"{everywhere} belongs to uid {service.user.pw_uid}" in said
    assert not service.is_marked()


@pytest.mark.usefixtures("everywhere")
def test_an_installation_whose_files_cannot_be_looked_at_first_is_refused(
    service: Service,
) -> None:
    helper = Path(environments.python("ours")).with_name("privsep-helper")
    call = _CALL.format(module=service.module, helper=helper).replace("sudo -n ", "")
    script = f"import sys; sys.path.append({str(service.source)!r})\n{call}"
    said = environments.finish(environments.begin("ours", "-c", script))
    assert "an installation without -e" in said
