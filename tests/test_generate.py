"""What ``privsep generate`` prints: the tools that read it take it, and it works."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import generated_files
import pytest
from generated_files import files_of, needs, options_of, service_of
from listening import public_path
from public_python import etc_as_it_is, sudoers

if TYPE_CHECKING:
    from collections.abc import Callable

    from public_python import PublicPython

__all__ = ["etc_as_it_is", "public_path"]

CONTEXTS = ("plain", "network", "writer", "own_user", "mighty", "private", "boxed")

START_AND_CALL = """
    import json, sys, generated
    generated.network.start("sudo", helper=json.loads(sys.argv[1]))
    print(generated.echo("value"), generated.network.status().permitted)
    generated.network.stop()
"""
CALLED = [f"value {1 << 12}"]


@pytest.fixture
def generate(
    public_python: PublicPython, unprivileged_user: str
) -> Callable[[str, str], str]:
    """Return a function that has what is printed for a context."""

    def run(kind: str, name: str) -> str:
        variable = f"generated:{name}"
        return generated_files.generate(
            public_python, kind, variable, unprivileged_user
        )

    return run


# -- sudoers, doas, rootwrap ------------------------------------------------------


@needs("visudo")
@pytest.mark.parametrize("name", CONTEXTS)
def test_visudo_takes_what_is_generated_for_sudoers(
    generate: Callable[[str, str], str], name: str, tmp_path: Path
) -> None:
    file = tmp_path / "sudoers"
    file.write_text(generate("sudoers", name))
    subprocess.run(["visudo", "-c", "-f", file], check=True, capture_output=True)


@needs("sudo")
@pytest.mark.usefixtures("etc_as_it_is")
def test_what_is_generated_for_sudoers_lets_the_user_start_that_daemon_only(
    generate: Callable[[str, str], str],
    public_python: PublicPython,
    unprivileged_user: str,
) -> None:
    rule = generate("sudoers", "network").splitlines()
    with sudoers(unprivileged_user, *rule):
        lines = public_python.run(
            START_AND_CALL, '["sudo", "-n"]', user=unprivileged_user
        )
        assert lines == CALLED
        listed = subprocess.run(
            ["sudo", "-l", "-U", unprivileged_user],
            capture_output=True,
            text=True,
            check=True,
        )
        assert listed.stdout.count("NOPASSWD:") == 1


@needs("doas")
@pytest.mark.parametrize("name", CONTEXTS)
def test_doas_takes_what_is_generated_for_it(
    generate: Callable[[str, str], str],
    public_python: PublicPython,
    unprivileged_user: str,
    name: str,
    public_path: Path,
) -> None:
    file = public_path / "doas.conf"
    file.write_text(generate("doas", name))
    words = [public_python.launcher, f"generated:{name}"]
    for expected, asked in (
        ("permit nopass", words),
        ("deny", [words[0], "generated:other"]),
        ("deny", [*words, "more"]),
        ("deny", ["/bin/true"]),
    ):
        # As the user, since doas -C asks for whom it runs.
        answer = subprocess.run(
            ["doas", "-C", file, *asked],
            capture_output=True,
            text=True,
            check=False,
            user=unprivileged_user,
            extra_groups=[],
        )
        assert answer.stdout.strip() == expected, answer


@pytest.mark.usefixtures("etc_as_it_is")
def test_what_is_generated_for_rootwrap_lets_that_daemon_start_and_no_other(
    generate: Callable[[str, str], str], public_python: PublicPython, public_path: Path
) -> None:
    filters = public_path / "filters.d"
    filters.mkdir()
    (filters / "privsep.filters").write_text(generate("rootwrap-filter", "network"))
    policy = public_path / "rootwrap.conf"
    policy.write_text(f"[DEFAULT]\nfilters_path={filters}\nexec_dirs=/usr/bin\n")
    rootwrap = [public_python.executable, "-I", "-m", "privsep.rootwrap", str(policy)]
    assert public_python.run(START_AND_CALL, json.dumps(rootwrap)) == CALLED
    other = [*rootwrap, public_python.launcher, "generated:plain"]
    refused = subprocess.run(other, capture_output=True, text=True, check=False)
    assert refused.returncode == 99
    assert "generated:plain" in refused.stderr


# -- systemd ----------------------------------------------------------------------


@pytest.fixture
def units(
    generate: Callable[[str, str], str], public_path: Path
) -> Callable[[str], Path]:
    """Return a function that writes the units of a context, and has the service's."""

    def write(name: str) -> Path:
        for path, text in files_of(generate("systemd", name)).items():
            (public_path / Path(path).name).write_text(text)
        return public_path / f"privsep-generated-{name}.service"

    return write


