"""How rootwrap starts: the launcher, the interpreter, and what is loaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from wrapping import ENDS_WITHIN, NO_COMMAND, NOT_ALLOWED, PROGRAM, SWAYING, Wrapped

import privsep

_LAUNCHER = Path(__file__).parent.parent / "scripts" / "privsep-rootwrap"


@pytest.fixture
def wrapped(tmp_path: Path) -> Wrapped:
    wrapped = Wrapped(tmp_path)
    wrapped.script("show")
    wrapped.allow("show: CommandFilter, show, @me")
    return wrapped


_SLOW = {
    "argparse",
    "configparser",
    "ctypes",
    "dataclasses",
    "enum",
    "functools",
    "logging",
    "re",
    "signal",
    "subprocess",
    "tomllib",
    "typing",
    "privsep.context",
    "privsep.rootwrap.convert",
    "privsep.rootwrap.explain",
    "privsep.rootwrap.tables",
}


@pytest.mark.parametrize("words", ["show x", "other x", "env PROCESS_TAG=x dnsmasq"])
def test_the_program_loads_little(wrapped: Wrapped, words: str) -> None:
    """Even where other filters have patterns."""
    wrapped.script("dnsmasq")
    wrapped.allow(
        *(
            "tool: RegExpFilter, tool, @me, tool, a.*",
            "x: RegExpFilter, x, @me, x.*, a",
        ),
        *("show: CommandFilter, show, @me", "ip: IpFilter, ip, @me"),
        "tag: EnvFilter, env, @me, PROCESS_TAG=, dnsmasq",
    )
    done = wrapped.call(
        *("-X", "importtime", PROGRAM, str(wrapped.config), *words.split()),
        before=[sys.executable, "-I", "-S", "-c", _WITHOUT_PROGRAM],
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "privsep.rootwrap.judge" in loaded
    assert not loaded & _SLOW


# The program's own path is in front of these arguments: it is left out.
_WITHOUT_PROGRAM = (
    "import os, sys; words = sys.argv[1:4] + sys.argv[5:]; os.execv(words[0], words)"
)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """The site-packages of an interpreter beside which the launcher stands."""
    prefix = tmp_path / "prefix"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = prefix / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "bin" / "python3").symlink_to(os.path.realpath(sys.executable))
    base = os.path.dirname(os.path.realpath(sys.executable))
    (prefix / "pyvenv.cfg").write_text(f"home = {base}\n")
    shutil.copy(_LAUNCHER, prefix / "bin")
    return packages


_PACKAGE = Path(privsep.__file__).parent


def _launch(
    packages: Path, wrapped: Wrapped, *words: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    launcher = packages.parent.parent.parent / "bin" / _LAUNCHER.name
    return subprocess.run(
        [launcher, wrapped.config, *words],
        env={"PATH": "/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        timeout=ENDS_WITHIN,
        check=False,
    )


def test_the_launcher_starts_the_interpreter_beside_it(
    wrapped: Wrapped, packages: Path
) -> None:
    (packages / "privsep").symlink_to(_PACKAGE)
    done = _launch(packages, wrapped, "show", "ü", "x")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\nü\nx\n", "")
    assert _launch(packages, wrapped, "other").returncode == NOT_ALLOWED
    assert _launch(packages, wrapped).returncode == NO_COMMAND


def test_the_launcher_starts_python_without_site(
    wrapped: Wrapped, packages: Path
) -> None:
    (packages / "privsep").symlink_to(_PACKAGE)
    (packages / "evil.pth").write_text("import os; os.write(1, b'evil')\n")
    (packages / "sitecustomize.py").write_text("import os; os.write(1, b'evil')\n")
    assert _launch(packages, wrapped, "show").stdout == "ran\n"


def test_the_launcher_finds_the_package_of_its_own_python(
    wrapped: Wrapped, packages: Path
) -> None:
    (packages / "privsep").symlink_to(_PACKAGE)
    other = packages.parent.parent / "python3.0/site-packages/privsep/rootwrap"
    other.mkdir(parents=True)
    (other / "__main__.py").write_text("print('another')")
    assert _launch(packages, wrapped, "show").stdout == "ran\n"


def test_the_launcher_finds_the_package_of_debian(
    wrapped: Wrapped, packages: Path
) -> None:
    debian = packages.parent.parent / "python3" / "dist-packages"
    debian.mkdir(parents=True)
    (debian / "privsep").symlink_to(_PACKAGE)
    assert _launch(packages, wrapped, "show").stdout == "ran\n"


@pytest.mark.parametrize("name", ["_editable_impl_privsep.pth", "other.pth"])
def test_the_launcher_finds_the_package_elsewhere(
    wrapped: Wrapped, packages: Path, name: str
) -> None:
    (packages / name).write_text(f"{_PACKAGE.parent}\n")
    assert _launch(packages, wrapped, "show").stdout == "ran\n"


def test_the_launcher_says_that_there_is_no_package(
    wrapped: Wrapped, packages: Path
) -> None:
    done = _launch(packages, wrapped, "show", PYTHONPATH=str(_PACKAGE.parent))
    assert (done.returncode, done.stdout) == (1, "")
    assert "prefix/bin/python3 has no privsep" in done.stderr


@pytest.mark.parametrize(("name", "value"), SWAYING.items())
def test_no_variable_of_the_caller_sways_the_launcher(
    wrapped: Wrapped, packages: Path, name: str, value: str
) -> None:
    (packages / "privsep").symlink_to(_PACKAGE)
    done = _launch(packages, wrapped, "show", "ü", **{name: value})
    assert done.stdout == "ran\nü\n"
