"""A service that tells what its daemon began with, importable by any daemon."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from procfs import open_files

import privsep

WHEN_IMPORTED = open_files()

context = privsep.Context(
    "surroundings", capabilities=[], environment=["PRIVSEP_TEST_KEPT"], timeout=120.0
)


@context.entrypoint
def open_when_imported() -> dict[int, str]:
    return WHEN_IMPORTED


@context.entrypoint
def open_now() -> dict[int, str]:
    return open_files()


@context.entrypoint
def variables() -> dict[str, str]:
    return dict(os.environ)


@context.entrypoint
def first_environment() -> bytes:
    """What the interpreter was started with; nothing that it does changes it."""
    return Path("/proc/self/environ").read_bytes()


@context.entrypoint
def look() -> dict[str, object]:
    umask = os.umask(0)
    os.umask(umask)
    return {
        "umask": umask,
        "directory": os.getcwd(),
        "leads its session": os.getsid(os.getppid()) == os.getppid(),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
    }


@context.entrypoint
def write_beyond_a_limit(path: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))
    Path(path).write_bytes(b"two")
