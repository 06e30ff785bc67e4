"""What README.md and docs/ say holds.

Their Python runs, for root and for an ordinary user: each block by an interpreter of
its own.  One that begins with a file's name, as in `# motd.py`, is that file, and the
blocks below it can import it: contexts belong in modules, which a daemon that is a new
interpreter can import, too.  Blocks marked `py` are only shown.

The tables of reference.md are compared with the code: names, types and defaults.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, NamedTuple

import pytest

import privsep
from privsep.status import DaemonStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from public_python import PublicPython

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


def _blocks_of(document: Path) -> list[Block]:
    text = document.read_text()
    above: list[Block] = []
    for match in _BLOCK.finditer(text):
        code = dedent(match[2])
        line = text.count("\n", 0, match.start(2))
        name = f"{document.name}:{line + 1}"
        module = _FILE_NAME.match(code)
        block = Block(name, "\n" * line + code, module and module[1], above.copy())
        above.append(block)
    return above


@pytest.mark.parametrize("user", _USERS)
@pytest.mark.parametrize(
    "block",
    [block for document in _DOCUMENTS for block in _blocks_of(document)],
    ids=lambda block: block.name,
)
def test_a_block_runs(block: Block, user: str, tmp_path: Path) -> None:
    become = _USERS[user]
    if become and subprocess.run([*become, "true"], check=False).returncode:
        pytest.skip("no user namespaces here")
    for each in (*block.above, block):
        (tmp_path / f"{each.module or 'script'}.py").write_text(each.code)
    finished = subprocess.run(
        [*become, sys.executable, f"{block.module or 'script'}.py"],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path)},  # where its files may stay
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr


# -- links ---------------------------------------------------------------------

_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "docs/asyncio.md",
        "docs/reference.md",
        "docs/sudo.md",
        "docs/systemd.md",
    ],
)
def test_a_link_leads_to_a_page_and_to_a_heading_of_it(name: str) -> None:
    document = _ROOT / name
    for page, anchor in _LINK.findall(document.read_text()):
        target = document.parent / page if page else document
        assert target.is_file(), page
        assert not anchor or anchor in _anchors(target), f"{page}#{anchor}"


def _anchors(document: Path) -> set[str]:
    """Return the names that headings have on a rendered page."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


# -- reference.md --------------------------------------------------------------

_REFERENCE = _ROOT / "docs" / "reference.md"
_CALLABLES: dict[str, Callable[..., object]] = {
    "Context": privsep.Context,
    "entrypoint": privsep.Context.entrypoint,
    "start": privsep.Context.start,
    "Sandbox": privsep.Sandbox,
    "Audit": privsep.Audit,
    "Fd": privsep.Fd,
    "aio": privsep.aio,
    "open_beneath": privsep.open_beneath,
    "Beneath": privsep.Beneath,
    "Len": privsep.Len,
    "Pattern": privsep.Pattern,
    "Range": privsep.Range,
    "Predicate": privsep.Predicate,
    "Secret": privsep.Secret,
    "drop_privileges": privsep.drop_privileges,
}
_ERRORS = [
    found
    for found in (getattr(privsep, name) for name in privsep.__all__)
    if isinstance(found, type) and issubclass(found, BaseException)
]


