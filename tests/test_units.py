"""The units that ``privsep generate systemd`` prints: what systemd makes of them.

They are judged by systemd-analyze, and run by a systemd that the test starts.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from booted import Booted, boot
from capability_table import STRANGER, TABLE
from generated_files import files_of, generate, needs, service_of
from listening import public_path
from rated import BEYOND, SAID, WITHIN
from started import STAGE

import scripts
from privsep._lockdown import libc

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from public_python import PublicPython

    from privsep import Context

    Boot = Callable[[Mapping[str, str]], Booted]

__all__ = ["boot", "public_path"]

# -- what systemd-analyze says ------------------------------------------------------

#: what no unit of privsep can do without: see docs/systemd.md
ALWAYS = {
    "DeviceAllow=",
    "PrivateUsers=",
    "ProcSubset=",
    "RestrictAddressFamilies=~AF_UNIX",
    "RootDirectory=/RootImage=",
    "SystemCallFilter=~@privileged",
    "UMask=",
}
OF_THE_NETWORK = {
    "IPAddressDeny=",
    "PrivateNetwork=",
    "RestrictAddressFamilies=~AF_(INET|INET6)",
    "RestrictAddressFamilies=~AF_NETLINK",
}
OF_DEVICES = "PrivateDevices= ProtectClock="
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
OF_NAMESPACES = " ".join(f"RestrictNamespaces=~{name}" for name in NAMESPACES)
#: what a capability is for, and an option, or a shorter list, would forbid
OF_CAPABILITY = {
    "CAP_FSETID": "RestrictSUIDSGID=",
    "CAP_KILL": "ProtectProc=",
    "CAP_NET_ADMIN": "PrivateNetwork=",
    "CAP_NET_RAW": "RestrictAddressFamilies=~AF_PACKET",
    "CAP_SYS_MODULE": "ProtectKernelModules= SystemCallFilter=~@module",
    "CAP_SYS_RAWIO": f"{OF_DEVICES} SystemCallFilter=~@raw-io",
    "CAP_SYS_CHROOT": "SystemCallFilter=~@mount",
    "CAP_SYS_PTRACE": "ProtectProc= SystemCallFilter=~@debug",
    "CAP_SYS_ADMIN": f"{OF_DEVICES} {OF_NAMESPACES} PrivateNetwork= "
    "ProtectControlGroups= ProtectHostname= ProtectKernelTunables= ProtectProc= "
    "SystemCallFilter=~@debug SystemCallFilter=~@mount SystemCallFilter=~@resources "
    "SystemCallFilter=~@swap",
    "CAP_SYS_BOOT": "SystemCallFilter=~@reboot",
    "CAP_SYS_NICE": "RestrictRealtime= SystemCallFilter=~@resources",
    "CAP_SYS_RESOURCE": "SystemCallFilter=~@resources",
    "CAP_SYS_TIME": "ProtectClock= SystemCallFilter=~@clock",
    "CAP_SYS_TTY_CONFIG": OF_DEVICES,
    "CAP_MKNOD": OF_DEVICES,
    "CAP_MAC_ADMIN": "ProtectKernelTunables=",
    "CAP_SYSLOG": "ProtectKernelLogs=",
    "CAP_WAKE_ALARM": "ProtectClock=",
    "CAP_PERFMON": "ProtectProc= SystemCallFilter=~@debug",
    "CAP_BPF": "ProtectKernelTunables=",
    "CAP_CHECKPOINT_RESTORE": f"ProtectKernelTunables= ProtectProc= {OF_NAMESPACES}",
}
#: the same of what else a context says
OF_CONTEXT = {
    "device": OF_DEVICES,
    "homes": "PrivateTmp= ProtectHome=",
    "list": "SystemCallFilter=~@debug",
    "namespaces": "CapabilityBoundingSet=~CAP_SYS_ADMIN AmbientCapabilities= "
    "RestrictNamespaces=~ipc RestrictNamespaces=~mnt RestrictNamespaces=~net "
    "RestrictNamespaces=~uts SystemCallFilter=~@mount",
    "paths": "ProtectHome=",  # what it names is in an empty one
    "tunables": "ProtectKernelTunables=",
}
DOCUMENT = (
    (Path(__file__).parent.parent / "docs" / "systemd.md")
    .read_text()
    .replace("\\|", "|")
)


@pytest.fixture(scope="module")
def rated(
    public_python: PublicPython,
    unprivileged_user: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Path]:
    """Return a function that has the service unit of a context of `rated`."""
    place = tmp_path_factory.mktemp("units")

    def write(name: str) -> Path:
        variable = f"rated:{name}"
        printed = generate(public_python, "systemd", variable, unprivileged_user)
        for path, text in files_of(printed).items():
            (place / os.path.basename(path)).write_text(text)
        return place / os.path.basename(service_of(variable))

    return write


def analyze(*words: str | Path) -> str:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *words],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def exposure(service: Path) -> float:
    """Return how exposed systemd-analyze finds a unit: 0 to 10."""
    said = analyze("security", "--offline=true", service).splitlines()[-1]
    print(said)
    return float(said.split(":")[-1].split()[0])


@needs("systemd-analyze")
@pytest.mark.parametrize("name", WITHIN)
def test_the_exposure_of_a_unit_is_at_most_two(
    rated: Callable[[str], Path], name: str
) -> None:
    service = rated(name)
    assert analyze("verify", service, service.with_suffix(".socket")) == ""
    assert exposure(service) <= 2.0


@needs("systemd-analyze")
@pytest.mark.parametrize("name", BEYOND)
def test_what_is_beyond_two_is_in_the_document_with_all_that_makes_it_so(
    rated: Callable[[str], Path], name: str
) -> None:
    service = rated(name)
    said = re.search(rf"\| {re.escape(SAID[name])} \| (\d\.\d) \|", DOCUMENT)
    assert said is not None
    assert exposure(service) == float(said[1]) > 2.0
    unsaid = {
        check
        for check in costly(service)
        if f"`{check.rpartition('~')[2]}`" not in DOCUMENT
    }
    assert unsaid == set()


@needs("systemd-analyze")
@pytest.mark.parametrize("name", WITHIN | BEYOND)
def test_a_unit_is_exposed_by_what_its_context_asks_for_and_nothing_else(
    rated: Callable[[str], Path], name: str
) -> None:
    context = (WITHIN | BEYOND)[name]
    asked = asked_for(context) | set(OF_CONTEXT.get(name, "").split())
    assert costly(rated(name)) - asked == set()


def costly(service: Path) -> set[str]:
    """Return the checks that a unit does not pass in full."""
    checks = json.loads(analyze("security", "--offline=true", "--json=short", service))
    return {check["name"] for check in checks if check["exposure"]}


def asked_for(context: Context) -> set[str]:
    """Return the checks that its capabilities, its user and its network are for."""
    held = {row.name for n, row in enumerate(TABLE) if context.capability_mask >> n & 1}
    asked = ALWAYS | {words for name in held for words in _split(OF_CAPABILITY, name)}
    asked |= {f"CapabilityBoundingSet=~{name}" for name in BOUNDS if _is_of(name, held)}
    if context.user == "root":
        asked.add("User=/DynamicUser=")
    else:
        asked |= {"AmbientCapabilities="} if held else set()
        asked |= {"RemoveIPC="} if context.user else set()
    if context.sandbox is None or context.sandbox.network is not False:
        asked |= OF_THE_NETWORK
    return asked


#: as systemd-analyze puts capabilities together
BOUNDS = (
    "CAP_(CHOWN|FSETID|SETFCAP)",
    "CAP_(DAC_*|FOWNER|IPC_OWNER)",
    "CAP_AUDIT_*",
    "CAP_MAC_*",
    "CAP_NET_(BIND_SERVICE|BROADCAST|RAW)",
    "CAP_SET(UID|GID|PCAP)",
    "CAP_SYS_(NICE|RESOURCE)",
    *(row.name for row in TABLE),
)


def _split(table: Mapping[str, str], name: str) -> list[str]:
    return table.get(name, "").split()


def _is_of(bound: str, held: set[str]) -> bool:
    pattern = re.compile(bound.replace("*", ".*"))
    return any(pattern.fullmatch(name) for name in held)


# -- what a daemon does in its unit -------------------------------------------------

_TRY_EVERY_ACTION = """
import json
from capability_table import Stage, outcomes
print(json.dumps(outcomes(Stage("/run/stage", "/run/stage/file", 1))))
"""
_TRY_BY_ITS_DAEMON = """
import json, sys
from one_capability import served
for name, path in json.loads(sys.argv[1]).items():
    one = served[name, "nobody" if "nobody" in path else "root"]
    one.context.start("socket", path=path, deadline=60)
    print(one.try_every_action("/run/stage", "/run/stage/file", 1)[name])
    one.context.stop()
