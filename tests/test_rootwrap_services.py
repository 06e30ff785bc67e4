"""The filters of services judge as their authors meant: see rootwrap_services.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from rootwrap_services import SERVICES, Row, rows
from wrapping import NO_EXECUTABLE, NOT_ALLOWED, Wrapped

from privsep.rootwrap.judge import judge

if TYPE_CHECKING:
    from privsep.rootwrap import Policy


def _commands(text: str) -> set[str]:
    """Return the commands of filters that are not named by a path."""
    found: set[str] = set()
    for line in text.splitlines():
        kind, _, fields = line.partition(":")[2].strip().partition(",")
        if kind.endswith("Filter") and kind not in ("KillFilter", "ReadFileFilter"):
            words = [field.strip() for field in fields.split(",")]
            if words[0] == "env":
                words = [word for word in words[2:] if "=" not in word]
            found.add(words[0])
    return {each for each in found if "/" not in each} | {"cat", "ping"}


@pytest.fixture(scope="module")
def policies(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Policy]:
    found = {}
    for service, (filters, _) in SERVICES.items():
        wrapped = Wrapped(tmp_path_factory.mktemp(service))
        (wrapped.filters / f"{service}.filters").write_text(filters)
        wrapped.script(*_commands(filters), "privsep-helper")
        found[service] = wrapped.load()
    return found


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.service}: {row.why}")
def test_a_service_may_run_what_its_filters_mean(
    row: Row, policies: dict[str, Policy]
) -> None:
    with judge(row.words, policies[row.service]) as verdict:
        decider = verdict.filter.name if verdict.filter else ""
        outcome = {
            0: f"by {decider}",
            NO_EXECUTABLE: f"no executable for {decider}",
            NOT_ALLOWED: "no",
        }[verdict.status]
        assert outcome == row.outcome, verdict.message
        assert verdict.allowed == bool(verdict.argv)
