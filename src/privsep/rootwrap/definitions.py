"""What a line of a .filters file means.

Runs in the privileged process.  A line is NAME: CLASS, FIELD, FIELD...; a section
[Options NAME] has what the filter's command gives up, which is ours: oslo.rootwrap
reads no other section than [Filters].
"""

from __future__ import annotations

from privsep.rootwrap import ini
from privsep.rootwrap.errors import BadPolicy
from privsep.rootwrap.filters import (
    ANY,
    COMMAND,
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
    from collections.abc import Callable

    from privsep.rootwrap.ini import Field

_OPTIONS = "Options "
_BOOLEANS = {
    **dict.fromkeys(("1", "yes", "true", "on"), True),
    **dict.fromkeys(("0", "no", "false", "off"), False),
}


def parse(path: str, text: str) -> tuple[list[Filter], list[str]]:
    """Return the filters of a file, and what was skipped in it.

    Raises:
        BadPolicy: a line cannot be understood.

    """
    document = ini.parse(path, text)
    filters: dict[str, Filter] = {}
    skipped = []
    for name, field in document.section("Filters").items():
        place = f"{path}:{field.line}"
        kind, *fields = map(str.strip, field.value.split(","))
        if kind not in _CLASSES:
            skipped.append(f"{place}: {name} is skipped: no filter class {kind!r}")
            continue
        try:
            filters[name] = build(kind, fields)
        except ValueError as error:
            raise BadPolicy(place, f"{name}: {error}") from None
        filters[name].name = name
        filters[name].place = place
    for section in document.names():
        if section.startswith(_OPTIONS):
            name = section.removeprefix(_OPTIONS).strip().lower()
            if name not in filters:
                raise BadPolicy(path, f"[{section}] is for no filter of this file")
            filters[name].options = options(path, document.section(section))
    return list(filters.values()), skipped


def build(kind: str, fields: list[str]) -> Filter:
    """Return the filter that the words of a line make.

    Args:
        kind: its class.
        fields: what follows the class.

    Raises:
        KeyError: there is no such class.
        ValueError: they are not what the class takes.

    """
    least, make = _CLASSES[kind]
    if len(fields) < least or not all(fields[:least]):
        msg = f"{kind} has {len(fields)} fields, and needs {least} or more"
        raise ValueError(msg)
    made = make(fields)
    made.kind = kind
    return made


def options(path: str, fields: dict[str, Field]) -> Options:
    """Return what commands give up: no_new_privs, capabilities, timeout.

    Raises:
        BadPolicy: a value is none.

    """
    result = Options()
    if "no_new_privs" in fields:
        result.no_new_privs = boolean(path, "no_new_privs", fields["no_new_privs"])
    if "capabilities" in fields:
        result.capabilities = _capabilities(path, fields["capabilities"])
    if "timeout" in fields:
        result.timeout = _seconds(path, fields["timeout"])
    return result


def boolean(path: str, name: str, field: Field) -> bool:
    """Return whether a value says yes.

    Raises:
        BadPolicy: it says neither yes nor no.

    """
    if field.value.lower() not in _BOOLEANS:
        msg = f"{name} is {field.value!r}, which is neither true nor false"
        raise BadPolicy(f"{path}:{field.line}", msg)
    return _BOOLEANS[field.value.lower()]


def _capabilities(path: str, field: Field) -> int:
    from privsep._lockdown import capability_names  # noqa: PLC0415 - only if asked for

    names = [name.strip() for name in field.value.split(",") if name.strip()]
    try:
        return capability_names.mask(map(capability_names.number, names))
    except ValueError as error:
        raise BadPolicy(f"{path}:{field.line}", str(error)) from None


def _seconds(path: str, field: Field) -> float:
    try:
        seconds = float(field.value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < _MOST_SECONDS:
        msg = f"timeout is {field.value!r}, and no number of seconds above 0"
        raise BadPolicy(f"{path}:{field.line}", msg)
    return seconds


_MOST_SECONDS = 1e9


def _command(fields: list[str]) -> Filter:
    return WordsFilter(fields[0], fields[1], rest=ANY)


def _regular_expressions(fields: list[str]) -> Filter:
    command, run_as, first, *patterns = fields
    words = [Pattern(text) for text in patterns]
    return WordsFilter(command, run_as, first=Pattern(first), words=words)


def _chain(fields: list[str]) -> Filter:
    command, run_as, first, *patterns = fields
    words = [Pattern(text) for text in patterns]
    return WordsFilter(command, run_as, first=Pattern(first), words=words, rest=COMMAND)


def _empty_chain(fields: list[str]) -> Filter:
    """Return a filter that allows nothing: it names no word before the command."""
    return WordsFilter(fields[0], fields[1], first=Pattern("(?!)"), rest=COMMAND)


def _path(fields: list[str]) -> Filter:
    from privsep.rootwrap.beneath import ACT_ON_NAMES, Beneath  # noqa: PLC0415 - 0.2 ms

    command, run_as, *texts = fields
    acts_on_name = base_name(command) in ACT_ON_NAMES
    words = [
        Anything()
        if text == "pass"
        else Beneath(text, acts_on_name=acts_on_name)
        if text.startswith("/")
        else Exactly(text)
        for text in texts
    ]
    return WordsFilter(command, run_as, words=words)


def _environment(fields: list[str]) -> Filter:
    """NAMEs end in ``=``; what stands behind it says nothing.

    The command follows them; where none does, it is the first field.  Of the words
    behind it only the number counts.
    """
    command, run_as, *words = fields
    count = next(
        (index for index, word in enumerate(words) if "=" not in word), len(words)
    )
    names = [word.partition("=")[0] for word in words[:count]]
    if not all(names):
        raise ValueError("a variable has no name")
    if not names:
        raise ValueError("it names no variable, as NAME=")
    rest = words[count:]
    if base_name(command) == "env" and not rest:
        raise ValueError("it names no command after its variables")
    return WordsFilter(
        rest[0] if rest else command,
        run_as,
        words=[Anything() for _ in rest[1:]],
        rest=ANY,
        variables={name: Anything() for name in names},
    )


def _file(fields: list[str]) -> Filter:
    from privsep.rootwrap.beneath import File  # noqa: PLC0415 - as above

    return WordsFilter("cat", "root", words=[File(fields[0])])


def _kill(fields: list[str]) -> Filter:
    run_as, program, *signals = fields
    for word in signals:
        if not word.startswith("-"):
            raise ValueError(f"the signal {word!r} does not begin with -")
    return KillFilter(run_as, program, signals)


#: The least number of fields after the class, and what makes the filter of them.
_CLASSES: dict[str, tuple[int, Callable[[list[str]], Filter]]] = {
    "CommandFilter": (2, _command),
    "RegExpFilter": (3, _regular_expressions),
    "PathFilter": (3, _path),
    "EnvFilter": (3, _environment),
    "ReadFileFilter": (1, _file),
    "KillFilter": (2, _kill),
    "IpFilter": (2, lambda fields: IpFilter(fields[0], fields[1])),
    "IpNetnsExecFilter": (2, lambda fields: IpNetnsExecFilter(fields[0], fields[1])),
    "ChainingFilter": (2, _empty_chain),
    "ChainingRegExpFilter": (3, _chain),
}
