"""Tests of services that use privsep: a pytest plugin.

Runs in a test's process.  pytest loads this by itself (the entry point of group
``pytest11``), and nothing else does: privsep does not need pytest.  What a daemon of
a test runs is in `privsep._testing.faults`.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal, cast, get_args

import pytest

from privsep._testing.call import Call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Self

    from privsep.context import Context

__all__ = ["Call", "Daemon", "Mode"]

Mode = Literal["in-process", "fork", "userns"]
_When = Literal["before", "during", "after"]
_MODES: tuple[str, ...] = get_args(Mode)


class Daemon:
    """The daemon of a context in a test, while this is entered.

    It starts when the service starts it, or with the first call.

    Args:
        context: the context, which may be started already: it is another daemon.
        mode: how it runs, however the service starts it.  "in-process": as threads of
            this process; "fork": a child of it; "userns": in a user namespace.

    Raises:
        ValueError: no such mode.

    """

    def __init__(self, context: Context, mode: Mode = "in-process") -> None:
        if mode not in _MODES:
            msg = f"mode is {mode!r}; it may be {', '.join(_MODES)}"
            raise ValueError(msg)
        from privsep._testing.client import RecordingClient  # noqa: PLC0415 - if used

        self._context = context
        self._client = RecordingClient(context, mode)

    def __enter__(self) -> Self:
        """Have the context's calls come here."""
        self._before = self._context.client
        self._context.client = self._client
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the daemon."""
        self._context.client = self._before
        self._client.stop()

    @property
    def calls(self) -> list[Call]:
        """The calls that were made, in the order in which they began."""
        return self._client.calls

    def dies(
        self,
        *,
        before: int | None = None,
        during: int | None = None,
        after: int | None = None,
    ) -> None:
        """Have the daemon die with a call of those in `calls`; 1 is the first.

        Args:
            before: it is dead when this call is made.
            during: it dies when the first line of this call's function has run.
            after: it dies when this call's function has ended, and takes what that
                returned along.

        Raises:
            ValueError: none of them, or more than one; or the call has been made.

        """
        asked: dict[_When, int | None]
        asked = {"before": before, "during": during, "after": after}
        given: list[_When] = [when for when in asked if asked[when] is not None]
        if len(given) != 1:
            msg = f"one of {', '.join(asked)} says when, and not {len(given)}"
            raise ValueError(msg)
        (when,) = given
        number = asked[when] or 0
        if number <= len(self.calls):
            msg = f"{when}={number}: {len(self.calls)} calls have been made already"
            raise ValueError(msg)
        self._client.faults[number] = when


# -- the plugin --------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that says how daemons run."""
    parser.getgroup("privsep").addoption(
        "--privsep",
        choices=_MODES,
        default="in-process",
        metavar="MODE",
        help=f"how daemons of tests run: {', '.join(_MODES)} (default: %(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line(
        "markers", "privsep(mode): how the test's daemons run, whatever --privsep says"
    )


@pytest.fixture
def privsep_daemon(request: pytest.FixtureRequest) -> Iterator[Callable[..., Daemon]]:
    """Return a function that gives a context a daemon for this test: a `Daemon`."""
    mode = cast("Mode", request.config.getoption("privsep"))
    mark = request.node.get_closest_marker("privsep")
    if mark is not None:
        mode = cast("Mode", mark.args[0] if mark.args else None)
    with ExitStack() as stack:

        def start(context: Context) -> Daemon:
            return stack.enter_context(Daemon(context, mode))

        yield start
