"""Start method ``socket``: clients that share a daemon that listens.

The test plays systemd: it makes the socket, starts the daemon with it, and starts it
again.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest
from forks import in_child
from hostile import PROMPTLY
from listening import (
    NET_ADMIN,
    Manager,
    connect,
    greeting,
    manage,
    needs_root,
    public_path,
    reach,
)
from observe import Fifo, Release
from own_etc import own_mounts
from service import Service, services

import privsep
import scripts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from public_python import PublicPython

__all__ = ["manage", "public_path", "reach"]

pytestmark = needs_root


def test_a_daemon_that_systemd_started_serves_with_the_capability_of_its_context(
    manage: Callable[..., Manager], reach: Callable[..., Service]
) -> None:
    manager = manage("service:network")
    service = reach(manager, "network")
    status = service.context.status()
    assert (status.method, status.pid) == ("socket", manager.pid)
    assert status.permitted == status.bounding == NET_ADMIN
    assert service.echo("value") == "value"


CLIENT = """
    import sys, service
    plain = service.services["plain"]
    plain.context.start("socket", path=sys.argv[1], deadline=60)
    print(plain.context.status().pid)
    print(plain.echo("value"), flush=True)
    sys.stdin.read()
    print(plain.echo("again"))
    plain.context.stop()
"""


def test_several_clients_of_several_users_share_one_daemon(
    manage: Callable[..., Manager],
    reach: Callable[..., Service],
    public_python: PublicPython,
    unprivileged_user: str,
) -> None:
    manager = manage("service:plain", f'users = ["{unprivileged_user}"]')
    service = reach(manager)
    with public_python.begin(
        CLIENT, manager.path, user=unprivileged_user, stdin=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        assert client.stdin is not None
        pid = int(client.stdout.readline())
        assert client.stdout.readline() == "value\n"
        assert pid == service.context.status().pid == manager.pid
        service.context.stop()  # the other one's daemon stays
        client.stdin.close()
        assert client.stdout.readline() == "again\n"


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_a_client_that_is_monkey_patched_connects(
    manage: Callable[..., Manager], library: str
) -> None:
    patch = {
        "gevent": "from gevent import monkey; monkey.patch_all()",
        "eventlet": "import eventlet; eventlet.monkey_patch()",
    }
    script = f"""
        {patch[library]}
        import sys, service
        plain = service.services["plain"]
        plain.context.start("socket", path=sys.argv[1], deadline=60)
        print(plain.echo("value"))
        plain.context.stop()
    """
    manager = manage("service:plain")
    variables = {"EVENTLET_HUB": "poll", "PYTHONWARNINGS": "ignore"}
    assert scripts.run(script, manager.path, variables=variables) == ["value"]


def test_a_daemon_without_clients_stays(manage: Callable[..., Manager]) -> None:
    manager = manage("service:plain")
    for _ in range(2):
        with connect(manager.path) as sock:
            assert greeting(sock) == "ready"


def test_a_fork_while_another_thread_connects_has_no_connection(
    manage: Callable[..., Manager],
) -> None:
    """The daemon would count it as a client for as long as the child lives."""
    script = """
        import functools, sys, threading, forks, service
        from privsep._start import socket as method
        connected, forked, controls = threading.Event(), threading.Event(), []
        receive = method._receive
        def wait_and_receive(control, until):
            controls.append(control)
            connected.set()
            forked.wait()
            return receive(control, until)
        method._receive = wait_and_receive
        plain = service.services["plain"]
        where = {"path": sys.argv[1], "deadline": 60}
        start = functools.partial(plain.context.start, "socket", **where)
        thread = threading.Thread(target=start)
        thread.start()
        connected.wait()
        print(forks.in_child(controls[0].fileno))
        forked.set()
        thread.join()
        print(plain.echo("parent"), forks.in_child(lambda: plain.echo("child")))
        plain.context.stop()
    """
    lines = scripts.run(script, manage("service:plain").path)
    assert lines == ["-1", "parent child"]


def test_a_forked_client_shares_the_connection(
    manage: Callable[..., Manager], reach: Callable[..., Service]
) -> None:
    service = reach(manage("service:plain"))
    assert in_child(lambda: service.echo("of the child")) == "of the child"
    assert service.echo("of the parent") == "of the parent"


def test_what_a_function_prints_and_logs_reaches_its_own_client(
    manage: Callable[..., Manager],
    reach: Callable[..., Service],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    service = reach(manage("service:plain"))
    printed = threading.Event()

    class Hearing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "printed" in record.getMessage():
                printed.set()

    logging.getLogger().addHandler(hearing := Hearing())
    try:
        service.write_output("printed")
        service.log_message(30, "logged")
        # The daemon stays when a client stops, who then waits for no last words.
        assert printed.wait(PROMPTLY)
    finally:
        logging.getLogger().removeHandler(hearing)
    assert "logged" in caplog.messages


def test_what_threads_print_and_log_goes_to_the_journal_and_to_no_client(
    manage: Callable[..., Manager],
    reach: Callable[..., Service],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    manager = manage("service:threaded")
    service = reach(manager, "threaded")
    service.log_message(30, "of the call")
    service.log_from_thread("of a thread")
    service.write_output("printed")
    service.context.stop()
    said = manager.end()
    assert "of a thread" in said
    assert "printed" in said
    assert caplog.messages == ["of the call"]


AUTO = """
    import service
    print(service.services["plain"].context.status().method)
