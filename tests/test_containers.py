"""In a container without CAP_SYS_ADMIN: what works, and that the rest is named.

A container here is what makes one: namespaces, the capabilities that container managers
leave by default, and no_new_privs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from listening import Manager, manage, public_path
from service import services

import scripts

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["manage", "public_path"]

# As container managers leave them to root of a container, if they are told nothing.
_LEFT = (
    *("audit_write", "chown", "dac_override", "fowner", "fsetid", "kill", "mknod"),
    *("net_bind_service", "net_raw", "setfcap", "setgid", "setpcap", "setuid"),
    "sys_chroot",
)
_NAMESPACES = (
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
    *("--net", "--ipc", "--uts"),
)
_BOUNDS = ",".join(["-all", *(f"+{name}" for name in _LEFT)])
_LIMITED = (
    *("setpriv", "--no-new-privs", f"--bounding-set={_BOUNDS}", "--inh-caps=-all"),
)

_PID_1: tuple[str, ...] = ()
_BELOW_INIT = ("sh", "-c", '"$@" & wait $!', "sh")

_SCRIPT = """
    import json, os, generated, privsep, service
    said = {"pid": os.getpid()}
    def outcome(name, call):
        try:
            said[name] = call()
        except privsep.PrivsepError as error:
            said[name] = str(error)
    def start(context, method):
        context.start(method)
        status = context.status()
        context.stop()
        return [status.permitted, status.seccomp, status.not_enforced]
    boxed = privsep.Context(
        "boxed",
        capabilities=["CAP_CHOWN"],
        sandbox=privsep.Sandbox(write=["/tmp"], syscalls=["~@mount"]),
    )
    for method in ("fork", "exec"):
        outcome(method, lambda: start(service.plain, method))
    outcome("boxed", lambda: start(boxed, "fork"))
    outcome("lacking", lambda: start(service.network, "exec"))
    outcome("namespaces", lambda: start(generated.private, "fork"))
    states = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with open(f"/proc/{pid}/stat") as file:
            states.append(file.read().rpartition(")")[2].split()[0])
    said["zombies"] = states.count("Z")
    print(json.dumps(said))
"""


@pytest.fixture(params=["root", "an ordinary user"])
def container(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The words that make a container, of root or of an ordinary user."""
    for program in ("unshare", "setpriv"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    user = () if request.param == "root" else ("--user", "--map-root-user")
    made = (*_NAMESPACES, *user, *_LIMITED)
    if subprocess.run([*made, "true"], capture_output=True, check=False).returncode:
        pytest.skip(f"no container of {request.param} can be made here")
    return made


@pytest.mark.parametrize("init", [_PID_1, _BELOW_INIT], ids=["pid 1", "below an init"])
def test_a_service_of_an_unprivileged_container_has_what_can_be_had(
    container: tuple[str, ...], init: tuple[str, ...]
) -> None:
    (line,) = scripts.run(_SCRIPT, before=[*container, *init])
    said: dict[str, Any] = json.loads(line)
    assert (said["pid"] == 1) == (init is _PID_1)
    assert said["fork"] == said["exec"] == [0, 0, []]
    assert said["boxed"] == [1, 2, []]
    assert "CAP_NET_ADMIN is not among the capabilities" in said["lacking"]
    assert "private_tmp=, which need CAP_SYS_ADMIN" in said["namespaces"]
    assert said["zombies"] == 0


# The pid for which the socket is meant is that of the daemon's, in the container.
_PASS_ON = ("sh", "-c", 'export LISTEN_PID=$$; exec "$@"', "sh")


@pytest.mark.parametrize("init", [_PID_1, _BELOW_INIT], ids=["pid 1", "below an init"])
def test_a_daemon_in_a_container_serves_clients_from_outside(
    container: tuple[str, ...],
    init: tuple[str, ...],
    manage: Callable[..., Manager],
) -> None:
    before = [*container, *init, *_PASS_ON]
    manager = manage("service:plain", before=before)
    service = services["plain"]
    service.context.start("socket", path=manager.path)
    try:
        assert service.echo("value") == "value"
        assert service.run_program("/bin/echo", "printed") == "printed\n"
        status = service.context.status()
    finally:
        service.context.stop()
    assert (status.pid == 1) == (init is _PID_1)
    assert status.permitted == 0