"""


def test_a_unit_lets_its_context_do_what_its_capability_is_for(
    boot: Boot, public_python: PublicPython, unprivileged_user: str
) -> None:
    held = [row for n, row in enumerate(TABLE) if libc.capget()[1] >> n & 1]
    variables = {
        # DynamicUser= forbids what CAP_FSETID is for.
        name: f"one_capability:{name}_{'nobody' if name == 'CAP_FSETID' else 'root'}"
        for name in [row.name for row in held]
    }
    files: dict[str, str] = {}
    for variable in variables.values():
        printed = generate(public_python, "systemd", variable, unprivileged_user)
        for path, text in files_of(printed).items():
            # As it says: name here what its functions do write.
            files[path] = text.replace(
                "\nReadWritePaths=\n", "\nReadWritePaths=/run/stage\n"
            )
    booted = boot(files)
    stage = booted.run / "stage"
    stage.mkdir()
    stage.chmod(0o1777)
    (stage / "file").touch(0o644)
    os.chown(stage / "file", STRANGER, STRANGER)
    as_root = booted.do(public_python.executable, "-I", "-c", _TRY_EVERY_ACTION)
    root_s = json.loads(as_root)
    shown = [row for row in held if root_s.get(row.name) in row.granted]
    print("not shown here:", [row.name for row in held if row not in shown])
    paths = {row.name: booted.path(variables[row.name]) for row in shown}
    trying = public_python.begin(
        _TRY_BY_ITS_DAEMON, json.dumps(paths), user=unprivileged_user
    )
    said = scripts.finish(trying, 2 * scripts.ENDS_WITHIN)  # forty daemons
    found = dict(zip(paths, said, strict=True))
    refused = {r.name: found[r.name] for r in shown if found[r.name] not in r.granted}
    assert refused == {}, booted.said()


_ATTEMPTS = """
import ast, sys, started
context = getattr(started, sys.argv[1])
context.start("socket", path=sys.argv[2], deadline=60)
for words in sys.argv[3:]:
    print(repr(started.attempts[sys.argv[1]](*ast.literal_eval(words))))
