"""The environments of the contestants: one each, so that none is in another's way."""

import hashlib
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
BENCH = ROOT / ".bench"
REQUIREMENTS = Path(__file__).parent / "requirements"


def prepare(name: str) -> Path:
    """Make the environment, unless it is there; return its interpreter.

    Raises:
        subprocess.CalledProcessError: pip could not install what is required.

    """
    place = BENCH / name
    requirements = REQUIREMENTS / f"{name}.txt"
    python, stamp = place / "bin" / "python", place / "made-from"
    digest = _digest(requirements)
    if stamp.exists() and stamp.read_text() == digest:
        return python
    print(f"making the environment {name}", file=sys.stderr)
    venv.create(place, clear=True, symlinks=True, with_pip=requirements.exists())
    if requirements.exists():
        pip = [
            str(python),
            "-m",
            "pip",
            "install",
            "-qq",
            "--disable-pip-version-check",
        ]
        subprocess.run([*pip, "--requirement", str(requirements)], cwd=ROOT, check=True)
    # By a .pth file, because a daemon that exec or sudo starts must find the
    # contestants, too, and PYTHONPATH is not
    # what it trusts.
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "benchmarks.pth").write_text(f"{ROOT}\n")
    stamp.write_text(digest)
    return python


def _digest(requirements: Path) -> str:
    """Return a digest of all that an environment is made from."""
    digest = hashlib.sha256(f"{sys.version} {sys.executable} {ROOT}".encode())
    for path in _made_from(requirements):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _made_from(requirements: Path) -> Iterator[Path]:
    """Yield the requirements, and the sources of our packages that they name."""
    if not requirements.exists():
        return
    yield requirements
    for line in requirements.read_text().splitlines():
        if line.startswith("."):
            package = ROOT / line
            yield package / "pyproject.toml"
            yield from sorted(path for path in (package / "src").rglob("*.py"))
