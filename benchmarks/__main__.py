"""Run the bench: `python3 -m benchmarks`, from the root of the repository.

The machine is noisy, and a wake-up costs more than the work does, so that one
contestant's figures of this minute say nothing beside another's of the next. Hence
many short rounds, the contestants in turn (A B C A B C ...), a ratio for each round,
and of the ratios their median and their quartiles. Limits that depend on time stand
here, in no test.
"""

import argparse
import contextlib
import shlex
import sys

from benchmarks import report
from benchmarks.environments import BENCH, ROOT
from benchmarks.process import CannotRunError, Measuring
from benchmarks.rows import ROWS, Row

WARM_UP_ROUNDS = 3
MISSED, FAILED = 1, 2


def measure(row: Row, rounds: int) -> report.Result:
    """Measure the contestants of a row in turn."""
    result = report.Result(row)
    with contextlib.ExitStack() as stack:
        turns = {
            contestant: stack.enter_context(Measuring(contestant, row.processors))
            for contestant in row.contestants
        }
        for process in turns.values():
            greeting = process.greeting()
            if "skip" in greeting:
                result.skipped = greeting["skip"]
                return result
            result.versions |= greeting["versions"]
        for turn in range(-WARM_UP_ROUNDS, rounds):
            for contestant, process in turns.items():
                nanoseconds = process.round(row.operations)
                if turn >= 0:
                    result.nanoseconds.setdefault(contestant.label, []).append(
                        nanoseconds
                    )
    return result


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python3 -m benchmarks",
        description="Measure privsep beside its floors and its peers.",
        epilog=(
            f"Exit status: 0; {MISSED} if a target was missed and --check given; "
            f"{FAILED} if something did not run."
        ),
    )
    names = [row.name for row in ROWS]
    parser.add_argument(
        "--only",
        action="append",
        choices=names,
        metavar="ROW",
        help=f"one of {', '.join(names)}",
    )
    parser.add_argument(
        "--rounds", type=int, help="rounds of each row, instead of its own number"
    )
    parser.add_argument(
        "--check", action="store_true", help=f"exit with {MISSED} if a target is missed"
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="write the table to docs/benchmarks.md, if all rows ran",
    )
    options = parser.parse_args()
    if options.publish and options.only:
        parser.error("a part of the table is not for publishing")
    if options.rounds is not None and options.rounds < 2:
        parser.error("two rounds are the least")
    return options


def main() -> int:
    """Measure, report, and return the exit status."""
    options = arguments()
    BENCH.mkdir(exist_ok=True)
    results = []
    for row in ROWS:
        if options.only and row.name not in options.only:
            continue
        print(f"measuring {row.name}", file=sys.stderr)
        try:
            results.append(measure(row, options.rounds or row.rounds))
        except CannotRunError as error:
            results.append(report.Result(row, failed=str(error)))
    command = shlex.join(["python3", "-m", "benchmarks", *sys.argv[1:]])
    (BENCH / "results.json").write_text(report.as_json(results, command))
    table = report.as_markdown(results, command)
    print(table)
    if any(result.failed for result in results):
        return FAILED
    if options.publish:
        (ROOT / "docs").mkdir(exist_ok=True)
        (ROOT / "docs" / "benchmarks.md").write_text(table)
    met = all(result.met(ratio) for result in results for ratio in result.row.ratios)
    return MISSED if options.check and not met else 0


if __name__ == "__main__":
    sys.exit(main())