def _rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without its head."""
    section = re.split(rf"^#+ {re.escape(heading)}$", _page(), flags=re.MULTILINE)[1]
    table = re.split(r"^#+ ", section, flags=re.MULTILINE)[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [
        [
            cell.strip().replace(r"\|", "|")
            for cell in re.split(r"(?<!\\)\|", line)[1:-1]
        ]
        for line in lines[1:]
    ]


def _page() -> str:
    return _REFERENCE.read_text()


def test_the_reference_has_every_public_name() -> None:
    for name in privsep.__all__:
        heading = re.search(rf"^## `{name}`$", _page(), re.MULTILINE)
        assert heading or f"`{name}`" in {row[0] for row in _rows("Errors")}, name


@pytest.mark.parametrize("name", _CALLABLES)
def test_the_reference_has_each_parameter_with_its_type_and_default(name: str) -> None:
    said = [row[:3] for row in _rows(f"`{name}`")]
    signature = inspect.signature(_CALLABLES[name])
    parameters = [each for each in signature.parameters.values() if each.name != "self"]
    assert [row[0] for row in said] == [f"`{each.name}`" for each in parameters]
    for (_, kind, default), parameter in zip(said, parameters, strict=True):
        annotation = str(parameter.annotation).replace("_Unset | ", "")
        assert kind == f"`{annotation}`"
        if parameter.default is parameter.empty:
            assert default == "required"
        elif "_Unset" in str(parameter.annotation):
            assert default == "the context's"
        else:
            assert default.partition(":")[0] == f"`{parameter.default!r}`"


@pytest.mark.parametrize("name", _CALLABLES)
def test_a_docstring_has_each_parameter(name: str) -> None:
    documented = inspect.getdoc(_CALLABLES[name])
    assert documented is not None
    for parameter, *_ in _rows(f"`{name}`"):
        stripped = parameter.strip("`")
        assert re.search(rf"^    {stripped}: ", documented, re.MULTILINE), stripped


def test_the_reference_has_each_error_with_its_base() -> None:
    said = {row[0]: row[1] for row in _rows("Errors")}
    assert said == {
        f"`{error.__name__}`": f"`{error.__bases__[-1].__name__}`" for error in _ERRORS
    }


def test_the_reference_has_each_field_of_the_status() -> None:
    names = [
        name.strip("` ") for row in _rows("`status`") for name in row[0].split(",")
    ]
    assert names == [field.name for field in dataclasses.fields(DaemonStatus)]


# -- sudo.md -------------------------------------------------------------------

_SUDO = _ROOT / "docs" / "sudo.md"


def _shown(mark: str) -> str:
    """Return the text of the page's first block that has this mark."""
    pattern = rf"^```{mark}\n(.+?)^```$"
    match = re.search(pattern, _SUDO.read_text(), re.DOTALL | re.MULTILINE)
    assert match is not None
    return match[1]


@contextmanager
def _installed(document: Path, python: PublicPython) -> Generator[None]:
    """Install the module `network` of a document where `python` imports it."""
    (code,) = (
        block.code for block in _blocks_of(document) if block.module == "network"
    )
    packages = next((python.prefix / "lib").glob("python*/site-packages"))
    module = packages / "network.py"
    module.write_text(code)
    try:
        yield
    finally:
        module.unlink()


@pytest.mark.parametrize(
    ("mark", "helper"), [("sudoers", ["sudo", "-n"]), ("doas", ["doas", "-n"])]
)
def test_the_rule_in_sudo_md_lets_the_service_of_the_readme_start(
    mark: str,
    helper: list[str],
    request: pytest.FixtureRequest,
    public_python: PublicPython,
    unprivileged_user: str,
) -> None:
    allow = request.getfixturevalue(f"{mark}_rule")
    allow("network:context")
    place = {"sudoers": f"/etc/sudoers.d/{unprivileged_user}", "doas": "/etc/doas.conf"}
    rule = _shown(mark).replace("/opt/my-service", str(public_python.prefix))
    rule = rule.replace("my-service ", f"{unprivileged_user} ")
    assert rule == Path(place[mark]).read_text()
    with _installed(_ROOT / "README.md", public_python):
        lines = public_python.run(
            f"""
            import network
            network.context.start("sudo", helper={helper})
            network.bring_up("lo")
            print(network.context.status().method)
            network.context.stop()
            """,
            user=unprivileged_user,
        )
    assert lines == ["sudo"]


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_the_unit_in_sudo_md_gives_a_service_enough_to_start_its_daemon_and_drop(
    public_python: PublicPython, unprivileged_user: str
) -> None:
    unit = dict(line.split("=", 1) for line in _shown("ini").splitlines()[1:])
    names = unit["AmbientCapabilities"].split()
    assert unit["CapabilityBoundingSet"].split() == names
    assert unit["NoNewPrivileges"] == "yes"
    added = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in names)
    as_systemd_does = [
        *("setpriv", f"--reuid={unprivileged_user}", f"--regid={unprivileged_user}"),
        *("--init-groups", "--no-new-privs", f"--bounding-set=-all,{added}"),
        *(f"--inh-caps={added}", f"--ambient-caps={added}"),
    ]
    with _installed(_SUDO, public_python):
        lines = public_python.run(
            """
            import sys, network, privsep
            network.context.start("exec")
            privsep.drop_privileges(sys.argv[1])
            network.bring_up("lo")
            print(network.context.status().permitted)
            network.context.stop()
            with open("/proc/self/status") as file:
                print({line.split()[1] for line in file if line.startswith("Cap")})
            """,
            unprivileged_user,
            before=as_systemd_does,
        )
    assert lines == [str(1 << 12), "{'0000000000000000'}"]
