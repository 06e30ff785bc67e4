"""Run the suite: each file by a pytest of its own, some of them at a time.

Half of what the tests take is waiting, for deadlines and for daemons to come to rest.
And each fork of a daemon copies the page tables of the client: a pytest that holds one
file has a third of the memory of one that holds them all.

It is not pytest-xdist: its workers have a thread more, but the tests fork all the time,
and how many threads a client has is part of what they try; each worker holds the whole
suite; and a worker ended at a parameter with a lone surrogate.

Arguments are passed on to each pytest.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

_TESTS = Path(__file__).parent
_OF_OSLO = _TESTS.parent / "oslo" / "tests"
_NO_TESTS = 5  #: pytest's exit status if the arguments select none
_COUNT = re.compile(r"(\d+) ([a-z]+)")


def _run_pytest(file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "--quiet", *sys.argv[1:], str(file)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


def _files() -> list[Path]:
    """Return the test files, the longest first, so that none is alone at the end."""
    files = [*_TESTS.glob("test_*.py"), *_OF_OSLO.glob("test_*.py")]
    return sorted(files, key=os.path.getsize, reverse=True)


def main() -> int:
    """Run all; return 0 if each pytest ended well."""
    begun = time.monotonic()
    # Or each would compile all that it imports again: 0.7 s for each file.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    counts: Counter[str] = Counter()
    failed: list[str] = []
    # One more than processors: each waits about half of its time.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) + 1) as pool:
        runs = {pool.submit(_run_pytest, file): file.name for file in _files()}
        try:
            for run in as_completed(runs):
                done = run.result()
                print(f"{runs[run]}\n{done.stdout}", flush=True)
                for last in done.stdout.splitlines()[-1:]:
                    for number, outcome in _COUNT.findall(last):
                        counts[outcome] += int(number)
                if done.returncode not in (0, _NO_TESTS):
                    failed.append(runs[run])
        except KeyboardInterrupt:
            # Those that run have heard it, too, and put back what they have changed.
            pool.shutdown(cancel_futures=True)
            raise
    for name in failed:
        print(f"FAILED {name}")
    said = ", ".join(f"{number} {outcome}" for outcome, number in counts.items())
    print(f"{said} in {time.monotonic() - begun:.2f}s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
