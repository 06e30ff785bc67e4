"""Entrypoints that take secrets, importable by any daemon."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec

    import privsep

    P = ParamSpec("P")


def log_in(user: str, password: str, *, api_key: str = "") -> None:
    """Take two secrets; the second by name alone."""


def _traced(function: Callable[P, None]) -> Callable[P, None]:
    @functools.wraps(function)
    def traced(*args: P.args, **kwargs: P.kwargs) -> None:
        function(*args, **kwargs)

    return traced


@_traced
def renew(number: int, SessionToken: str) -> None:  # noqa: N803 - of any case
    """Take a secret, by a decorator that takes anything."""


class _Store:
    def keep(self, secret: int, name: str) -> None:
        """Take a secret first."""

    @_traced
    def replace(self, number: int, token: str) -> None:
        """Take a secret last, by a decorator that takes anything."""


store = _Store()


class Secretive:
    """The entrypoints of a context, as attributes."""

    def __init__(self, context: privsep.Context) -> None:
        for function in (log_in, renew, _Store.keep, _Store.replace):
            function.__module__ = "service.secretive"  # below the contexts' prefix
        self.log_in = context.entrypoint(log_in)
        self.renew = context.entrypoint(renew)
        self.keep = context.entrypoint(store.keep)
        self.replace = context.entrypoint(store.replace)
