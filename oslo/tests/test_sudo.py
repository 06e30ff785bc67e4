"""``sudo privsep-helper``, however an administrator has set sudo up."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest
from public_python import need, sudoers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from public_python import PublicPython

_MODULE = """
import os, sys
from oslo_privsep import priv_context
context = priv_context.PrivContext(
    __name__, cfg_section="streams", pypath=__name__ + ".context", capabilities=[])
@context.entrypoint
def speak(text):
    print("out", text, flush=True)
    print("error", text, file=sys.stderr)
    return os.getuid()
"""
_CALLS = """
import json, logging
from oslo_config import cfg
import {module}
class Handler(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())
said = []
logging.getLogger("oslo.privsep.daemon").addHandler(Handler())
cfg.CONF([], project="x")
cfg.CONF.set_override("helper_command", "sudo -n {helper}", group="streams")
uids = []
for number in range(3):
    uids += [{module}.speak(f"{{number}}.{{call}}") for call in range(2)]
    {module}.context.stop()
print(json.dumps([uids, sorted(said)]))
"""


@pytest.fixture
def module(service_python: PublicPython) -> Iterator[str]:
    """The name of a module whose entrypoint writes to both streams."""
    (packages,) = service_python.prefix.glob("lib/python*/site-packages")
    path = packages / f"streams_{os.getpid()}.py"
    path.write_text(_MODULE)
    yield path.stem
    path.unlink()


@pytest.mark.parametrize("terminal", [True, False], ids=["a terminal", "no terminal"])
@pytest.mark.parametrize(
    "settings",
    ["use_pty", "!use_pty", "use_pty, {logs}", "!use_pty, {logs}"],
    ids=["use_pty", "no pty", "use_pty and logs", "no pty and logs"],
)
def test_calls_return_and_what_they_print_is_logged_whatever_sudo_does_with_streams(  # noqa: PLR0917 - most are fixtures
    service_python: PublicPython,
    unprivileged_user: str,
    helper_rule: str,
    module: str,
    tmp_path: Path,
    settings: str,
    terminal: bool,
) -> None:
    need("script")
    logs = f"log_input, log_output, iolog_dir={tmp_path}/iolog"
    rule = f"Defaults:{unprivileged_user} {settings.format(logs=logs)}"
    script = _CALLS.format(module=module, helper=helper_rule)
    words = [service_python.executable, "-c", script]
    if terminal:
        words = ["script", "-qec", shlex.join(words), "/dev/null"]
    with sudoers(f"{unprivileged_user}-streams", rule):
        done = subprocess.run(
            words,
            user=unprivileged_user,
            group=unprivileged_user,
            extra_groups=[],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
    assert done.returncode == 0, done.stdout + done.stderr
    uids, said = json.loads(done.stdout)
    assert uids == [0] * 6
    for stream in ("out", "error"):
        lines = [line for line in said if line.startswith(f"privsep log: {stream} ")]
        assert lines == [
            f"privsep log: {stream} {number}.{call}"
            for number in range(3)
            for call in range(2)
        ]
    assert ("logs" in settings) == (tmp_path / "iolog").exists()
