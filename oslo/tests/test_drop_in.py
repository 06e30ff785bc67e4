"""What services do with oslo.privsep beyond single calls, and what is better here."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import environments
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has what to drop")

_BEGIN = """
import json, logging, os, sys, threading
from oslo_config import cfg
logged = []
class Handler(logging.Handler):
    def emit(self, record):
        logged.append((record.levelname, record.getMessage()))
logging.getLogger("oslo.privsep.daemon").addHandler(Handler())
from oslo_privsep import daemon, priv_context
files = sys.argv[1:]
cfg.CONF([word for path in files for word in ("--config-file", path)], project="x")
import neutronlike
from neutronlike import light, operations
cfg.CONF.set_override(
    "helper_command",
    " ".join([sys.prefix + "/bin/privsep-helper",
              *(word for path in files for word in ("--config-file", path))]),
    group="neutronlike")
"""


def run(script: str, *files: object, before: str = "") -> Any:
    """Run a client with ours; return what it prints as JSON."""
    text = f"{before}\n{_BEGIN}\n{script}"
    return json.loads(
        environments.finish(environments.begin("ours", "-c", text, *map(str, files)))
    )


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in which nobody else can write, and all above it."""
    above = "/var/lib" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(dir=above) as name:
        os.chmod(name, 0o755)  # noqa: S103 - others read there
        yield Path(name)


@pytest.fixture
def configuration(place: Path) -> Path:
    return place / "service.conf"


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


def test_oslo_config_has_the_clients_files_in_a_daemon_that_loads_it(
    configuration: Path,
) -> None:
    configuration.write_text("[neutronlike]\nlogger_name = mine\n")
    said = run(
        """
print(json.dumps([light.loaded("oslo_config"),
                  operations.option("neutronlike", "logger_name")]))
""",
        configuration,
    )
    assert said == [[], "mine"]


@needs_root
def test_a_file_that_is_not_roots_is_read_and_sets_no_privileges(
    configuration: Path,
) -> None:
    configuration.write_text(
        "[neutronlike]\nuser = daemon\ncapabilities = CAP_SYS_PTRACE\n"
        "group = daemon\nhardening = strict\nlogger_name = theirs\n"
        "thread_pool_size = 3\n"
    )
    os.chown(configuration, pwd.getpwnam("nobody").pw_uid, -1)
    configuration.chmod(0o600)
    said = run(
        """
logging.getLogger("theirs").addHandler(Handler())
status = light.status("Uid", "CapEff", "NoNewPrivs")
option = operations.option("neutronlike", "logger_name")
operations.echo(1)
neutronlike.default.stop()
warned = [text for level, text in logged if level == "WARNING" and "ignored" in text]
print(json.dumps([status, option, warned]))
""",
        configuration,
    )
    status, option, warned = said
    assert status[0].split() == ["0"] * 4
    assert int(status[1], 16) == 1 << 21 | 1 << 12
    assert status[2] == "0"
    assert option == "theirs"
    for name in ("user", "group", "capabilities", "hardening"):
        (line,) = [text for text in warned if f"[neutronlike] {name} is" in text]
        assert str(configuration) in line


@needs_root
@pytest.mark.parametrize("method", ["FORK", "ROOTWRAP"])
def test_a_file_of_roots_sets_user_group_and_capabilities(
    configuration: Path, method: str
) -> None:
    configuration.write_text(
        "[neutronlike]\nuser = daemon\ngroup = daemon\ncapabilities = CAP_NET_RAW, 21\n"
    )
    said = run(
        f"""
neutronlike.default.start(priv_context.Method.{method})
print(json.dumps(light.status("Uid", "Gid", "Groups", "CapEff", "CapPrm")))
""",
        configuration,
    )
    entry = pwd.getpwnam("daemon")
    assert said[0].split() == [str(entry.pw_uid)] * 4
    assert said[1].split() == [str(entry.pw_gid)] * 4
    assert set(said[2].split()) <= {str(entry.pw_gid)}
    assert int(said[3], 16) == int(said[4], 16) == 1 << 13 | 1 << 21


