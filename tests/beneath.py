"""Entrypoints that open paths beneath this directory, importable by any daemon.

`context` may read this directory and nothing beside it, and make few system calls.
"""

from __future__ import annotations

import os
from pathlib import Path

import privsep

ROOT = Path(__file__).parent

context = privsep.Context(
    "beneath",
    capabilities=[],
    timeout=10.0,
    sandbox=privsep.Sandbox(read=[ROOT], syscalls=["@basic-io", "@file-system"]),
)


@context.entrypoint
def read(path: str) -> str:
    with open(privsep.open_beneath(ROOT, path)) as file:
        return file.read()


@context.entrypoint
def read_held(path: str) -> str:
    """Read it as a function with an annotated parameter does."""
    held, descriptor = privsep.Beneath(ROOT).hold(path)
    try:
        return Path(str(held)).read_text()
    finally:
        os.close(descriptor)