context.stop()
"""


class Started:
    """The daemon of a context of `started`, behind its units."""

    def __init__(
        self, booted: Booted, python: PublicPython, name: str, user: str
    ) -> None:
        self.booted = booted
        self.service = os.path.basename(service_of(f"started:{name}"))
        self.python = python
        self._name = name
        self._user = user

    def begin(self, *attempts: tuple[object, ...]) -> subprocess.Popen[str]:
        """Have its entrypoint attempt something, for a user; see `started`."""
        path = self.booted.path(f"started:{self._name}")
        words = [repr(each) for each in attempts]
        return self.python.begin(_ATTEMPTS, self._name, path, *words, user=self._user)

    def attempt(self, *attempts: tuple[object, ...]) -> list[object]:
        """Return what comes of attempts."""
        try:
            said = scripts.finish(self.begin(*attempts))
        except AssertionError as error:
            raise AssertionError(f"{error}{self.booted.said()}") from None
        return [ast.literal_eval(line) for line in said]

    def control(self, *words: str) -> str:
        """Have systemctl(1) do something with the service."""
        return self.booted.do("systemctl", *words, self.service)


@pytest.fixture
def begin(
    boot: Boot, public_python: PublicPython, unprivileged_user: str
) -> Callable[[str], Started]:
    """Return a function that boots with the units of a context of `started`."""

    def with_units(name: str) -> Started:
        variable = f"started:{name}"
        printed = generate(public_python, "systemd", variable, unprivileged_user)
        booted = boot(files_of(printed))
        return Started(booted, public_python, name, unprivileged_user)

    return with_units


def test_the_network_s_administrator_has_its_devices_and_what_proc_sets(
    begin: Callable[[str], Started],
) -> None:
    forwarding, pid_max = "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/pid_max"
    said = begin("network").attempt(
        ("tap",),
        ("write", forwarding, "1"),
        ("read", forwarding),
        ("read", pid_max),
        ("write", pid_max, "4194304"),
        ("list", "/dev/net"),
        ("read", "/dev/mem"),
    )
    assert said[:3] == [None, 1, "1\n"]
    assert int(str(said[3]))
    assert said[4:] == ["EROFS", ["tun"], "ENOENT"]


def test_what_a_sandbox_names_in_homes_and_in_tmp_is_there_and_nothing_beside(
    begin: Callable[[str], Started],
) -> None:
    started = begin("paths")
    started.booted.do("mkdir", "/home/a user", "/home/b", "/home/c", "/tmp/own")
    started.booted.do("install", "-D", "/bin/echo", "/home/programs/echo")
    started.booted.do("mkdir", "/run/stage", "/tmp/other")
    started.booted.do("sh", "-c", "echo contents >'/home/a user/file'")
    said = started.attempt(
        ("read", "/home/a user/file"),
        ("write", "/home/a user/file", "x"),
        ("write", "/home/b/new", "text"),
        ("write", "/tmp/own/new", "text"),
        ("write", "/run/stage/new", "text"),
        ("write", "/etc/new", "text"),
        ("mode", "/home/c"),
        ("mode", "/tmp/other"),
        ("run", "/home/programs/echo", "text"),
    )
    assert said[:6] == ["contents\n", "EROFS", 4, 4, 4, "EROFS"]
    assert said[6:] == ["ENOENT", "ENOENT", "text\n"]
    assert started.booted.do("cat", "/home/b/new", "/tmp/own/new") == "texttext"


def test_the_audit_of_a_user_that_is_there_only_while_it_runs_is_written(
    begin: Callable[[str], Started],
) -> None:
    started = begin("audited")
    assert started.attempt(("owner", "/")) == [0]
    started.control("stop")
    calls = started.booted.do("cat", "/var/log/a/b/calls.jsonl")
    assert calls.count('"event":"call"') == 1
    assert started.booted.do("stat", "-c", "%a", "/var/log/private") == "700\n"


def test_a_daemon_with_a_user_an_audit_and_two_capabilities_works(
    begin: Callable[[str], Started],
) -> None:
    started = begin("own_user")
    started.booted.do("install", "-d", "-o", "daemon", "-m", "750", "/var/log/own")
    assert started.attempt(("run", "id", "-un"), ("nice",)) == ["daemon\n", "EPERM"]
    started.control("stop")
    calls = started.booted.do("cat", "/var/log/own/calls.jsonl")
    assert calls.count('"event":"call"') == 2


def test_a_daemon_of_root_has_its_capability_and_so_has_what_it_runs(
    begin: Callable[[str], Started],
) -> None:
    held = "grep ^CapEff /proc/self/status | cut -f2"
    said = begin("of_root").attempt(("run", "sh", "-c", held), ("run", "id", "-u"))
    assert said == ["0000000000000002\n", "0\n"]


@pytest.mark.parametrize("name", ["grouped", "both"])
def test_a_daemon_has_the_group_of_its_context(
    begin: Callable[[str], Started], name: str
) -> None:
    said = begin(name).attempt(("run", "id", "-gn"), ("run", "id", "-Gn"))
    assert said == ["daemon\n", "daemon\n"]


def test_a_sandbox_makes_its_namespaces_and_nothing_makes_others_afterwards(
    begin: Callable[[str], Started],
) -> None:
    new_mount, new_uts, new_user = 0x00020000, 0x04000000, 0x10000000
    said = begin("private").attempt(
        ("list", "/tmp"),
        ("mode", "/tmp"),
        ("write", "/tmp/new", "text"),
        *(("unshare", flag) for flag in (new_mount, new_uts, new_user)),
    )
    assert said == [[], 0o1777, 4, "EPERM", "EPERM", "EPERM"]


def test_abstract_sockets_of_others_are_reached_where_the_sandbox_says_so(
    begin: Callable[[str], Started],
) -> None:
    address = "\0privsep-test"
    started = begin("abstract")
    listens = f"""
