"""Make what the tests of oslo/ run in: ``make_environments.py DIRECTORY``.

`theirs` has oslo.privsep and oslo.rootwrap from PyPI, `ours` has what this repository
has in their place. All else is in `common`, which both see: the libraries that they
need, and services that use them.
"""

import subprocess
import sys
import venv
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent.parent


def make(place: Path, *what: str) -> Path:
    """Make the environment `place` with `what` pip installs; return its packages."""
    venv.create(place, clear=True, symlinks=True)
    python = str(place / "bin" / "python3")
    pip = [sys.executable, "-m", "pip", "--python", python, "install"]
    subprocess.run([*pip, "--quiet", "--no-deps", *what], cwd=ROOT, check=True)
    (packages,) = place.glob("lib/python*/site-packages")
    return packages


def main() -> None:
    """Make all three."""
    place = Path(sys.argv[1]).resolve()
    common = make(place / "common", "--requirement", str(TESTS / "common.txt"))
    # By a .pth file, because sudo starts a daemon that ignores PYTHONPATH.
    seen = f"{common}\n{TESTS / 'both'}\n"
    theirs = make(place / "theirs", "--requirement", str(TESTS / "theirs.txt"))
    ours = make(place / "ours", "--editable", ".", "--editable", "./oslo")
    for packages in (theirs, ours):
        (packages / "common.pth").write_text(seen)


if __name__ == "__main__":
    main()
