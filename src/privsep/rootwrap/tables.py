"""The TOML form of a policy: one table for each command that is allowed.

Runs in the privileged process, where a policy has such a file.
"""

from __future__ import annotations

import tomllib

from privsep._lockdown import capability_names
from privsep.rootwrap.beneath import ACT_ON_NAMES, Beneath, File
from privsep.rootwrap.errors import BadPolicy
from privsep.rootwrap.filters import (
    ANY,
    COMMAND,
    NONE,
    Filter,
    IpFilter,
    IpNetnsExecFilter,
    KillFilter,
    Options,
    WordsFilter,
    base_name,
)
from privsep.rootwrap.patterns import Anything, Exactly, Pattern

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import Mapping

    from privsep.rootwrap.filters import Word

_TABLE = "allow"
_GRAMMARS = {"ip": IpFilter, "ip netns exec": IpNetnsExecFilter}


def parse(path: str, text: str) -> list[Filter]:
    """Return the filters of a file.

    Raises:
        BadPolicy: it is no TOML, or a table cannot be understood.

    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadPolicy(path, f"it is no TOML: {error}") from None
    tables = document.pop(_TABLE, [])
    if document or not isinstance(tables, list):
        raise BadPolicy(path, f"it holds other things than [[{_TABLE}]] tables")
    headers = [
        number
        for number, line in enumerate(text.split("\n"), 1)
        if line.replace(" ", "").startswith(f"[[{_TABLE}]]")
    ]
    filters = []
    for index, table in enumerate(tables):
        # An array of inline tables has no headers.
        place = f"{path}:{headers[index]}" if len(headers) == len(tables) else path
        try:
            filters.append(_filter(_Table(table)))
        except ValueError as error:
            raise BadPolicy(place, str(error)) from None
        filters[-1].place = place
    return filters


class _Table:
    """A table, from which each key is taken once; what is left is not known."""

    def __init__(self, table: object) -> None:
        if not isinstance(table, dict):
            raise ValueError(f"[[{_TABLE}]] is no table")  # noqa: TRY004 - see parse
        self._table = dict(table)

    def __contains__(self, key: str) -> bool:
        return key in self._table

    def take(self, key: str) -> object:
        """Return a value, or None if there is none."""
        return self._table.pop(key, None)

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text that has to be there, if there is no default."""
        value = self._table.pop(key, default)
        if not isinstance(value, str) or not value:
            raise ValueError(f"{key} must be a text, and is {value!r}")
        return value

    def texts(self, key: str) -> list[str]:
        """Return a list of texts; an empty one if there is none."""
        value = self._table.pop(key, [])
        if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
            raise ValueError(f"{key} must be a list of texts, and is {value!r}")
        return value

    def table(self, key: str) -> dict[str, object]:
        """Return a table; an empty one if there is none."""
        value = self._table.pop(key, {})
        if not isinstance(value, dict):
            raise ValueError(f"{key} must be a table, and is {value!r}")  # noqa: TRY004
        return value

    def end(self) -> None:
        """Refuse what was not taken."""
        if self._table:
            raise ValueError(f"{', '.join(self._table)}: no such key here")


def _filter(table: _Table) -> Filter:
    name = table.text("name", "unnamed")
    options = _options(table)
    run_as = table.text("run_as", "root")
    if "signals" in table or "process" in table:
        kind = "signal"
        found: Filter = _kill(table, run_as)
    elif "grammar" in table:
        kind = "grammar"
        found = _grammar(table, run_as)
    else:
        kind = "command"
        found = _words_filter(table, run_as)
    table.end()
    found.name = base_name(found.command) if name == "unnamed" else name
    found.kind = kind
    found.options = options
    return found


def _options(table: _Table) -> Options:
    no_new_privs = table.take("no_new_privs") or False
    if not isinstance(no_new_privs, bool):
        raise ValueError(f"no_new_privs is {no_new_privs!r}, neither true nor false")  # noqa: TRY004
    capabilities = None
    if "capabilities" in table:
        names = table.texts("capabilities")
        capabilities = capability_names.mask(map(capability_names.number, names))
    timeout = table.take("timeout")
    if timeout is not None and not _is_time(timeout):
        raise ValueError(f"timeout is {timeout!r}, and no number of seconds above 0")
    return Options(
        no_new_privs=no_new_privs,
        capabilities=capabilities,
        timeout=float(timeout) if isinstance(timeout, int | float) else None,
    )


def _is_time(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 < value < 1e9  # noqa: PLR2004
    )


def _kill(table: _Table, run_as: str) -> Filter:
    signals = table.texts("signals")
    if not all(word.startswith("-") for word in signals):
        raise ValueError("each of signals must begin with -")
    return KillFilter(run_as, table.text("process"), signals)


def _grammar(table: _Table, run_as: str) -> Filter:
    grammar = table.text("grammar")
    if grammar not in _GRAMMARS:
        raise ValueError(f"grammar is {grammar!r}, none of {', '.join(_GRAMMARS)}")
    return _GRAMMARS[grammar](table.text("command"), run_as)


def _words_filter(table: _Table, run_as: str) -> Filter:
    command = table.text("command")
    acts_on_name = base_name(command) in ACT_ON_NAMES
    listed = table.take("words")
    if listed is not None and not isinstance(listed, list):
        raise ValueError(f"words must be a list, and is {listed!r}")
    words = [_word(each, acts_on_name=acts_on_name) for each in listed or ()]
    has_options = "options" in table
    named = {
        name: None if value is True else _word(value, acts_on_name=acts_on_name)
        for name, value in table.table("options").items()
    }
    if not all(name.startswith("-") for name in named):
        raise ValueError("each of options must begin with -")
    # As with doas: no list of words, any words.
    rest = table.text("rest", ANY if listed is None and not named else NONE)
    if rest not in (NONE, ANY, COMMAND):
        raise ValueError(f"rest is {rest!r}, none of {NONE}, {ANY}, {COMMAND}")
    if has_options and rest == COMMAND:
        raise ValueError("options cannot be told from those of a command that follows")
    called = table.take("called")
    if called is not None and not isinstance(called, str):
        raise ValueError(f"called must be a pattern, and is {called!r}")
    return WordsFilter(
        command,
        run_as,
        first=None if called is None else Pattern(called),
        words=words,
        named=named if has_options else None,
        rest=rest,
        variables=_variables(table.table("environment")),
    )


def _variables(table: Mapping[str, object]) -> dict[str, Word]:
    if any(not name or "=" in name for name in table):
        raise ValueError("environment has what is no name of a variable")
    return {
        name: Anything() if value is True else _word(value, acts_on_name=False)
        for name, value in table.items()
    }


def _word(value: object, *, acts_on_name: bool) -> Word:
    """Return what a word has to be: a text, or a table of one key."""
    if isinstance(value, str):
        return Exactly(value)
    if isinstance(value, dict) and len(value) == 1:
        ((key, text),) = value.items()
        if key == "any" and text is True:
            return Anything()
        if key == "pattern" and isinstance(text, str):
            return Pattern(text)
        if key == "beneath" and isinstance(text, str) and text.startswith("/"):
            return Beneath(text, acts_on_name=acts_on_name)
        if key == "file" and isinstance(text, str) and text.startswith("/"):
            return File(text, acts_on_name=acts_on_name)
    raise ValueError(
        f"{value!r} is no word: it must be a text, {{pattern = TEXT}}, "
        "{beneath = ABSOLUTE PATH}, {file = ABSOLUTE PATH}, or {any = true}"
    )
