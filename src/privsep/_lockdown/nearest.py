"""The nearest of the names that exist, for the message about one that does not.

Runs in both processes, and only where there is a mistake to explain.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Return which of `known` is most like `name`."""
    return get_close_matches(name, sorted(known), n=1, cutoff=0.0)[0]


def nearest_path(path: str) -> str:
    """Return what is there: a path like `path`, or the directory nearest to it."""
    directory, name = os.path.split(os.path.normpath(path))
    while not os.path.isdir(directory):
        directory, name = os.path.split(directory)
    return os.path.join(directory, *get_close_matches(name, os.listdir(directory), n=1))
