"""The Python of README.md and docs/ runs, for root and for an ordinary user.

Each block is run by an interpreter of its own.  One that begins with a file's name,
as in `# motd.py`, is that file, and the blocks below it can import it: contexts
belong in modules, which a daemon that is a new interpreter can import, too.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest

_ROOT = Path(__file__).parent.parent
_DOCUMENTS = [_ROOT / "README.md", *sorted(_ROOT.glob("docs/*.md"))]
_BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_FILE_NAME = re.compile(r"# (\w+)\.py\n")

# Another user without any privileges, who may read what root may: the checkout and
# the interpreter are often below /root.
_BECOME_ORDINARY = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
_USERS: dict[str, list[str]] = (
    {"ordinary": []} if os.geteuid() else {"ordinary": _BECOME_ORDINARY, "root": []}
)


class Block(NamedTuple):
    name: str  #: of the document and the line, for the reader of a failure
    code: str  #: below as many empty lines as put it on the document's lines
    module: str | None
    above: list[Block]


def _blocks() -> list[Block]:
    found: list[Block] = []
    for document in _DOCUMENTS:
        text = document.read_text()
        above: list[Block] = []
        for match in _BLOCK.finditer(text):
            code = dedent(match[2])
            line = text.count("\n", 0, match.start(2))
            name = f"{document.name}:{line + 1}"
            module = _FILE_NAME.match(code)
            block = Block(name, "\n" * line + code, module and module[1], above.copy())
            above.append(block)
        found += above
    return found


@pytest.mark.parametrize("user", _USERS)
@pytest.mark.parametrize("block", _blocks(), ids=lambda block: block.name)
def test_a_block_runs(block: Block, user: str, tmp_path: Path) -> None:
    become = _USERS[user]
    if become and subprocess.run([*become, "true"], check=False).returncode:
        pytest.skip("no user namespaces here")
    for each in (*block.above, block):
        (tmp_path / f"{each.module or 'script'}.py").write_text(each.code)
    run = ["-c", f"import {block.module}"] if block.module else ["script.py"]
    finished = subprocess.run(
        [*become, sys.executable, *run],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