"""


def test_auto_takes_the_socket_of_the_context_if_there_is_one(
    manage: Callable[..., Manager],
    public_python: PublicPython,
    unprivileged_user: str,
    public_path: Path,
) -> None:
    manager = manage("service:plain", f'users = ["{unprivileged_user}"]')
    directory = public_path / "run" / "privsep"
    directory.mkdir(parents=True)
    os.link(manager.path, directory / "service:plain.sock")
    become = ["setpriv", f"--reuid={unprivileged_user}", "--clear-groups"]
    before = [*own_mounts({"/run": public_path / "run"}), *become]
    assert public_python.run(AUTO, before=before) == ["socket"]


# -- the end, and the next daemon -----------------------------------------------


def test_running_calls_are_finished_when_the_manager_stops_the_daemon(
    manage: Callable[..., Manager], reach: Callable[..., Service], tmp_path: Path
) -> None:
    manager = manage("service:plain")
    service = reach(manager)
    with Fifo(tmp_path, "begun") as begun, Release(tmp_path) as release:
        results: list[object] = []
        caller = threading.Thread(
            target=lambda: results.append(
                service.tell_and_wait(begun.path, release.path)
            )
        )
        caller.start()
        begun.wait_until_let_go()
        manager.send_signal(signal.SIGTERM)
        assert manager.hear() == "STOPPING=1"
        release.let_go()
        caller.join()
    assert results == ["waited"]
    assert manager.daemon is not None
    assert manager.daemon.wait(PROMPTLY) == 0


def test_a_call_that_runs_when_the_daemon_is_killed_ends_and_is_not_sent_again(
    manage: Callable[..., Manager], reach: Callable[..., Service], tmp_path: Path
) -> None:
    manager = manage("service:plain")
    service = reach(manager)
    first = service.context.status().pid
    with Fifo(tmp_path, "begun") as begun, Release(tmp_path) as release:
        errors: list[BaseException] = []

        def call() -> None:
            try:
                service.tell_and_wait(begun.path, release.path)
            except privsep.PrivsepError as error:
                errors.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        begun.wait_until_let_go()
        manager.end(signal.SIGKILL)
        caller.join()
        assert [type(error) for error in errors] == [privsep.DaemonGone]
        manager.start()
        assert service.echo("again") == "again"
        assert not begun.is_held()
    assert service.context.status().pid == manager.pid != first


def test_whoever_connects_while_there_is_no_daemon_waits_for_the_next(
    manage: Callable[..., Manager], reach: Callable[..., Service]
) -> None:
    manager = manage("service:plain")
    manager.end()
    manager.hear()
    waiting = threading.Thread(target=reach, args=(manager,))
    waiting.start()
    manager.start()
    waiting.join()
    assert services["plain"].echo("value") == "value"


def test_the_next_call_of_each_thread_finds_the_daemon_that_was_restarted(
    manage: Callable[..., Manager], reach: Callable[..., Service]
) -> None:
    manager = manage("service:plain")
    service = reach(manager)
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        threads = [threading.Thread(target=service.echo, args=(1,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        manager.end(number)
        if number == signal.SIGTERM:
            assert manager.hear() == "STOPPING=1"
        manager.start()
        assert service.context.status().pid == manager.pid
