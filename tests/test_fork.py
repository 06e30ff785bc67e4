"""Clients that fork share the daemon, and nothing that one call needs."""

from __future__ import annotations

import os
import select
import textwrap
from typing import TYPE_CHECKING

import pytest
from conftest import IS_ROOT

import scripts

if TYPE_CHECKING:
    from pathlib import Path

either_method = pytest.mark.parametrize("method", ["fork", "exec"])

BEGIN = """
import os, sys, threading, forks, service
started = service.services["plain"]
started.context.start(sys.argv[1])
def daemon():
    return int(started.status()["PPid"])
"""


def run(script: str, *arguments: object) -> list[str]:
    return scripts.run(BEGIN + textwrap.dedent(script), *arguments)


@either_method
def test_a_forked_child_calls_the_same_daemon_on_a_channel_of_its_own(
    method: str,
) -> None:
    lines = run(
        """
        ours = started.process_id()
        theirs, its_daemon = forks.in_child(
            lambda: f"{started.process_id()} {daemon()}"
        ).split()
        print(int(theirs) != ours, int(its_daemon) == daemon())
        print(started.process_id() == ours)
        started.context.stop()
        """,
        method,
    )
    assert lines == ["True True", "True"]


@either_method
def test_parent_and_child_call_at_the_same_time_and_mix_nothing_up(
    method: str,
) -> None:
    lines = run(
        """
        def many(name):
            return all(started.echo([name, n]) == [name, n] for n in range(300))
        children = [forks.Child(lambda n=n: many(n)) for n in range(3)]
        print(many("parent"), *[child.result() for child in children])
        started.context.stop()
        """,
        method,
    )
    assert lines == ["True True True True"]


@either_method
def test_a_child_that_never_called_before_the_fork_may_call(method: str) -> None:
    lines = run(
        """
        print(forks.in_child(lambda: started.echo(1)))
        started.context.stop()
        """,
        method,
    )
    assert lines == ["1"]


@either_method
def test_a_grandchild_calls_the_same_daemon(method: str) -> None:
    lines = run(
        """
        print(forks.in_child(lambda: forks.in_child(daemon)) == str(daemon()))
        started.context.stop()
        """,
        method,
    )
    assert lines == ["True"]


@either_method
def test_a_fork_while_other_threads_are_in_calls_disturbs_no_call(
    method: str, tmp_path: Path
) -> None:
    lines = run(
        """
        from concurrent.futures import ThreadPoolExecutor
        from pathlib import Path
        begun, go_on = sys.argv[2:]
        os.mkfifo(begun)
        os.mkfifo(go_on)
        with ThreadPoolExecutor() as threads:
            running = threads.submit(started.open_and_wait, begun, go_on)
            Path(begun).read_text()
            print(forks.in_child(lambda: started.echo("child")))
            print(started.echo("parent"))
            Path(go_on).write_text("went on")
            print(running.result())
        started.context.stop()
        """,
        method,
        tmp_path / "begun",
        tmp_path / "go_on",
    )
    assert lines == ["child", "parent", "went on"]


@either_method
def test_forks_at_any_moment_of_other_threads_calls_can_call(method: str) -> None:
    # Whatever lock a thread holds when the process forks, the child has its own.
    lines = run(
        """
        done = threading.Event()
        wrong = []
        def call(name):
            number = 0
            while not done.is_set():
                number += 1
                if started.echo((name, number)) != (name, number):
                    wrong.append((name, number))
        threads = [threading.Thread(target=call, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        print([forks.in_child(lambda: started.echo(n)) for n in range(20)]
              == [str(n) for n in range(20)])
        done.set()
        for thread in threads:
            thread.join()
        print(wrong)
        started.context.stop()
        """,
        method,
    )
    assert lines == ["True", "[]"]


