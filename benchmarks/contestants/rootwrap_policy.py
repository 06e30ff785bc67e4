"""What both rootwraps read, a policy as long as a service's, and what they run."""

import atexit
import getpass
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.contestants.measure import Call, Round, command, latency, throughput

FILES = 3
LINES = 20  # in each file; neutron's policy has about as many


def policy(files: int = FILES, lines: int = LINES) -> str:
    """Write a policy that allows `true` last; return its path."""
    directory = Path(tempfile.mkdtemp(prefix="rootwrap-bench-"))
    atexit.register(shutil.rmtree, directory)
    filters = directory / "rootwrap.d"
    filters.mkdir()
    user = getpass.getuser()
    for file in range(files):
        text = [f"c{n}: CommandFilter, command{file}-{n}, {user}" for n in range(lines)]
        text.append(f"last{file}: CommandFilter, last{file}, {user}")
        (filters / f"{file}.filters").write_text("\n".join(["[Filters]", *text, ""]))
    (filters / "true.filters").write_text(
        f"[Filters]\ntrue: CommandFilter, true, {user}\n"
    )
    config = directory / "rootwrap.conf"
    config.write_text(
        f"[DEFAULT]\nfilters_path = {filters}\n"
        "exec_dirs = /sbin,/usr/sbin,/bin,/usr/bin\n"
    )
    return str(config)


def program(name: str) -> str:
    """Return the path of a program that is installed beside the interpreter."""
    return str(Path(sys.executable).with_name(name))


def operations(
    launcher: str, daemon: Callable[[], Call]
) -> dict[str, Callable[[], Round]]:
    """Return what is measured of both.

    Args:
        launcher: the program that runs a command without a daemon.
        daemon: starts a daemon; returns a call that runs true in it.

    """
    return {
        "one-shot": lambda: command(launcher, policy(), "true"),
        "daemon": lambda: latency(daemon()),
        "daemon-1-thread": lambda: throughput(daemon(), 1),
        "daemon-8-threads": lambda: throughput(daemon(), 8),
    }
