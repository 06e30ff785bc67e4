"""A context whose daemon has no privileges, for tests of services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fixtures
from oslo_config import fixture as config

from oslo_privsep import priv_context

if TYPE_CHECKING:
    from collections.abc import Mapping


class UnprivilegedPrivsepFixture(fixtures.Fixture):
    """Starts a context by fork, without capabilities, user or group.

    Args:
        context: the context.
        config_override: options of its section that are to be otherwise.

    """

    def __init__(
        self,
        context: priv_context.PrivContext,
        config_override: Mapping[str, Any] | None = None,
    ) -> None:
        self.context = context
        self.config_override = config_override or {}

    def setUp(self) -> None:
        """Start it; it is stopped at cleanup."""
        super().setUp()
        self.conf = self.useFixture(config.Config()).conf
        unprivileged: dict[str, object] = {
            "capabilities": [],
            "user": None,
            "group": None,
        }
        self.context.conf  # noqa: B018 - registers the options
        for name, value in {**unprivileged, **self.config_override}.items():
            self.conf.set_override(name, value, group=self.context.cfg_section)
        self.addCleanup(self.context.stop)
        self.context.start(method=priv_context.Method.FORK)
