"""What one word of a command may be: a text, or a regular expression for all of it.

Runs in the privileged process.  The module ``re`` takes half as long to load as the
interpreter to start, so it is loaded when a pattern is more than a text, and when the
word begins as the pattern does.
"""

from __future__ import annotations

from privsep.rootwrap.errors import Differs

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    import re

_SPECIAL = frozenset("\\.^$*+?{}[]()|")
_MAY_BE_NONE = frozenset("*?{")  # what these follow need not be there


class BadPattern(Exception):
    """A regular expression that cannot be compiled."""


class Exactly:
    """The word is this text."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def accept(self, word: str, held: list[int]) -> str:
        """Return the word to run.

        Args:
            word: what the command has.
            held: takes the descriptors that the returned word refers to.

        Raises:
            Differs: the word is not allowed.

        """
        del held
        if word != self.text:
            raise Differs(f"{word!r} is not {self.text!r}")
        return word

    def __repr__(self) -> str:
        return repr(self.text)


class Anything:
    """The word is any."""

    __slots__ = ()

    def accept(self, word: str, held: list[int]) -> str:
        """Return the word to run; see `Exactly.accept`."""
        del held
        return word

    def __repr__(self) -> str:
        return "any word"


class Pattern:
    """All of the word matches a regular expression, a newline at its end included."""

    __slots__ = ("_compiled", "_prefix", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._prefix = _prefix(text)
        self._compiled: re.Pattern[str] | None = None

    @property
    def literal(self) -> str | None:
        """The only text that it matches, or None if that is not plain to see."""
        return self.text if self._prefix == self.text else None

    def matches(self, word: str) -> bool:
        """Return whether all of `word` matches.

        Raises:
            BadPattern: it is no regular expression.

        """
        if self.literal is not None:
            return word == self.text
        return word.startswith(self._prefix) and (
            self.compiled().fullmatch(word) is not None
        )

    def compiled(self) -> re.Pattern[str]:
        """Return the regular expression.

        Raises:
            BadPattern: it is none.

        """
        if self._compiled is None:
            import re  # noqa: PLC0415 - see above

            try:
                self._compiled = re.compile(self.text)
            except (re.error, OverflowError, RecursionError) as error:
                msg = f"{self.text!r} is no regular expression: {error}"
                raise BadPattern(msg) from None
        return self._compiled

    def accept(self, word: str, held: list[int]) -> str:
        """Return the word to run; see `Exactly.accept`."""
        del held
        if not self.matches(word):
            raise Differs(f"{word!r} does not match {self.text!r}")
        return word

    def __repr__(self) -> str:
        return f"/{self.text}/"


def _prefix(text: str) -> str:
    """Return how each word begins that `text` matches."""
    if "|" in text:
        return ""
    for index, character in enumerate(text):
        if character in _SPECIAL:
            end = index - 1 if character in _MAY_BE_NONE else index
            return text[: max(0, end)]
    return text
