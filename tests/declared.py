"""Contexts of the tests on declaring, importable by any daemon."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import privsep

if TYPE_CHECKING:
    from collections.abc import Callable

calls: dict[tuple[str, str], Any] = {}

processes = privsep.Context("declared", capabilities=[], timeout=120.0)
threads = privsep.Context(
    "declared threads", capabilities=[], timeout=120.0, isolation="thread"
)
other = privsep.Context("declared other", capabilities=[], timeout=120.0)
_here: dict[str, privsep.Context] = {"processes": processes, "threads": threads}


def plain() -> None:
    """Nothing."""


def sample(first: int, /, second: str = "x", *rest: float, key: bool) -> list[Any]:
    """Return what it is given."""
    return [first, second, rest, key]


sample_entry = other.entrypoint(sample)


def own(value: str) -> list[Any]:
    return [value, os.getpid()]


def call_own(value: str) -> list[Any]:
    """Call every entrypoint of the context that is served here."""
    for name in _here:
        try:
            result, pid = calls[name, "own"](value)
        except privsep.Refused:
            continue
        return [result, pid == os.getpid()]
    raise AssertionError


def call_other() -> object:
    return sample_entry(1, key=True)


def ask_status() -> None:
    processes.status()


def registered_late() -> None:
    """Nothing."""


def register_late() -> None:
    for context in _here.values():
        context.entrypoint(registered_late)


def stars(one: int, two: int = 2, *rest: int, five: int = 5, **more: int) -> list[Any]:
    return [one, two, rest, five, more]


for _name, _context in _here.items():
    _functions: tuple[Callable[..., Any], ...] = (
        own,
        call_own,
        call_other,
        ask_status,
        register_late,
        stars,
    )
    for _function in _functions:
        calls[_name, _function.__name__] = _context.entrypoint(_function)  # pyright: ignore[reportArgumentType] - several


def call_by_name(name: str, entrypoint: str) -> object:
    """Call an entrypoint that this process may not have declared."""
    context = privsep.Context("by name", capabilities=[])
    function = lambda: None  # noqa: E731 - it never runs
    function.__module__, _, function.__qualname__ = entrypoint.rpartition(".")
    stand_in = context.entrypoint(function)
    context.client = _here[name].client
    return stand_in()