@needs("systemd-analyze")
@pytest.mark.parametrize("name", CONTEXTS)
def test_systemd_takes_the_units_and_finds_nothing_to_say(
    units: Callable[[str], Path], name: str
) -> None:
    service = units(name)
    done = subprocess.run(
        ["systemd-analyze", "verify", service, service.with_suffix(".socket")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


_NEEDS_NONE = re.compile(r"\[\w+\]|Description=|$")


@pytest.mark.parametrize("kind", ["sudoers", "systemd", "rootwrap-filter", "doas"])
@pytest.mark.parametrize("name", CONTEXTS)
def test_each_line_has_its_reason_above(
    generate: Callable[[str, str], str], kind: str, name: str
) -> None:
    lines = generate(kind, name).splitlines()
    for above, line in zip(["", *lines], lines, strict=False):
        if not line.startswith("#") and not _NEEDS_NONE.match(line):
            assert above.startswith("# "), line


def test_a_unit_grants_what_its_context_declares_and_no_more(
    generate: Callable[[str, str], str], unprivileged_user: str
) -> None:
    found = {
        name: options_of(
            files_of(generate("systemd", name))[service_of(f"generated:{name}")]
        )
        for name in CONTEXTS
    }
    plain, network, writer = (found[name] for name in CONTEXTS[:3])
    assert plain["CapabilityBoundingSet"] == ""
    assert "AmbientCapabilities" not in plain
    assert network["CapabilityBoundingSet"] == "CAP_NET_ADMIN"
    assert network["AmbientCapabilities"] == "CAP_NET_ADMIN"
    assert plain["DynamicUser"] == "yes"
    assert plain["TimeoutStopSec"] == "15"
    assert network["TimeoutStopSec"] == "3610"
    assert writer["TimeoutStopSec"] == "70"
    assert writer["ReadWritePaths"] == r'"/etc/a b%%\"\\$c"'
    assert writer["ProtectHome"] == "tmpfs"
    assert "/home/x" in writer["BindReadOnlyPaths"].split()
    assert writer["PrivateNetwork"] == "yes"
    assert "PrivateNetwork" not in network
    own_user = found["own_user"]
    assert own_user["User"] == "daemon"
    assert "DynamicUser" not in own_user
    assert own_user["ReadWritePaths"] == "/ /var/log/my-service"
    # Its sandbox lets it signal nobody outside, whatever CAP_KILL would.
    assert own_user["ProtectProc"] == "invisible"
    assert "ProtectClock" not in own_user
    assert own_user["SystemCallFilter"].endswith(" @clock ~@resources")
    assert "RestrictNamespaces" not in found["mighty"]
    # It would close all devices but the clock's: systemd.exec(5).
    assert "ProtectClock" not in found["mighty"]
    assert "AF_PACKET" in found["mighty"]["RestrictAddressFamilies"]
    # Its sandbox is made with it, and then it is gone.
    assert found["private"]["AmbientCapabilities"] == "CAP_SYS_ADMIN"
    assert found["private"]["RestrictNamespaces"] == "mnt"
    rules = files_of(generate("systemd", "plain"))
    assert (
        f'users = ["{unprivileged_user}"]\n'
        in rules["/etc/privsep/contexts.d/generated:plain.toml"]
    )


# -- what cannot be generated -------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sudoers", "generated:plain"], "say by --user whom the service runs as"),
        (["sudoers", "generated:plain", "--user", "no\nbody"], "there is no user"),
        (["sudoers", "generated:echo", "--user", "root"], "is not a privsep.Context"),
        (["sudoers", "absent:plain", "--user", "root"], "No module named 'absent'"),
    ],
)
def test_what_cannot_be_generated_is_told(
    public_python: PublicPython, unprivileged_user: str, words: list[str], said: str
) -> None:
    done = subprocess.run(
        [public_python.command, "generate", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
