"""A systemd of the test's own: process 1 of namespaces in which it runs real units.

It sees the machine's files, but for /etc, /run, /dev, /home, /tmp and logs, which are
its own; processes, network, host name and control groups are, too. /proc/sys and /sys
are read-only, but for the network's. What it runs ends with it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hostile import PROMPTLY
from own_etc import OF_ETC, copy_of_etc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from public_python import PublicPython

_SYSTEMD = "/lib/systemd/systemd"
_UNITS = "etc/systemd/system"
#: what units refer to; all but the last need nothing here
_TARGETS = ("sysinit", "basic", "shutdown", "sockets")
#: What is said goes where the test finds it.
_FOR_ALL = "[Service]\nStandardError=append:/run/stderr\n"

# As a container's manager has it: systemd.io/CONTAINER_INTERFACE.  The shell becomes
# process 1 of its namespaces; it would do harm anywhere else.
_BOOT = f"""
test $$ = 1 || exit
set -e
place=$1 python=$2 name=$(basename "$2")
mount --make-rprivate /
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount --bind /proc/sys/net /proc/sys/net
mount -o remount,bind,rw /proc/sys/net
mount -t sysfs -o ro sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs "$place/dev"
for device in null zero full random urandom tty; do
    touch "$place/dev/$device"
    mount --bind "/dev/$device" "$place/dev/$device"
done
touch "$place/dev/console"
mount --bind "$3" "$place/dev/console"
mkdir "$place/dev/pts" "$place/dev/shm" "$place/dev/net"
mknod -m 666 "$place/dev/net/tun" c 10 200
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$place/dev/pts"
ln -s pts/ptmx "$place/dev/ptmx"
ln -s /proc/self/fd "$place/dev/fd"
mount --rbind "$place/dev" /dev
mount --bind "$place/etc" /etc
mount --bind "$place/run" /run
mount -t tmpfs tmpfs /var/log
mount -t tmpfs tmpfs "$place/tmp"
mkdir "$place/tmp/$name"
mount --bind "$python" "$place/tmp/$name"
mount --rbind "$place/tmp" /var/tmp
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /home
exec env -i container=test NOTIFY_SOCKET=/run/notify SYSTEMD_UNIT_PATH=/{_UNITS} \\
    {_SYSTEMD} --system --unit=sockets.target --show-status=no \\
    --log-target=console --log-level=err
"""


class Booted:
    """A systemd that listens for units.

    Args:
        place: a directory for it, root's, that every user may enter.
        python: a directory in /var/tmp, of which it sees nothing else.
        files: the contents of those in /etc, by their paths; sockets are started.

    """

    def __init__(self, place: Path, python: Path, files: Mapping[str, str]) -> None:
        self.run = place / "run"
        _fill(place, files)
        self._group = _control_groups() / f"privsep-test-{os.getpid()}"
        self._group.mkdir()
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.bind(str(self.run / "notify"))
        self._console, console = os.openpty()
        namespaces = ("--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup")
        self._process = subprocess.Popen(
            [
                # It is the root of its namespace's groups, being in one by then.
                *("sh", "-c", 'echo $$ >"$0/cgroup.procs"; exec "$@"', self._group),
                *("unshare", "--fork", "--kill-child", *namespaces),
                *("sh", "-c", _BOOT, "sh", place, python, os.ttyname(console)),
            ],
            stdin=subprocess.DEVNULL,
            stderr=console,
            start_new_session=True,
        )
        os.close(console)

    def wait_until_ready(self) -> None:
        """Return when its sockets listen."""
        pidfd = os.pidfd_open(self._process.pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(self._notices, select.POLLIN)
        heard = ""
        while "READY=1" not in heard:
            ready = dict(poll.poll(PROMPTLY * 1000))
            assert self._notices.fileno() in ready, self.said()
            heard = self._notices.recv(4096).decode()
        os.close(pidfd)

    def path(self, variable: str) -> str:
        """Return where the daemon of a context is found from outside."""
        return str(self.run / "privsep" / f"{variable}.sock")

    def said(self) -> str:
        """Return what it, and its services, have said of what is wrong."""
        said = ""
        while select.select([self._console], [], [], 0)[0]:
            said += os.read(self._console, 1 << 16).decode()
        stderr = self.run / "stderr"
        return said + (stderr.read_text() if stderr.exists() else "")

    @property
    def pid(self) -> int:
        """Its process, as seen from outside."""
        (pid,) = self._children()
        return pid

    def do(self, *words: str) -> str:
        """Run a command of root's beside what it runs; return what that prints."""
        enter = ("nsenter", "--target", str(self.pid))
        namespaces = ("--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup")
        done = subprocess.run(
            [*enter, *namespaces, *words], stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout

    def close(self) -> None:
        """End it, with all that it runs."""
        for pid in self._children():
            os.kill(pid, signal.SIGKILL)
        self._process.wait(PROMPTLY)
        self._notices.close()
        os.close(self._console)
        for directory, _, _ in os.walk(self._group, topdown=False):
            os.rmdir(directory)

    def _children(self) -> list[int]:
        if self._process.poll() is not None:
            return []
        task = f"/proc/{self._process.pid}/task/{self._process.pid}"
        return [int(pid) for pid in Path(f"{task}/children").read_text().split()]


def _control_groups() -> Path:
    """Return where control groups of version 2 are mounted: cgroups(7)."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[fields.index("-") + 1] == "cgroup2" and os.access(fields[4], os.W_OK):
            return Path(fields[4])
    pytest.skip("control groups of version 2 are not mounted, or not for writing")


def _fill(place: Path, files: Mapping[str, str]) -> None:
    for name in ("run", "dev", "etc", "tmp"):
        (place / name).mkdir(mode=0o755)
    copy_of_etc(OF_ETC, place / "etc")
    more = {f"/{_UNITS}/{name}.target": "[Unit]\n" for name in _TARGETS}
    more[f"/{_UNITS}/service.d/all.conf"] = _FOR_ALL
    wanted = [Path(path).name for path in files if path.endswith(".socket")]
    more[f"/{_UNITS}/sockets.target"] = f"[Unit]\nRequires={' '.join(wanted)}\n"
    for path, text in (more | dict(files)).items():
        file = place / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.fixture
def boot(
    public_path: Path, public_python: PublicPython
) -> Iterator[Callable[[Mapping[str, str]], Booted]]:
    """Return a function that boots with files of /etc, in namespaces of its own."""
    if not os.path.exists(_SYSTEMD):
        pytest.skip("systemd is not installed")
    if subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "mount", "-t", "proc", "p", "/proc"],
        check=False,
    ).returncode:
        pytest.skip("root may make no namespaces here")
    booted: list[Booted] = []

    def begin(files: Mapping[str, str]) -> Booted:
        place = public_path / "booted"
        place.mkdir(mode=0o755)
        booted.append(Booted(place, public_python.prefix.parent, files))
        booted[-1].wait_until_ready()
        return booted[-1]

    yield begin
    for each in booted:
        each.close()