import os, socket
sock = socket.socket(socket.AF_UNIX)
sock.bind({address!r})
sock.listen()
if os.fork() == 0:
    os.closerange(0, 3)
    sock.accept()
"""
    started.booted.do(started.python.executable, "-c", listens)
    assert started.attempt(("connect", address)) == [None]


def test_a_system_call_that_a_sandbox_lists_is_let_through(
    begin: Callable[[str], Started],
) -> None:
    assert begin("listed").attempt(("nice",), ("descriptor",)) == [None, None]


def test_threads_serve_behind_units(begin: Callable[[str], Started]) -> None:
    assert begin("threaded").attempt(("run", "echo", "text")) == ["text\n"]


def test_a_daemon_that_is_killed_is_followed_by_another(
    begin: Callable[[str], Started],
) -> None:
    started = begin("network")
    pid = ("read", "/proc/self/stat")
    first = str(started.attempt(pid)[0]).split()[3]
    started.booted.do("kill", "-9", first)
    second = str(started.attempt(pid)[0]).split()[3]
    assert first != second


def test_what_root_changes_counts_when_the_service_is_reloaded(
    begin: Callable[[str], Started],
) -> None:
    started = begin("network")
    assert started.attempt(("owner", "/")) == [0]
    rules = "/etc/privsep/contexts.d/started:network.toml"
    started.booted.do("sh", "-c", f"echo 'users = []' >{rules}")
    started.control("reload")
    with pytest.raises(AssertionError, match="may not connect"):
        started.attempt(("owner", "/"))


def test_a_daemon_that_hangs_is_followed_by_another(
    begin: Callable[[str], Started],
) -> None:
    started = begin("network")
    unit = f"/etc/systemd/system/{started.service}.d"
    drop_in = "[Service]\nWatchdogSec=3\n"
    started.booted.do("install", "-d", unit)
    started.booted.do("sh", "-c", f"printf '{drop_in}' >{unit}/watchdog.conf")
    started.booted.do("systemctl", "daemon-reload")
    pid = ("read", "/proc/self/stat")
    first = str(started.attempt(pid)[0]).split()[3]
    started.booted.do("kill", "-STOP", first)
    second = str(started.attempt(pid)[0]).split()[3]
    assert first != second


def test_a_call_that_runs_at_a_stop_is_finished(
    begin: Callable[[str], Started],
) -> None:
    started = begin("network")
    started.booted.do("mkdir", "/run/stage")
    started.booted.do("mkfifo", "-m", "644", f"{STAGE}/fifo")
    state = ("systemctl", "show", "--property=ActiveState", started.service)
    with started.begin(("read", f"{STAGE}/fifo")) as client:
        with open(started.booted.run / "stage" / "fifo", "w") as fifo:  # it runs
            started.control("stop", "--no-block")
            while "=active" in started.booted.do(*state):
                pass
            fifo.write("finished")
        assert scripts.finish(client) == ["'finished'"]


_CALLER = """
[Service]
Type=oneshot
User={user}
NoNewPrivileges=yes
ExecStart={python} -I -c "{script}"
"""
_CALL = (
    "import started; started.network.start('socket', deadline=60); "
    "print(started.attempts['network']('owner', '/'))"
)


def test_a_service_without_new_privileges_is_let_in_by_its_unit(
    boot: Boot, public_python: PublicPython, unprivileged_user: str
) -> None:
    variable = "started:network"
    printed = generate(public_python, "systemd", variable, unprivileged_user)
    files = files_of(printed)
    service = service_of(variable)
    # As the file on who may connect says.
    files[service] = files[service].replace("=invisible", "=default")
    rules = f"/etc/privsep/contexts.d/{variable}.toml"
    files[rules] = 'units = ["caller.service"]'
    for name in ("caller", "other"):
        files[f"/etc/systemd/system/{name}.service"] = _CALLER.format(
            user=unprivileged_user, python=public_python.executable, script=_CALL
        )
    booted = boot(files)
    booted.do("systemctl", "start", "caller.service")
    with pytest.raises(subprocess.CalledProcessError):
        booted.do("systemctl", "start", "other.service")
    assert "of other.service may not connect" in booted.said()
