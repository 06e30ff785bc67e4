"""The arguments of a call as short text, without secrets.

Runs in a worker, on what a client sent.  A secret is what a parameter takes whose
name says so: the same in every call, and nothing that a client could choose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from privsep._boundary.callables import innermost
from privsep._daemon.audit.messages import TEXT_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Mapping

_PLAIN = frozenset({bool, type(None), float})
_NUMBERS = _PLAIN | {int}
_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("{", "}"),
}
_MOST_ITEMS = 8
_LONGEST_STR = 64
_LARGEST_INT = 1 << 64
_SECRET = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "private_key",
    "api_key",
)


def secret_places(function: Callable[..., object]) -> frozenset[int]:
    """Return which arguments of a function are secrets, by their places."""
    found = innermost(function)
    if found is None:  # what is written in C
        return frozenset()
    inner, given = found
    names = inner.__code__.co_varnames[given : inner.__code__.co_argcount]
    return frozenset(place for place, name in enumerate(names) if _is_secret(name))


def _is_secret(name: str) -> bool:
    lower = name.lower()
    return any(word in lower for word in _SECRET)


def summary(
    args: list[object], kwargs: Mapping[str, object], secret: Container[int] = ()
) -> bytes:
    """Return the arguments as one line of at most TEXT_SIZE bytes.

    Args:
        args: by place.
        kwargs: by name.
        secret: places of which only that they are taken is shown.

    """
    if (
        not (secret or kwargs)
        and len(args) <= _MOST_ITEMS
        and _NUMBERS.issuperset(map(type, args))
    ):
        try:
            text = repr(args)[1:-1].encode()  # what follows below, sooner
        except ValueError:  # a number too long for it
            pass
        else:
            if len(text) <= TEXT_SIZE:
                return text
    parts = [
        "<secret>" if place in secret else _shown(value, 0)
        for place, value in enumerate(args[:_MOST_ITEMS])
    ]
    if len(args) > _MOST_ITEMS:
        parts.append("...")
    if kwargs:
        parts += [
            f"{_shown_name(name)}="
            + ("<secret>" if _is_secret(name) else _shown(kwargs[name], 0))
            for name in list(kwargs)[:_MOST_ITEMS]
        ]
        if len(kwargs) > _MOST_ITEMS:
            parts.append("...")
    text = ", ".join(parts).encode("utf-8", "backslashreplace")
    return text if len(text) <= TEXT_SIZE else text[: TEXT_SIZE - 3] + b"..."


def _shown(value: object, depth: int) -> str:
    """Return one value as text."""
    kind = type(value)
    if isinstance(value, int) and kind is int:
        return repr(value) if -_LARGEST_INT < value < _LARGEST_INT else "<int>"
    if isinstance(value, str):
        return _shown_str(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return _shown_items(value, kind, depth)
    if kind in _PLAIN:
        return repr(value)
    if isinstance(value, (bytes, bytearray, dict)):
        return f"<{kind.__name__} of {len(value)}>"
    return f"<{kind.__name__}>"


def _shown_str(value: str) -> str:
    if len(value) <= _LONGEST_STR:
        return repr(value)
    return f"{value[:_LONGEST_STR]!r}..."


def _shown_name(name: str) -> str:
    """Return a keyword: what is no name must not look like a list of several."""
    return name[:_LONGEST_STR] if name.isidentifier() else _shown_str(name)


def _shown_items(value: Collection[object], kind: type, depth: int) -> str:
    """Return the items of the outermost containers; of others the number."""
    if depth or len(value) > _MOST_ITEMS:
        return f"<{kind.__name__} of {len(value)}>"
    begin, end = _BRACKETS[kind]
    return begin + ", ".join(_shown(item, depth + 1) for item in value) + end
