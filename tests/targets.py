"""What children of multiprocessing run; it must be importable there."""

from __future__ import annotations

from service import services


def worker_and_echo(value: int) -> tuple[int, object]:
    """Return the worker's pid, and the value after its way to it and back."""
    service = services["plain"]
    return service.process_id(), service.echo(value)
