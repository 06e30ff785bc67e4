"""What was measured, as JSON and as a Markdown table."""

import json
import os
import platform
import statistics
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.rows import Contestant, Ratio, Row

PAGE = """\
# Benchmarks

Written by `{command}`, {date}: {machine}; {versions}.

Each row's contestants were measured in turn, in many short rounds, each in an
environment of its own. A figure is the median of the rounds' medians (of a rate: of the
rounds' rates). The ratio is the first one's time divided by the second one's: the
median of the rounds' ratios, and their quartiles. A ping-pong between two processors
costs three to four times what it costs on one, and a scheduler's choice lasts: hence
the rows that fix it.

| row | first | second | ratio | quartiles | target | |
|---|---|---|---|---|---|---|
"""
MILLISECOND = 1e6


@dataclass
class Result:
    """What came of a row: nanoseconds by contestant and round, or why none."""

    row: Row
    nanoseconds: dict[str, list[float]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    skipped: str = ""
    failed: str = ""

    def quartiles(self, ratio: Ratio) -> list[float]:
        """Return the quartiles of the rounds' ratios."""
        over, under = (
            self.nanoseconds[ratio.over.label],
            self.nanoseconds[ratio.under.label],
        )
        return statistics.quantiles(
            [a / b for a, b in zip(over, under, strict=True)], n=4
        )

    def added(self, ratio: Ratio) -> float:
        """Return how much longer the first takes: the rounds' median, microseconds."""
        over, under = (
            self.nanoseconds[ratio.over.label],
            self.nanoseconds[ratio.under.label],
        )
        return statistics.median(a - b for a, b in zip(over, under, strict=True)) / 1e3

    def met(self, ratio: Ratio) -> bool:
        """Say whether the medians are within the bounds; unmeasured misses none."""
        if not self.nanoseconds:
            return True
        if ratio.adds_at_most is not None and self.added(ratio) > ratio.adds_at_most:
            return False
        return ratio.meets(self.quartiles(ratio)[1])


def as_json(results: list[Result], command: str) -> str:
    """Return everything that was measured, every round of it."""
    rows = []
    for result in results:
        quartiles = (
            [result.quartiles(ratio) for ratio in result.row.ratios]
            if result.nanoseconds
            else []
        )
        rows.append({**asdict(result), "quartiles": quartiles})
    return json.dumps({**_circumstances(results, command), "rows": rows}, indent=1)


def as_markdown(results: list[Result], command: str) -> str:
    """Return a page with one line for each ratio."""
    lines = [
        "| " + " | ".join(cells) + " |\n"
        for result in results
        for cells in _cells(result)
    ]
    return PAGE.format(**_circumstances(results, command)) + "".join(lines)


def _cells(result: Result) -> list[list[str]]:
    title = f"{result.row.title} (`{result.row.name}`)"
    if not result.nanoseconds:
        why = (
            f"skipped: {result.skipped}"
            if result.skipped
            else f"FAILED: {result.failed}"
        )
        return [[title, why, "", "", "", "", ""]]
    lines = []
    for ratio in result.row.ratios:
        low, median, high = result.quartiles(ratio)
        verdict = ("met" if result.met(ratio) else "**missed**") if ratio.target else ""
        added = ""
        if ratio.adds_at_most is not None:
            added = f" ({result.added(ratio):.1f} µs)"
        sides = [_figure(result, side) for side in (ratio.over, ratio.under)]
        lines.append(
            [
                title,
                *sides,
                f"{median:.2f}",
                f"{low:.2f} to {high:.2f}",
                ratio.target,
                verdict + added,
            ]
        )
    return lines


def _figure(result: Result, contestant: Contestant) -> str:
    median = statistics.median(result.nanoseconds[contestant.label])
    time = (
        f"{median / 1e3:.1f} µs"
        if median < MILLISECOND
        else f"{median / MILLISECOND:.1f} ms"
    )
    return f"{contestant.label} " + (
        f"{1e9 / median:,.0f}/s" if result.row.rate else time
    )


def _circumstances(results: list[Result], command: str) -> dict[str, str]:
    models = [
        line
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    model = "".join(models[:1]).partition(": ")[2] or platform.machine()
    versions = {"Python": platform.python_version(), "Linux": platform.release()}
    for result in results:
        versions |= result.versions
    return {
        "command": command,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{os.cpu_count()} processors, {model}",
        "versions": ", ".join(
            f"{name} {version}" for name, version in versions.items()
        ),
    }
