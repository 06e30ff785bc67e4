"""Clients of a service that has ours in place of oslo.privsep."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import environments
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has what to drop")


BEGIN = """
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
    text = f"{before}\n{BEGIN}\n{script}"
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