@needs_root
def test_compatible_leaves_programs_what_root_has_and_warns_once(
    configuration: Path,
) -> None:
    configuration.write_text("[neutronlike]\nuser = root\n")
    said = run(
        """
child = light.status_of_child("CapEff", "NoNewPrivs")
umask = light.status("Umask")
neutronlike.default.stop()
warned = [text for level, text in logged if level == "WARNING" and "compatible" in text]
bounds = [line for line in open("/proc/self/status") if line.startswith("CapBnd")]
print(json.dumps([child, umask, len(warned), bounds[0].split()[1]]))
""",
        configuration,
    )
    (effective, no_new), umask, warned, bounding = said
    assert (effective, no_new) == (bounding, "0")
    assert umask == ["0000"]
    assert warned == 1


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


@needs_root
@pytest.mark.parametrize("loads", ["operations.echo(1)", "light.loaded('x')"])
def test_no_line_of_a_file_that_only_root_reads_gets_out(
    configuration: Path, loads: str
) -> None:
    configuration.write_text("[other]\nvery secret\n[neutronlike]\nuser = root\n")
    configuration.chmod(0o600)
    text = f"{_BEGIN}\ncfg.CONF([])\n{loads}\noperations.option('neutronlike', 'user')"
    text = text.replace("cfg.CONF([word", "dict(x=[word", 1)
    client = environments.begin("ours", "-c", text, str(configuration))
    said, trouble = client.communicate()
    assert client.returncode == 1
    assert "cannot read" in trouble
    assert "secret" not in said + trouble


@needs_root
@pytest.mark.parametrize("method", ["FORK", "ROOTWRAP"])
def test_strict_binds_programs_to_the_contexts_capabilities(
    configuration: Path, method: str
) -> None:
    configuration.write_text("[neutronlike]\nhardening = strict\n")
    said = run(
        f"""
neutronlike.default.start(priv_context.Method.{method})
child = light.status_of_child("CapEff", "CapBnd", "NoNewPrivs")
umask = light.status("Umask")
neutronlike.default.stop()
warned = [text for level, text in logged if "compatible" in text]
print(json.dumps([child, umask, warned]))
""",
        configuration,
    )
    (effective, bounding, no_new), umask, warned = said
    assert int(effective, 16) == int(bounding, 16) == 1 << 21 | 1 << 12
    assert no_new == "1"
    assert umask == ["0022"]
    assert warned == []


def test_a_worker_that_is_a_process_is_killed_at_its_timeout(
    configuration: Path,
) -> None:
    configuration.write_text("[neutronlike]\nworker_type = process\n")
    said = run(
        """
try:
    operations.evaluate("open('/proc/self/stat').read() and time.sleep(1000)",
                        _wrap_timeout=0.5)
except daemon.PrivsepTimeout as error:
    print(json.dumps([str(error), operations.echo(1)]))
""",
        configuration,
    )
    assert "was killed" in said[0]
    assert said[1] == 1


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


_SETTINGS = (
    "[s]\nuser = a\n",
    "[s]\nuser=a\nuser=b\n",
    "[s]\nuser: a\n",
    "[S]\nuser = a\n",
    "[s]\nuser = a # b\n",
    "[s]\nuser = 'a'\n",
    '[s]\nuser = "a b"\n',
    "[s]\nuser =\n",
    "[s]\n# user = a\n; user = b\n",
    "[s]\nuser = a\n b\n",
    "[s]\nuser = $group\ngroup = g\n",
    "[s]\nuser = $$x\n",
    "[DEFAULT]\nuser = a\n[s]\ngroup = g\n",
    "[t]\nuser = a\n[s]\n",
    "[s]\nuser = a\n[t]\nuser = b\n[s]\nuser = c\n",
    "[s]\nother = x\n  continued\nuser = a\n",
    "[s]\nuser = a.b@c\n",
    "[s]\nuser = a=b\n",
    "[s]\ncapabilities = CAP_CHOWN, 3\n",
    "[s]\ncapabilities =\n",
    "[s]\ncapabilities = CAP_CHOWN,\n 3\n",
    '[s]\ncapabilities = "CAP_CHOWN,CAP_KILL"\n',
    "[s]\ncapabilities = cap_chown\n",
    "[s]\nthread_pool_size = 4\n",
    "[s]\nthread-pool-size = 4\n",
    "[s]\nthread_pool_size = 0\n",
    "[s]\nthread_pool_size = x\n",
    "[s]\nhardening = strict\n",
    "[s]\nhardening = none\n",
    "[s]\nworker_type = process\n",
    "[s]\nnonsense\n",
    "user = a\n[s]\n",
    "",
)