@pytest.mark.parametrize("sockets", ["channel", "fate line"])
@pytest.mark.parametrize("step", ["opens", "closes"])
def test_a_fork_while_another_thread_opens_a_channel_does_not_hide_its_end(
    sockets: str, step: str, tmp_path: Path
) -> None:
    # The child is forked as soon as it can be: after the sockets are made, or while
    # the daemon's ends are closed here, whose descriptor nobody knows of by then.
    lines = run(
        """
        import signal, socket, privsep
        from pathlib import Path
        number, step, begun, never = int(sys.argv[2]), *sys.argv[3:]
        os.mkfifo(begun)
        os.mkfifo(never)
        come, forked = threading.Event(), threading.Event()
        times = []
        def wait_for_fork():
            times.append(None)
            if len(times) == number:
                come.set()
                forked.wait(0.3)  # which another's lock may put off
        real = socket.socketpair
        def socketpair(*arguments):
            pair = real(*arguments)
            wait_for_fork()
            return pair
        def close(sock):
            descriptor = sock.detach()
            if descriptor >= 0:
                wait_for_fork()
                os.close(descriptor)
        if step == "opens":
            socket.socketpair = socketpair
        else:
            socket.socket._real_close = close
        outcome = []
        def call():
            try:
                started.open_and_wait(begun, never)
            except privsep.DaemonGone:
                outcome.append("told")
        caller = threading.Thread(target=call)
        caller.start()
        come.wait()
        child = forks.Child(lambda: Path(never).read_text())
        forked.set()
        Path(begun).read_text()
        (daemon,) = set(map(int, Path(f"/proc/self/task/{os.getpid()}/children")
                            .read_text().split())) - {child.pid}
        os.kill(daemon, signal.SIGKILL)
        caller.join(60)
        print(outcome)
        Path(never).write_text("")
        child.result()
        """,
        "fork",
        {"channel": 2, "fate line": 3}[sockets],  # the first is the log line
        step,
        tmp_path / "begun",
        tmp_path / "never",
    )
    assert lines == ["['told']"]


@either_method
def test_a_fork_while_another_thread_starts_the_daemon_can_call(method: str) -> None:
    lines = scripts.run(
        """
        import sys, threading, forks, service
        started = service.services["plain"]
        with started.context:  # an import that a thread does is no child's to end
            pass
        thread = threading.Thread(target=started.context.start, args=(sys.argv[1],))
        thread.start()
        child = forks.Child(lambda: started.echo("child"))
        thread.join()
        print(child.result(), started.echo("parent"))
        started.context.stop()
        """,
        method,
    )
    assert lines == ["child parent"]


@either_method
def test_a_fork_while_another_thread_starts_does_not_keep_the_daemon(
    method: str, tmp_path: Path
) -> None:
    begun, go_on, never = (str(tmp_path / name) for name in ("begun", "on", "never"))
    variables = {"PRIVSEP_TEST_BEGUN": begun, "PRIVSEP_TEST_GO_ON": go_on}
    lines = scripts.run(
        """
        import os, select, sys, threading, awaited, forks, service
        from pathlib import Path
        begun, go_on, never = sys.argv[2:]
        for path in (begun, go_on, never):
            os.mkfifo(path)
        started = service.services["awaited-late"]
        thread = threading.Thread(target=started.context.start, args=(sys.argv[1],))
        thread.start()
        writer = os.open(go_on, os.O_WRONLY)
        Path(begun).read_text()  # the daemon imports
        child = forks.Child(lambda: (os.close(writer), Path(never).read_text()))
        os.close(writer)
        thread.join()
        poll = select.poll()
        poll.register(os.pidfd_open(started.context.status().pid), select.POLLIN)
        stopping = threading.Thread(target=started.context.stop)
        stopping.start()
        print(bool(poll.poll(60_000)))
        Path(never).write_text("")
        child.result()
        stopping.join()
        """,
        method,
        begun,
        go_on,
        never,
        variables=variables,
    )
    assert lines == ["True"]


@pytest.mark.skipif(not IS_ROOT, reason="only root is let in by the path")
def test_a_fork_while_a_helper_comes_by_a_path_does_not_keep_its_socket() -> None:
    lines = scripts.run(
        """
        import socket, forks
        from privsep._start.meeting import Meeting
        meeting = Meeting()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as helper:
            helper.connect(meeting.path)
            control = meeting.accept()
            meeting.close()
            print(forks.in_child(control.fileno))
            control.close()
        """
    )
    assert lines == ["-1"]


@either_method
def test_a_fork_while_another_thread_stops_does_not_keep_the_daemon(
    method: str, tmp_path: Path
) -> None:
    lines = run(
        """
        import select
        from pathlib import Path
        never = sys.argv[2]
        os.mkfifo(never)
        poll = select.poll()
        poll.register(os.pidfd_open(daemon()), select.POLLIN)
        come, forked = threading.Event(), threading.Event()
        connection = started.context.client.connection()
        close = connection.let_go
        def let_go():  # which closes the control socket
            come.set()
            forked.wait(0.3)  # which another's lock may put off
            close()
        connection.let_go = let_go
        stopping = threading.Thread(target=started.context.stop)
        stopping.start()
        come.wait()
        child = forks.Child(lambda: Path(never).read_text())
        forked.set()
        print(bool(poll.poll(60_000)))
        Path(never).write_text("")
        child.result()
        stopping.join()
        """,
        method,
        tmp_path / "never",
    )
    assert lines == ["True"]


