"""A call as a test sees it.

Runs in a test's process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Call:
    """One call of an entrypoint, as it was made.

    Calls are equal if they are of the same function with the same arguments.

    Args:
        function: the entrypoint, or its name (module and qualified name).
        args: its arguments.
        kwargs: its keyword arguments.

    Attributes:
        result: what it returned, None if it has not.
        error: what it raised, None if it has not.

    """

    def __init__(
        self, function: Callable[..., object] | str, /, *args: object, **kwargs: object
    ) -> None:
        if not isinstance(function, str):
            function = f"{function.__module__}.{function.__qualname__}"
        self.name = function
        self.args = args
        self.kwargs = kwargs
        self.result: object = None
        self.error: BaseException | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Call):
            return NotImplemented
        return (self.name, self.args, self.kwargs) == (
            other.name,
            other.args,
            other.kwargs,
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        words = [repr(value) for value in self.args]
        words += (f"{name}={value!r}" for name, value in self.kwargs.items())
        return f"{self.name}({', '.join(words)})"
