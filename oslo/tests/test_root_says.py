"""What root says of contexts holds for privsep-helper, too.

Where root says nothing, it runs the code of whoever owns it, as oslo.privsep does.
What root says stands in an /etc of the service's own, by a mount namespace.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import environments
import pytest
from own_etc import copy_of_etc, make_etc, need_own_mounts, own_mounts
from public_python import need

from privsep._start import rules

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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


#: root's file for every PrivContext that has none of its own
_OF_ALL = f"{rules.DIRECTORY}/oslo_privsep.toml"
#: what sudo needs, beside what every daemon does
_OF_SUDO = ("environment", "hosts", "login.defs", "pam.d", "security", "shadow")


class Service:
    """A service whose user's own source is on the path, as developers have it."""

    def __init__(self, python: PublicPython, user: str, place: Path) -> None:
        self.python = python
        self.helper = f"{python.prefix}/bin/privsep-helper"
        self.user = pwd.getpwnam(user)
        self.marks = place / "marks"
        self.marks.mkdir(mode=0o700)
        self.source = place / "source"
        self.source.mkdir()
        self.module = f"said_{os.getpid()}"
        (self.packages,) = python.prefix.glob("lib/python*/site-packages")
        self.write(self.source / f"{self.module}.py", self.text)
        self.give(self.source)
        self.etc = make_etc(place, self.module, "")
        _let_sudo_start(self.etc, f"{user} ALL=(root) NOPASSWD: {self.helper} *\n")

    @property
    def text(self) -> str:
        return _MODULE.format(marks=str(self.marks))

    @property
    def own(self) -> str:
        """The place of root's file for the context."""
        return rules.path_of(f"{self.module}:context")

    def say(self, path: str, text: str) -> Path:
        """Write a file of root's, at its path in the service's /etc."""
        file = self.etc / Path(path).relative_to("/etc")
        file.write_text(text)
        return file

    def give(self, path: Path) -> None:
        os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def write(self, path: Path, text: str) -> Path:
        path.write_text(text)
        self.give(path)
        return path

    def call(self) -> str:
        """Call as the service's user; return the result, or what went wrong."""
        script = _CALL.format(module=self.module, helper=self.helper)
        become = ["setpriv", f"--reuid={self.user.pw_uid}", "--clear-groups"]
        become.append(f"--regid={self.user.pw_gid}")
        return self.run([*become, self.python.executable, "-c", script])

    def run(self, words: Sequence[str]) -> str:
        """Run a command where its /etc is in place; return what it says."""
        done = subprocess.run(
            [*own_mounts({"/etc": self.etc}), *words],
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


def _let_sudo_start(etc: Path, rule: str) -> None:
    copy_of_etc(_OF_SUDO, etc)
    (etc / "sudoers").write_text(rule)
    (etc / "sudoers").chmod(0o440)


@pytest.fixture
def service(service_python: PublicPython, unprivileged_user: str) -> Iterator[Service]:
    need("sudo", "setpriv")
    need_own_mounts()
    with tempfile.TemporaryDirectory(prefix="said-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        service = Service(service_python, unprivileged_user, Path(name))
        path = service.packages / f"{service.module}.pth"
        path.write_text(f"{service.source}\n")
        yield service
        path.unlink()


def test_where_root_says_nothing_the_services_own_source_runs(service: Service) -> None:
    shutil.rmtree(service.etc / "privsep")
    assert service.call() == "uid 0\n"
    assert service.is_marked()


def test_where_root_speaks_of_other_contexts_alone_it_runs_as_well(
    service: Service,
) -> None:
    service.say(rules.path_of("os:path"), "")
    assert service.call() == "uid 0\n"


def test_where_root_speaks_of_all_contexts_no_code_runs_that_others_may_change(
    service: Service,
) -> None:
    service.say(_OF_ALL, "")
    said = service.call()
    assert not service.is_marked()
    uid = service.user.pw_uid
    assert f"{service.source} belongs to uid {uid}" in said
    assert f"write owners = [{uid}] in {_OF_ALL}" in said


def test_where_root_speaks_of_the_context_no_code_runs_that_others_may_change(
    service: Service,
) -> None:
    service.say(service.own, "")
    assert f"{service.source} belongs to uid " in service.call()
    assert service.own in service.call()
    assert not service.is_marked()


def test_code_of_roots_runs_wherever_root_speaks(service: Service) -> None:
    service.say(_OF_ALL, "")
    service.source.rename(service.source.with_name("theirs"))
    path = service.packages / f"{service.module}.py"
    path.write_text(service.text)
    try:
        assert service.call() == "uid 0\n"
    finally:
        path.unlink()


def test_code_of_owners_that_root_names_runs(service: Service) -> None:
    service.say(_OF_ALL, f"owners = [{service.user.pw_uid}]\n")
    assert service.call() == "uid 0\n"


def test_the_contexts_own_file_counts_before_that_of_all(service: Service) -> None:
    service.say(service.own, f"owners = [{service.user.pw_uid}]\n")
    service.say(_OF_ALL, "")
    assert service.call() == "uid 0\n"


def test_only_users_that_root_names_start_the_context(service: Service) -> None:
    owners = f"owners = [{service.user.pw_uid}]\n"
    service.say(service.own, f"{owners}users = []\n")
    assert f"does not let uid {service.user.pw_uid} start it" in service.call()
    service.say(service.own, f"{owners}groups = [{service.user.pw_gid}]\n")
    assert service.call() == "uid 0\n"


def test_the_context_gets_no_more_capabilities_than_root_says(service: Service) -> None:
    owners = f"owners = [{service.user.pw_uid}]\n"
    service.say(service.own, f'{owners}capabilities = ["CAP_KILL"]\n')
    assert "asks for CAP_CHOWN" in service.call()


def test_a_pth_file_of_others_is_not_read_where_root_speaks(service: Service) -> None:
    file = service.say(_OF_ALL, "")
    text = f"import tempfile; tempfile.mkstemp(dir={str(service.marks)!r})\n"
    guarded = f"import os; os.geteuid() or exec({text!r})\n"
    path = service.write(service.packages / f"{service.module}-evil.pth", guarded)
    try:
        said = service.call()
        assert f"{path} belongs to uid {service.user.pw_uid}" in said
        assert not service.is_marked()
        file.unlink()
        service.call()
        assert service.is_marked()
    finally:
        path.unlink()


def test_a_file_of_roots_that_others_may_change_is_none(service: Service) -> None:
    service.give(service.say(_OF_ALL, ""))
    said = service.call()
    assert f"{_OF_ALL} belongs to uid {service.user.pw_uid}" in said
    assert not service.is_marked()


def test_an_installation_whose_files_cannot_be_looked_at_first_is_refused(
    service: Service,
) -> None:
    service.say(_OF_ALL, "")
    python = environments.python("ours")
    helper = Path(python).with_name("privsep-helper")
    call = _CALL.format(module=service.module, helper=helper).replace("sudo -n ", "")
    script = f"import sys; sys.path.append({str(service.source)!r})\n{call}"
    assert "an installation without -e" in service.run([python, "-c", script])