def test_what_is_let_go_of_while_another_thread_forks_is_not_waited_for() -> None:
    """The garbage collector may do it, whatever locks its thread has meanwhile."""
    lines = scripts.run(
        """
import os, threading
forking, go_on = threading.Event(), threading.Event()
let_go = []
def stand_still():
    forking.set()
    let_go.append(go_on.wait(60))
os.register_at_fork(before=stand_still)  # comes after those that are registered later
import service
started = service.services["plain"]
started.context.start("exec")
stream = started.numbers(100)
next(stream)
def fork():
    if os.fork() == 0:
        os._exit(0)
    os.wait()
thread = threading.Thread(target=fork)
thread.start()
forking.wait()
del stream
go_on.set()
thread.join()
print(let_go)
started.context.stop()
"""
    )
    assert lines == ["[True]"]


@either_method
def test_stop_in_the_child_leaves_the_parent_its_daemon(method: str) -> None:
    lines = run(
        """
        before = daemon()
        forks.in_child(started.context.stop)
        print(daemon() == before)
        started.context.stop()
        """,
        method,
    )
    assert lines == ["True"]


@either_method
def test_a_child_that_stopped_may_start_a_daemon_of_its_own(method: str) -> None:
    lines = run(
        """
        def own():
            started.context.stop()
            with started.context:
                return daemon()
        print(forks.in_child(own) != str(daemon()))
        started.context.stop()
        """,
        method,
    )
    assert lines == ["True"]


@either_method
@pytest.mark.parametrize("last", ["exits", "stops"])
def test_the_daemon_goes_when_the_last_holder_has_gone(
    method: str, last: str, tmp_path: Path
) -> None:
    go_on = tmp_path / "go_on"
    os.mkfifo(go_on)
    lines = run(
        """
        from pathlib import Path
        print(daemon(), started.process_id(), flush=True)
        if os.fork():
            os._exit(0)
        # This child goes on when its parent has gone.
        os.closerange(1, 3)
        Path(sys.argv[2]).read_text()
        pid = started.process_id()
        if sys.argv[3] == "stops":
            started.context.stop()
        Path(sys.argv[2]).write_text(str(pid))
        os._exit(0)
        """,
        method,
        go_on,
        last,
    )
    daemon, worker = map(int, lines[0].split())
    pidfd = os.pidfd_open(daemon)
    go_on.write_text("parent has gone")
    assert int(go_on.read_text()) not in (daemon, worker)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(60_000)
    os.close(pidfd)


@either_method
def test_a_child_does_not_keep_the_worker_of_a_parent_that_is_killed(
    method: str, tmp_path: Path
) -> None:
    # The child closes what it inherits, so the worker sees that the parent went.
    go_on = tmp_path / "go_on"
    os.mkfifo(go_on)
    lines = run(
        """
        from pathlib import Path
        print(started.process_id(), flush=True)
        if not os.fork():
            os.closerange(1, 3)
            Path(sys.argv[2]).read_text()
            Path(sys.argv[2]).write_text(started.echo("answer"))
            os._exit(0)
        os._exit(0)
        """,
        method,
        go_on,
    )
    try:
        pidfd = os.pidfd_open(int(lines[0]))
    except ProcessLookupError:
        pass
    else:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(60_000)
        os.close(pidfd)
    go_on.write_text("go on")
    assert go_on.read_text() == "answer"


@either_method
@pytest.mark.parametrize("kind", ["fork", "forkserver", "spawn"])
def test_children_of_multiprocessing_call(method: str, kind: str) -> None:
    lines = run(
        """
        import multiprocessing, targets
        context = multiprocessing.get_context(sys.argv[2])
        with context.Pool(2) as pool:
            results = pool.map(targets.worker_and_echo, range(20), chunksize=1)
            pool.close()
            pool.join()
        print([value for _, value in results] == list(range(20)))
        print(started.process_id() in {worker for worker, _ in results})
        started.context.stop()
        """,
        method,
        kind,
    )
    assert lines == ["True", "False"]


def test_a_grandchild_of_a_thread_worker_keeps_the_files_of_its_parent() -> None:
    script = """
        import os, sys, privsep

        context = privsep.Context(
            "forking", capabilities=[], timeout=120.0, isolation="thread"
        )

        @context.entrypoint
        def closed_in_grandchild():
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                files = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
                if os.fork() == 0:
                    there = [int(name) for name in os.listdir("/proc/self/fd")]
                    os.write(writer, repr(sorted(set(files) - set(there))).encode())
                else:
                    os.wait()
                os._exit(0)
            os.close(writer)
            os.waitpid(child, 0)
            with open(reader) as file:
                return file.read()

        context.start("fork")
        print(closed_in_grandchild())
        context.stop()
    """
    assert scripts.run(script) == ["[]"]
