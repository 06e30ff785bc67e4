"""What services do with oslo.privsep beyond single calls, and what is better here."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from typing import TYPE_CHECKING

import environments
from clients import BEGIN, configuration, needs_root, place, run

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["configuration", "place"]


def test_two_hundred_callers_share_four_threads(configuration: Path) -> None:
    configuration.write_text("[neutronlike]\nthread_pool_size = 4\n")
    said = run(
        """
results = []
def call(number):
    results.append((number, operations.echo(number)))
threads = [threading.Thread(target=call, args=(n,)) for n in range(200)]
for thread in threads: thread.start()
for thread in threads: thread.join()
workers = operations.evaluate("len([t for t in threading.enumerate()]) - 1")
print(json.dumps([sorted(results) == [(n, n) for n in range(200)], workers]))
""",
        configuration,
    )
    assert said[0] is True
    assert said[1] <= 4


def test_a_client_that_eventlet_has_patched_calls_and_its_daemon_is_not_patched() -> (
    None
):
    said = run(
        """
pool = eventlet.GreenPool()
met = list(pool.imap(lambda n: operations.echo(n), range(30)))
pair = [eventlet.spawn(operations.meet) for _ in range(2)]
print(json.dumps([met == list(range(30)), sorted(p.wait() for p in pair),
                  light.loaded("eventlet")]))
""",
        before=(
            "import warnings; warnings.simplefilter('ignore')\n"
            "import eventlet; eventlet.monkey_patch()"
        ),
    )
    assert said == [True, [0, 1], []]


def test_a_start_is_heard_of_by_a_client_whose_eventlet_wakes_it_too_often() -> None:
    said = run(
        """
def hold_the_hub():
    while True:
        try:
            return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            eventlet.sleep(0)
heard = []
for number in range(8):  # which file it tells of first is the hash's choice
    helpers_end = eventlet.spawn(hold_the_hub)
    heard.append([operations.echo(number), helpers_end.wait().si_status])
    neutronlike.default.stop()
print(json.dumps(heard))
""",
        before=(
            "import warnings; warnings.simplefilter('ignore')\n"
            "import eventlet; eventlet.monkey_patch()"
        ),
    )
    assert said == [[number, 0] for number in range(8)]


def test_children_that_a_service_forks_share_its_daemon() -> None:
    said = run(
        """
first = operations.identity()
reader, writer = os.pipe()
children = []
for number in range(3):
    child = os.fork()
    if child == 0:
        same = all(operations.identity() == first for _ in range(20))
        os.write(writer, b"1" if same else b"0")
        os._exit(0)
    children.append(child)
mine = all(operations.identity() == first for _ in range(20))
ended = [os.waitpid(child, 0)[1] for child in children]
print(json.dumps([mine, os.read(reader, 10).decode(), ended]))
"""
    )
    assert said == [True, "111", [0, 0, 0]]


def test_the_daemon_loads_nothing_of_oslo_unless_the_context_does(
    configuration: Path,
) -> None:
    configuration.write_text(
        "[DEFAULT]\ndebug = true\n[neutronlike]\nthread_pool_size = 3\n"
    )
    said = run(
        """
first = [m for m in light.loaded("oslo_") if not m.startswith("oslo_privsep")]
print(json.dumps([first, light.loaded("eventlet")]))
""",
        configuration,
    )
    assert said == [[], []]


@needs_root
def test_a_daemon_whose_umask_is_0_leaves_no_bytecode_that_others_could_write(
    place: Path,
) -> None:
    (place / "just_imported.py").write_text("")
    run(
        f"""
operations.evaluate("sys.path.append({str(place)!r})")
operations.evaluate("__import__('just_imported') is None")
print(json.dumps(None))
"""
    )
    assert [each.name for each in place.iterdir()] == ["just_imported.py"]


def test_what_was_forked_is_started_again_by_command() -> None:
    said = run(
        """
neutronlike.default.start(priv_context.Method.FORK)
first = operations.identity()
try:
    operations.end(3)
except OSError as error:
    print(json.dumps([type(error).__name__, operations.identity() != first]))
"""
    )
    assert said == ["DaemonGone", True]


def test_what_was_forked_and_has_no_path_stays_gone() -> None:
    said = run(
        """
context = priv_context.PrivContext("__main__", cfg_section="pathless", capabilities=[])
@context.entrypoint
def end(status):
    os._exit(status)
context.start(priv_context.Method.FORK)
raised = []
for _ in range(2):
    try:
        end(3)
    except OSError as error:
        raised.append(type(error).__name__)
print(json.dumps(raised))
"""
    )
    assert said == ["DaemonGone", "DaemonGone"]


def test_a_daemon_ends_with_its_client() -> None:
    text = f"{BEGIN}\nprint(operations.identity(), flush=True); sys.stdin.read()"
    client = subprocess.Popen(
        [environments.python("ours"), "-c", text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert client.stdout is not None
    daemon = os.pidfd_open(int(client.stdout.readline()))
    client.send_signal(signal.SIGKILL)
    client.communicate()
    select.select([daemon], [], [])  # not waitid: it may be the helper's child still
    os.close(daemon)


def test_whoever_waits_for_a_reply_is_told_when_what_comes_is_no_message() -> None:
    said = run(
        """
import socket
from oslo_privsep import comm
ours, theirs = socket.socketpair()
channel = comm.ClientChannel(ours)
threading.excepthook = lambda _: None
told = []
def ask():
    try:
        channel.send_recv((1,))
    except OSError as error:
        told.append(str(error))
asking = threading.Thread(target=ask)
asking.start()
theirs.recv(100)
theirs.send(b"\\xc1")
asking.join()
ask()
print(json.dumps(told))
"""
    )
    assert said == ["Premature eof waiting for privileged process"] * 2