def test_the_daemons_reader_of_options_agrees_with_oslo_config() -> None:
    script = f"""
import json, os, sys, tempfile
from oslo_privsep import _options, _settings
_options.declare("s", [1])
texts = {_SETTINGS!r}
rows = []
from oslo_config import cfg
for text in texts:
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(text); file.flush()
        try:
            said = []
            files = [_settings.File(file.name, text, True)]
            ours = list(_settings.read("s", files, said.append))
        except Exception as error:
            ours = "refused"
        try:
            cfg.CONF(["--config-file", file.name], project="x")
            conf = _options.register("s")
            theirs = [conf[name] for name in _settings.Settings._fields]
        except Exception as error:
            theirs = "refused"
    rows.append((text, ours, theirs))
print(json.dumps(rows))
"""
    out = environments.finish(environments.begin("ours", "-c", script))
    differ = [row for row in json.loads(out) if row[1] != row[2]]
    assert differ == []


def test_the_generator_of_configuration_knows_the_options() -> None:
    words = ["-m", "oslo_config.generator", "--namespace", "oslo.privsep"]
    sample = environments.finish(environments.begin("ours", *words))
    assert "[privsep]" in sample
    for name in ("user", "group", "capabilities", "thread_pool_size", "helper_command"):
        assert f"\n#{name} =" in sample
    for name in ("logger_name", "log_daemon_traceback", "hardening", "worker_type"):
        assert f"\n#{name} =" in sample


@needs_root
def test_a_console_script_of_a_service_runs_rootwrap(place: Path) -> None:
    """As nova-rootwrap does, which names a function."""
    (place / "filters").mkdir()
    (place / "filters" / "a.filters").write_text(
        "[Filters]\ne: CommandFilter, echo, root"
    )
    config = place / "rootwrap.conf"
    config.write_text(f"[DEFAULT]\nfilters_path = {place}/filters\n")
    script = "from oslo_rootwrap.cmd import main; main()"
    words = ("-c", script, str(config), "echo", "hello")
    assert environments.finish(environments.begin("ours", *words)) == "hello\n"


@needs_root
def test_commands_of_several_threads_run_at_once_by_rootwraps_daemon(
    place: Path,
) -> None:
    (place / "filters").mkdir()
    (place / "filters" / "a.filters").write_text(
        "[Filters]\ncat: CommandFilter, cat, root\ncp: CommandFilter, cp, root\n"
    )
    config = place / "rootwrap.conf"
    config.write_text(f"[DEFAULT]\nfilters_path = {place}/filters\n")
    os.mkfifo(place / "fifo")
    (place / "file").write_text("met")
    # Neither ends before the other has begun.  The daemon is a service's own script.
    script = f"""
import sys, threading
from oslo_rootwrap.client import Client
serve = "from oslo_rootwrap import cmd; cmd.daemon()"
rootwrap = Client([sys.executable, "-c", serve, "{config}"])
said = []
reader = threading.Thread(
    target=lambda: said.append(rootwrap.execute(["cat", "{place}/fifo"])))
reader.start()
print(rootwrap.execute(["cp", "{place}/file", "{place}/fifo"]))
reader.join()
print(said[0])
"""
    out = environments.finish(environments.begin("ours", "-c", script))
    assert out == "(0, '', '')\n(0, 'met', '')\n"


