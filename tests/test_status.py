"""`Context.status`: what a daemon says about itself is what the kernel says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import IS_ROOT, METHOD
from service import services

if TYPE_CHECKING:
    from collections.abc import Callable

    from service import Service

    Start = Callable[..., Service]


def test_the_status_of_a_daemon_is_what_the_kernel_says(start: Start) -> None:
    service = start("network")
    kernel = service.status()  # of a worker, which is as its daemon
    status = service.context.status()
    assert (status.context, status.method) == ("network", METHOD)
    assert status.uids == tuple(map(int, kernel["Uid"].split()))
    assert status.gids == tuple(map(int, kernel["Gid"].split()))
    assert set(status.groups) == set(map(int, kernel["Groups"].split()))
    for field, name in (
        ("permitted", "CapPrm"),
        ("effective", "CapEff"),
        ("inheritable", "CapInh"),
        ("bounding", "CapBnd"),
        ("ambient", "CapAmb"),
    ):
        assert getattr(status, field) == int(kernel[name], 16), field
    assert status.no_new_privs
    assert status.seccomp == int(kernel["Seccomp"])


@pytest.mark.skipif(not IS_ROOT, reason="needs root: its pid in a namespace is 1")
def test_the_status_has_the_daemons_pid(start: Start) -> None:
    service = start("plain")
    worker = Path(f"/proc/{service.process_id()}/status").read_text()
    assert f"PPid:\t{service.context.status().pid}\n" in worker


def test_the_status_counts_the_calls_that_have_ended_and_its_own_is_running(
    start: Start,
) -> None:
    service = start("plain")
    first = service.context.status()
    for number in range(5):
        service.echo(number)
    then = service.context.status()
    assert then.calls - first.calls == 6  # those, and the first question
    assert then.busy == 1
    assert (then.workers, then.isolation) == (4, "process")
    assert then.uptime > first.uptime


def test_asking_starts_a_daemon_that_is_not_started() -> None:
    service = services["plain"]
    try:
        assert service.context.status().calls == 0
    finally:
        service.context.stop()


def test_the_status_is_readable_when_it_is_printed(start: Start) -> None:
    lines = str(start("network").context.status()).splitlines()
    rows = {line[:13].strip(): line[14:] for line in lines}
    assert rows["context"] == f"network, started by {METHOD}"
    assert rows["permitted"] == rows["bounding"] == "CAP_NET_ADMIN"
    assert rows["ambient"] == "none"
    assert rows["no_new_privs"] == "yes"
    assert rows["not enforced"] == "nothing that was asked"
    assert str(os.getpid()) not in rows["process"]
