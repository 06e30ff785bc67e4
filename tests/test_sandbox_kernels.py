"""Sandboxes on systems that lack what they need, and what is said then."""

from __future__ import annotations

import errno
import logging
import os
import textwrap
from typing import TYPE_CHECKING

import pytest
from sandboxes import NEEDS_ROOT, make, refused, start_elsewhere, tree

import privsep
import scripts
from privsep._lockdown import landlock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jail import Jail

__all__ = ["make", "tree"]


# -- kernels that cannot -------------------------------------------------------

_WITHOUT = """
from privsep._lockdown import attributes, libseccomp
library = libseccomp.Library()
attributes.forbid_new_privileges()
rules = library.new_filter(libseccomp.ALLOW)
rules.add(libseccomp.fail_with({errno}), library.number("{name}"), {conditions})
rules.load()
"""


def _without(name: str, number: int = errno.ENOSYS, conditions: str = "") -> str:
    """Return a script that makes a system call fail, in its process and children."""
    return _WITHOUT.format(name=name, errno=number, conditions=conditions)


_WITHOUT_LANDLOCK = _without("landlock_create_ruleset")
_WITHOUT_NAMESPACES = _without("unshare")
_WITHOUT_SECCOMP = _without(
    "prctl", errno.EINVAL, "libseccomp.Argument(0, libseccomp.EQUAL, 22)"
)


def test_a_kernel_without_landlock_is_refused_where_it_is_required() -> None:
    with pytest.raises(privsep.StartError) as refusal:
        start_elsewhere(_WITHOUT_LANDLOCK, {"read": ["/srv"]})
    assert textwrap.dedent(
        "the kernel has Landlock ABI 0 (0: none), which cannot enforce: "
        "paths (ABI 1), truncation of files (ABI 3), ioctl on devices (ABI 5), "
        "abstract sockets (ABI 6), signals (ABI 6); landlock='best-effort'"
    ) in str(refusal.value)


def test_a_kernel_without_landlock_is_named_where_best_effort_is_asked() -> None:
    said = start_elsewhere(
        _WITHOUT_LANDLOCK, {"read": ["/srv"], "landlock": "best-effort"}
    )
    assert "reads root" in said
    assert said.count("WARNING") == 1
    assert "does not enforce of the sandbox: paths (ABI 1), truncation" in said


@NEEDS_ROOT
@pytest.mark.parametrize("abi", range(1, 8))
def test_an_older_abi_does_what_it_can(
    make: Callable[..., Jail],
    tree: Path,
    abi: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if abi > landlock.best_abi():
        pytest.skip("this kernel has less")
    monkeypatch.setattr(landlock, "best_abi", lambda: abi)
    fields = {"write": [f"{tree}/in"], "network": {"bind": []}}
    with caplog.at_level(logging.WARNING):
        jail = make(**fields, landlock="best-effort")
    missing = [
        name
        for since, name in (
            (3, "truncation of files (ABI 3)"),
            (4, "TCP ports (ABI 4)"),
            (5, "ioctl on devices (ABI 5)"),
            (6, "abstract sockets (ABI 6)"),
            (6, "signals (ABI 6)"),
        )
        if abi < since
    ]
    assert [r.getMessage().partition("sandbox: ")[2] for r in caplog.records] == (
        [", ".join(missing)] if missing else []
    )
    status = jail.context.status()
    assert status.not_enforced == tuple(missing)
    assert status.landlock_abi == abi
    assert jail.write(f"{tree}/in/new", "text") == 4
    with refused():
        jail.write(f"{tree}/out/new", "text")
    if missing:
        with pytest.raises(privsep.StartError, match=missing[0].partition(" (")[0]):
            make(**fields)


def test_a_sandbox_that_opens_all_needs_no_landlock() -> None:
    said = start_elsewhere(
        _WITHOUT_LANDLOCK,
        {"write": None, "network": True, "signals": True, "abstract_sockets": True},
    )
    assert said == "reads root\n"


def test_a_kernel_without_seccomp_is_refused_where_it_is_required() -> None:
    with pytest.raises(privsep.StartError, match="the kernel does not filter system"):
        start_elsewhere(_WITHOUT_SECCOMP, {})


def test_a_kernel_without_seccomp_is_named_where_best_effort_is_asked() -> None:
    said = start_elsewhere(_WITHOUT_SECCOMP, {"landlock": "best-effort"})
    assert "reads root" in said
    assert said.count("WARNING") == 1
    assert "does not enforce of the sandbox: the filter of system calls (" in said


@pytest.mark.parametrize("landlock", ["require", "best-effort"])
@pytest.mark.parametrize("fields", [{"namespaces": ["net"]}, {"private_tmp": True}])
def test_a_kernel_without_namespaces_is_refused_in_either_case(
    landlock: str, fields: dict[str, object]
) -> None:
    with pytest.raises(privsep.StartError, match="unshare: Function not implemented"):
        start_elsewhere(_WITHOUT_NAMESPACES, {**fields, "landlock": landlock})


# -- systems without user namespaces -------------------------------------------

_START_IN_USER_NAMESPACE = """
import privsep, service
context = service.services["plain"].context
try:
    context.start("userns")
except privsep.StartError as error:
    print(error)
else:
    context.stop()
"""


def _refusal_of_userns(number: int, *before: str) -> str:
    """Return what start("userns") says where unshare(2) fails with `number`."""
    script = _without("unshare", number) + _START_IN_USER_NAMESPACE
    return "\n".join(scripts.run(script, before=before))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL])
def test_a_kernel_without_user_namespaces_is_named(number: int) -> None:
    said = _refusal_of_userns(number)
    assert "could not be started by userns: this kernel has no user namespaces" in said
    assert os.strerror(number) in said
    assert "Traceback" not in said


def test_user_namespaces_that_a_container_refuses_are_told() -> None:
    said = _refusal_of_userns(errno.EPERM)
    assert "not allowed to this process, by the seccomp profile of a container" in said
    assert "Traceback" not in said


def test_user_namespaces_that_are_too_many_are_told_with_the_sysctl() -> None:
    assert "see sysctl user.max_user_namespaces" in _refusal_of_userns(errno.ENOSPC)


@pytest.mark.parametrize(
    ("sysctl", "value"),
    [
        ("user.max_user_namespaces", "0"),
        ("kernel.unprivileged_userns_clone", "0"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1"),
    ],
)
def test_the_sysctl_that_forbids_user_namespaces_is_named(
    sysctl: str, value: str
) -> None:
    directory, name = sysctl.split(".")
    # A file in its place, seen in these namespaces only: few systems have them all.
    said = _refusal_of_userns(
        errno.EPERM,
        *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c"),
        f"mount -t tmpfs none /proc/sys/{directory} && "
        f'echo {value} > /proc/sys/{directory}/{name} && exec "$@"',
        "sh",
    )
    assert f"user namespaces are forbidden: sysctl {sysctl} is {value} (" in said
