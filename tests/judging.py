"""Says what is made of annotations, in an interpreter of its own.

With "typing" as the first argument that is loaded before; the others are annotations.
It prints what each says of some values, and whether typing is loaded in the end.
"""

from __future__ import annotations

import collections.abc  # noqa: F401 - annotations name it
import enum
import ipaddress
import pathlib
import sys

import privsep
from privsep.errors import PrivsepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from privsep._boundary.parameters import Checker

if sys.argv[1] == "typing":
    import typing  # noqa: F401 - as said


class Color(enum.Enum):
    RED = 1


class Mode(enum.Flag):
    READ = 1
    WRITE = 2


class Plain:
    pass


VALUES: tuple[object, ...] = (
    *(None, True, 1, 1.5, 2j, "a", b"a", bytearray(b"a"), 2, 3, 4),
    *([], [1], ["a"], [None], [[1]], (), (1,), (1, "a"), {1}, frozenset({"a"})),
    *({}, {"a": 1}, {1: "a"}, {"a": [1]}),
    *(pathlib.Path("/"), ipaddress.IPv4Address("127.0.0.1")),
)


def said_of(annotation: object) -> list[str]:
    """Return what a parameter with this annotation does with each value."""
    context = privsep.Context("judging", capabilities=[])

    def function(value):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
        return value

    function.__annotations__["value"] = annotation
    context.entrypoint(function)
    try:
        (entry,) = context.served_table().values()
    except PrivsepError as error:
        return [str(error)]
    return [_outcome(entry.check, value) for value in VALUES]


def _outcome(check: Checker | None, value: object) -> str:
    if check is None:
        return repr(value)
    try:
        args, _, _ = check([value], {})
    except PrivsepError as error:
        return str(error)
    return repr(args)


def _itself(text: str) -> object:
    """Return what `text` says, or it, if it says nothing."""
    try:
        return eval(text)  # noqa: S307 - the test's own
    except Exception:  # noqa: BLE001 - a name that is not there
        return text


for text in sys.argv[2:]:
    print(text, said_of(text))
    print("itself", said_of(_itself(text)))
print("typing" in sys.modules, file=sys.stderr)
