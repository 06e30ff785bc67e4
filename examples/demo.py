"""Show privilege separation at work, on one screen; fail if any of it did not hold.

Runs as root, where the client drops its privileges, or as any user, where the
daemon gets its own in a user namespace.  A line is printed after what it says was
checked.  All network interfaces are made in a network namespace that ends with
the demo.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import demo_service as service

import privsep
from privsep._wire.frames import call_head
from privsep.context import Entry

if TYPE_CHECKING:
    from collections.abc import Callable

BRIDGE, LEFT, RIGHT = "demo-bridge", "demo-left", "demo-right"
CALLS = 1000
NET_ADMIN = 12  # the number of CAP_NET_ADMIN, capabilities(7)
CLONE_NEWNET = 0x40000000
SOON = 20  #: seconds, of a busy machine; what nobody ends takes a minute


class Failed(Exception):
    """Something that the demo shows did not hold."""


class Process(NamedTuple):
    """What /proc says about a process."""

    uid: int
    parent: int
    capabilities: int  #: effective, or permitted, or inheritable, or ambient
    bounding: int
    no_new_privs: int

    @classmethod
    def read(cls, pid: int | str) -> Process:
        """Read /proc/PID/status."""
        try:
            text = Path(f"/proc/{pid}/status").read_text()
        except OSError as error:
            msg = f"{error}; is /proc mounted, and without hidepid?"
            raise Failed(msg) from error
        field = dict(line.split(":\t", 1) for line in text.splitlines())
        sets = (int(field[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Amb"))
        capabilities = 0
        for bits in sets:
            capabilities |= bits
        return cls(
            uid=int(field["Uid"].split()[1]),
            parent=int(field["PPid"]),
            capabilities=capabilities,
            bounding=int(field["CapBnd"], 16),
            no_new_privs=int(field["NoNewPrivs"]),
        )


class Demo:
    """The steps, in order, and how many checks held."""

    def __init__(self) -> None:
        self.checks = 0
        self.ip = shutil.which("ip", path="/usr/sbin:/usr/bin:/sbin:/bin")
        self.as_root = os.geteuid() == 0
        self.machines_links = links_of_the_machine()

    def run(self) -> None:
        """Show everything."""
        if self.ip is None:
            msg = "the demo needs the command ip: install iproute2, run it again"
            raise Failed(msg)
        release = os.uname().release.partition("-")[0]
        version = ".".join(map(str, sys.version_info[:3]))
        print(
            f"privsep on Python {version}, Linux {release}, "
            f"started by uid {os.geteuid()}"
        )
        self.start()
        try:
            self.show_client()
            self.show_failing_attempt()
            self.show_call_and_who_did_it()
            self.show_network()
            self.show_refusal()
            self.show_overrun()
            self.show_time()
            daemon = os.pidfd_open(self.daemon)
        finally:
            service.network.stop()
        self.check(is_gone(daemon), f"daemon {self.daemon} runs after stop()")
        self.check(self.machine_is_unchanged(), "the machine's interfaces changed")
        say(
            "Stop",
            f"daemon {self.daemon} is gone; the machine's interfaces are as before",
        )
        print(f"\nAll {self.checks} checks held.")

    def check(self, held: bool, otherwise: str) -> None:  # noqa: FBT001
        """Count a check; `otherwise` says what is wrong if it did not hold."""
        if not held:
            raise Failed(otherwise)
        self.checks += 1

    def machine_is_unchanged(self) -> bool:
        """Return whether the machine has the interfaces that it had at first."""
        return links_of_the_machine() == self.machines_links

    def start(self) -> None:
        """Start the daemon, and drop the client's privileges."""
        if not self.as_root:
            # The daemon shares the pids of the machine, so that they can be checked.
            service.network.start("userns", namespaces=["net", "mount", "uts", "ipc"])
            return
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) < 0:
            reason = os.strerror(ctypes.get_errno())
            msg = (
                f"no network namespace for the demo: {reason}; give root "
                "CAP_SYS_ADMIN and CAP_NET_ADMIN, or run it as an ordinary user"
            )
            raise Failed(msg)
        service.network.start("fork")
        privsep.drop_privileges("nobody")

    def show_client(self) -> None:
        """Show who the client is now."""
        client = Process.read("self")
        self.check(client.uid != 0, "the client is root")
        self.check(client.capabilities == 0, "the client has capabilities; drop them")
        try:
            os.setuid(0)
        except PermissionError:
            self.check(os.geteuid() != 0, "setuid(0) failed, and worked")
        else:
            raise Failed("the client became root")
        facts = f"uid {client.uid}, no capabilities, no_new_privs {client.no_new_privs}"
        if self.as_root:
            self.check(client.no_new_privs == 1, "the client lacks no_new_privs")
            say("Client", 'start("fork"), then drop_privileges("nobody")')
        else:
            say("Client", 'start("userns"); an ordinary user, so nothing to drop')
        say("", f"{facts}; setuid(0) fails")

    def show_failing_attempt(self) -> None:
        """Let the client try the privileged job itself."""
        words = ["link", "add", BRIDGE, "type", "bridge"]
        done = subprocess.run(
            [str(self.ip), *words], capture_output=True, text=True, check=False
        )
        self.check(done.returncode != 0, "the client made a bridge itself")
        self.check("not permitted" in done.stderr, f"ip: {done.stderr}")
        say("Directly", f"the client runs: ip {' '.join(words)}")
        say("", done.stderr.strip())

    def show_call_and_who_did_it(self) -> None:
        """Call, and read from outside who the worker is."""
        service.connect(BRIDGE, LEFT, RIGHT)
        say("By a call", f'connect("{BRIDGE}", ...) worked')
        self.worker, inner_uid = service.who()
        worker = Process.read(self.worker)
        self.daemon = worker.parent
        self.check(self.worker != os.getpid() != self.daemon, "the client did it")
        self.check(worker.capabilities == 1 << NET_ADMIN, f"not as asked: {worker}")
        self.check(worker.bounding == 1 << NET_ADMIN, f"bounding set: {worker}")
        self.check(worker.no_new_privs == 1, "the worker lacks no_new_privs")
        self.check(inner_uid == 0, f"the worker is uid {inner_uid}, not root")
        outer_uid = 0 if self.as_root else os.geteuid()
        self.check(worker.uid == outer_uid, f"the worker is uid {worker.uid}")
        user = "uid 0" if self.as_root else f"uid {outer_uid} (inside: 0)"
        say("Who did it", f"worker {self.worker} of daemon {self.daemon}, says /proc:")
        say("", f"{user}, CAP_NET_ADMIN and no other, no_new_privs 1")

    def show_network(self) -> None:
        """List what was made, remove it, and look at the machine."""
        made = service.links()
        self.check(set(made) == {BRIDGE, LEFT, RIGHT}, f"there are {sorted(made)}")
        self.check(f"master {BRIDGE}" in made[LEFT], f"{LEFT} is not in {BRIDGE}")
        self.check(self.machine_is_unchanged(), "the machine's interfaces changed")
        service.disconnect(BRIDGE, LEFT)
        self.check(not service.links(), "not all interfaces are removed")
        say("Network", f"bridge {BRIDGE} with veth {LEFT}, {RIGHT}")
        say("", "made, listed and removed by ip in a network namespace of its own;")
        say("", "the machine itself never had one of them")

    def show_refusal(self) -> None:
        """Ask the daemon for what is not in its table."""
        name = b"os.system"
        entry = Entry(
            name.decode(),
            name,
            os.getuid,
            limit=5.0,
            detach=False,
            head=call_head(name),
        )
        client = service.network.client
        assert client is not None
        try:
            client.call(entry, (f"ip link add {BRIDGE} type bridge",), {})
        except privsep.Refused as error:
            reason = str(error).partition(":")[0]
        else:
            raise Failed("the daemon ran os.system")
        self.check(not service.links(), "os.system ran in the daemon")
        say("Refused", f"sent by hand: {reason}")

    def show_overrun(self) -> None:
        """Call what takes too long, and see that it does not go on."""
        child = service.start_child()
        worker, _ = service.who()
        processes = [os.pidfd_open(worker), os.pidfd_open(child)]
        began = perf_counter()
        try:
            service.overrun()
        except privsep.CallTimeout:
            took = perf_counter() - began
        else:
            raise Failed("overrun() ended in time")
        self.check(0.5 <= took < SOON, f"the deadline came after {took:.2f} s")
        for process in processes:
            self.check(
                is_gone(process), f"worker {worker} or its child {child} runs on"
            )
            os.close(process)
        self.check(service.who()[0] != worker, "the killed worker answered")
        say("Overrun", f"0.5 s allowed, 60 wanted: CallTimeout after {took:.2f} s")
        say("", f"worker {worker} and its child {child} are gone; the next call works")

    def show_time(self) -> None:
        """Measure a call, and the function itself."""
        called = time_of(service.add)
        direct = time_of(service.add.__wrapped__)  # type: ignore[attr-defined]
        self.check(called[0] == direct[0], "a call returned something else")
        say(
            f"{CALLS:,} calls",
            f"{called[1]:.0f} µs each; the function itself {direct[1]:.2f} µs",
        )


def time_of(function: Callable[[int, int], int]) -> tuple[list[int], float]:
    """Return the results of many calls, and microseconds for each."""
    began = perf_counter()
    results = [function(number, 1) for number in range(CALLS)]
    return results, (perf_counter() - began) / CALLS * 1e6


def links_of_the_machine() -> list[str]:
    """Return the interfaces of the network namespace in which /sys was mounted."""
    return sorted(os.listdir("/sys/class/net"))


def is_gone(pidfd: int) -> bool:
    """Return whether the process has ended, or does soon."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(SOON * 1000))


def say(what: str, text: str) -> None:
    """Print one line; `what` is empty where a line goes on."""
    print(f"{what:<12} {text}", flush=True)


def main() -> None:
    """Run the demo; exit with 1 and the reason if anything did not hold."""
    try:
        Demo().run()
    except (Failed, privsep.PrivsepError, OSError, RuntimeError) as error:
        sys.exit(f"FAILED: {error}")


if __name__ == "__main__":
    main()