def _helper(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    program = Path(environments.python("ours")).with_name("privsep-helper")
    return subprocess.run(
        [program, *words],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_the_helper_says_what_it_takes() -> None:
    assert _helper("--help").returncode == 0
    for words in (
        (),
        ("--nonsense",),
        ("--privsep_context", "a.b"),
        ("--config-file",),
    ):
        done = _helper(*words)
        assert done.returncode == 2
        assert done.stderr.startswith("privsep-helper: ")


def test_the_helper_takes_the_options_of_oslo_log(place: Path) -> None:
    done = _helper(
        "--debug",
        "--log-file",
        "/x",
        "--log-dir=/y",
        "--use-syslog",
        "--privsep_context",
        "a.b",
        "--privsep_sock_path",
        str(place / "none"),
    )
    assert done.returncode == 1
    assert "No such file" in done.stderr


def _listen(place: Path) -> tuple[socket.socket, str]:
    path = str(place / "sock")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen()
    return listener, path


def test_the_helper_serves_none_but_whoever_called_sudo(place: Path) -> None:
    listener, path = _listen(place)
    with listener:
        words = (
            "--privsep_context",
            "neutronlike.default",
            "--privsep_sock_path",
            path,
        )
        done = _helper(*words, SUDO_UID="12345")
    assert done.returncode == 1
    assert "SUDO_UID is 12345" in done.stderr


@pytest.mark.parametrize(
    "name", ["os.path", "neutronlike.operations.STATE", "none.none", "neutronlike.copy"]
)
def test_the_helper_refuses_what_is_no_context_under_its_own_name(
    place: Path, name: str
) -> None:
    listener, path = _listen(place)
    with listener:
        done = _helper("--privsep_context", name, "--privsep_sock_path", path)
        assert done.returncode == 1
        control, _ = listener.accept()
        with control:
            reply = control.recv(64 * 1024)
            assert b"is not the pypath" in reply or b"ModuleNotFoundError" in reply
            assert control.recv(1) == b""


@pytest.mark.parametrize("helper", ["", "false", "/nonexistent"])
def test_nothing_is_left_of_the_socket_however_a_start_ends(helper: str) -> None:
    said = run(
        f"""
logging.getLogger("oslo.privsep.daemon").setLevel(logging.INFO)
if {helper!r}:
    cfg.CONF.set_override("helper_command", {helper!r}, group="neutronlike")
try:
    operations.echo(1)
except (daemon.FailedToDropPrivileges, OSError):
    pass
(line,) = [text for _, text in logged if text.startswith("Running privsep helper")]
path = line.split("'")[-2]
print(json.dumps([path, os.path.lexists(os.path.dirname(path))]))
"""
    )
    assert said[0].startswith("/tmp/")
    assert said[1] is False


@needs_root
def test_a_helper_in_whose_place_another_user_connects_is_not_used(
    place: Path,
) -> None:
    # Whoever could enter the directory: only root can, and lets another in here.
    impostor = place / "impostor"
    impostor.write_text(
        """#!/usr/bin/env python3
import os, socket, sys
path = sys.argv[sys.argv.index("--privsep_sock_path") + 1]
os.chmod(os.path.dirname(path), 0o711); os.chmod(path, 0o777)
os.setuid(65534)
control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
control.connect(path)
control.recv(1)
"""
    )
    impostor.chmod(0o755)
    said = run(
        f"""
cfg.CONF.set_override("helper_command", {str(impostor)!r}, group="neutronlike")
try:
    operations.echo(1)
except daemon.FailedToDropPrivileges as error:
    print(json.dumps(str(error)))
"""
    )
    assert "uid 65534" in said


def test_a_daemon_ends_with_its_client() -> None:
    text = f"{_BEGIN}\nprint(operations.identity(), flush=True); sys.stdin.read()"
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
    ended = os.waitid(os.P_PIDFD, daemon, os.WEXITED)
    os.close(daemon)
    assert ended is not None
