"""Services that run rootwrap by scripts of their own."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import environments
import pytest
from clients import needs_root, place

import privsep
from privsep.cli import rootwrap_filter

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["place"]


def _policy(place: Path, *commands: str) -> Path:
    """Write a policy that allows some commands; return its path."""
    filters = place / "filters"
    filters.mkdir()
    lines = [f"{name}: CommandFilter, {name}, root" for name in commands]
    (filters / "a.filters").write_text("\n".join(["[Filters]", *lines, ""]))
    config = place / "rootwrap.conf"
    config.write_text(f"[DEFAULT]\nfilters_path = {filters}\n")
    return config


@needs_root
def test_a_console_script_of_a_service_runs_rootwrap(place: Path) -> None:
    """As nova-rootwrap does, which names a function."""
    config = _policy(place, "echo")
    script = "from oslo_rootwrap.cmd import main; main()"
    words = ("-c", script, str(config), "echo", "hello")
    assert environments.finish(environments.begin("ours", *words)) == "hello\n"


@needs_root
def test_a_signal_after_the_command_has_ended_is_for_no_process(place: Path) -> None:
    """Its pid may be another's by then."""
    config = _policy(place, "true")
    script = """
import os, signal, sys
from oslo_rootwrap import cmd
def wait(pid, options, wait=os.waitpid):
    ended = wait(pid, options)
    os.kill = lambda *words: print("kill", *words)
    signal.raise_signal(signal.SIGTERM)
    return ended
os.waitpid = wait
cmd.main()
"""
    words = ("-c", script, str(config), "true")
    assert environments.finish(environments.begin("ours", *words)) == ""


@needs_root
def test_commands_of_several_threads_run_at_once_by_rootwraps_daemon(
    place: Path,
) -> None:
    config = _policy(place, "cat", "cp")
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


of_this_module = privsep.Context("of_this_module", capabilities=[])


@needs_root
@pytest.mark.parametrize("side", ["theirs", "ours"])
def test_rootwrap_takes_the_filter_that_privsep_generates(
    place: Path, side: str
) -> None:
    variable = f"{__name__}:of_this_module"
    (place / "filters").mkdir()
    printed = rootwrap_filter.generate(of_this_module, "root")
    (place / "filters" / "privsep.filters").write_text(printed)
    config = place / "rootwrap.conf"
    config.write_text(f"[DEFAULT]\nfilters_path = {place}/filters\n")
    launcher = os.path.join(os.path.dirname(sys.executable), "privsep-daemon")
    main = "from oslo_rootwrap.cmd import main; main()"

    def run(word: str) -> tuple[int, str]:
        words = ("-c", main, str(config), launcher, word)
        process = environments.begin(side, *words)
        _, said = process.communicate()
        return process.returncode, said

    allowed, refused = run(variable), run(f"{variable}2")
    assert "standard input is not a control socket" in allowed[1]
    unauthorized = 99
    assert refused[0] == unauthorized
    assert "control socket" not in refused[1]
