"""The contexts that tell what an audit costs.

Apart from the others, whose import is part of the starts that are measured.
"""

from pathlib import Path

import privsep
from benchmarks.contestants.placement import pin

BENCH = Path(__file__).parent.parent.parent / ".bench"


def _audit(name: str, on_failure: str) -> privsep.Audit:
    file = BENCH / f"{name}.jsonl"
    return privsep.Audit(file=file, on_failure=on_failure)  # type: ignore[arg-type]


reported = privsep.Context(
    "bench-audit", capabilities=[], audit=_audit("report", "report")
)
required = privsep.Context(
    "bench-audit-error", capabilities=[], audit=_audit("error", "error")
)


@reported.entrypoint
def echo_reported(value: int) -> int:
    """Return the value, on record."""
    return value


@reported.entrypoint
def pin_reported(processor: int) -> None:
    """Keep the worker on one processor."""
    pin(processor)


@required.entrypoint
def echo_required(value: int) -> int:
    """Return the value, after its call is on record."""
    return value


@required.entrypoint
def pin_required(processor: int) -> None:
    """Keep the worker on one processor."""
    pin(processor)
