"""The policy that both rootwraps read: as long as a service's."""

import atexit
import getpass
import shutil
import tempfile
from pathlib import Path

FILES = 3
LINES = 20  # in each file; neutron's policy has about as many


def policy(files: int = FILES, lines: int = LINES) -> str:
    """Write a policy that allows `true` last; return its path."""
    directory = Path(tempfile.mkdtemp(prefix="rootwrap-bench-"))
    atexit.register(shutil.rmtree, directory)
    filters = directory / "rootwrap.d"
    filters.mkdir()
    user = getpass.getuser()
    for file in range(files):
        text = [f"c{n}: CommandFilter, command{file}-{n}, {user}" for n in range(lines)]
        text.append(f"last{file}: CommandFilter, last{file}, {user}")
        (filters / f"{file}.filters").write_text("\n".join(["[Filters]", *text, ""]))
    (filters / "true.filters").write_text(
        f"[Filters]\ntrue: CommandFilter, true, {user}\n"
    )
    config = directory / "rootwrap.conf"
    config.write_text(
        f"[DEFAULT]\nfilters_path = {filters}\n"
        "exec_dirs = /sbin,/usr/sbin,/bin,/usr/bin\n"
    )
    return str(config)
