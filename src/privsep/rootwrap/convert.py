"""From the INI form of a policy to TOML, and back where it can: --convert.

Needs no privileges: it reads a file and prints the other form.
"""

from __future__ import annotations

import re
import sys

from privsep._lockdown import capability_names
from privsep.rootwrap import definitions, tables
from privsep.rootwrap.beneath import Beneath, File
from privsep.rootwrap.errors import BadPolicy
from privsep.rootwrap.filters import (
    ANY,
    COMMAND,
    NONE,
    Filter,
    IpFilter,
    IpNetnsExecFilter,
    KillFilter,
    WordsFilter,
    base_name,
)
from privsep.rootwrap.judge import BAD_POLICY
from privsep.rootwrap.patterns import Anything, Exactly, Pattern

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from privsep.rootwrap.filters import Options, Word

_INCOMPLETE = 1
_ANY_WORD = "(?s:.*)"


class CannotConvert(ValueError):
    """The other form has no words for it."""


def convert(path: str) -> int:
    """Print the other form of a file: TOML for .filters, INI for .toml.

    Returns:
        0; 1 if something could not be converted, which is said in comments; 97 if
        the file cannot be understood.

    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        if path.endswith(".toml"):
            filters, skipped = tables.parse(path, text), list[str]()
            lines = to_ini(filters)
        else:
            filters, skipped = definitions.parse(path, text)
            lines = to_toml(filters)
    except (BadPolicy, OSError, UnicodeError) as error:
        print(f"privsep-rootwrap: {error}", file=sys.stderr)  # noqa: T201
        return BAD_POLICY
    lines += [f"# not converted: {text}" for text in skipped]
    print("\n".join(lines))  # noqa: T201
    return _INCOMPLETE if any(line.startswith("# not") for line in lines) else 0


def to_toml(filters: Iterable[Filter]) -> list[str]:
    """Return the lines of a .toml file."""
    return _each(filters, _table)


def to_ini(filters: Iterable[Filter]) -> list[str]:
    """Return the lines of a .filters file."""
    return ["[Filters]", *_each(filters, _fields), *_each(filters, _option_section)]


def _each(
    filters: Iterable[Filter], render: Callable[[Filter], list[str]]
) -> list[str]:
    lines = []
    for each in filters:
        try:
            lines += render(each)
        except CannotConvert as why:
            lines.append(f"# not converted: {each.name} ({each.place}): {why}")
    return lines


def _table(each: Filter) -> list[str]:
    lines = ["[[allow]]", f"name = {_text(each.name)}"]
    if each.run_as != "root":
        lines.append(f"run_as = {_text(each.run_as)}")
    if isinstance(each, KillFilter):
        lines.append(f"signals = [{', '.join(map(_text, each.signals))}]")
        lines.append(f"process = {_text(each.program)}")
    else:
        lines.append(f"command = {_text(each.command)}")
    if isinstance(each, IpFilter):
        lines.append('grammar = "ip"')
    elif isinstance(each, IpNetnsExecFilter):
        lines.append('grammar = "ip netns exec"')
    elif isinstance(each, WordsFilter):
        lines += _words_table(each)
    return [*lines, *_options_table(each.options), ""]


def _words_table(each: WordsFilter) -> list[str]:
    lines = []
    if each.first is not None and each.first.literal != base_name(each.command):
        lines.append(f"called = {_text(each.first.text)}")
    for key, table in (("environment", each.variables), ("options", each.named)):
        if table:
            pairs = [f"{_text(name)} = {_value(word)}" for name, word in table.items()]
            lines.append(f"{key} = {{ {', '.join(pairs)} }}")
    if each.words or each.rest != ANY:
        lines.append(f"words = [{', '.join(map(_value, each.words))}]")
        if each.rest != NONE:
            lines.append(f'rest = "{each.rest}"')
    return lines


def _options_table(options: Options) -> list[str]:
    lines = []
    if options.no_new_privs:
        lines.append("no_new_privs = true")
    if options.capabilities is not None:
        names = ", ".join(map(_text, _capabilities(options.capabilities)))
        lines.append(f"capabilities = [{names}]")
    if options.timeout is not None:
        lines.append(f"timeout = {options.timeout!r}")
    return lines


def _capabilities(bits: int) -> list[str]:
    names = enumerate(capability_names.NAMES)
    return [name for number, name in names if bits >> number & 1]


def _value(word: Word | None) -> str:
    match word:
        case None:
            return "true"
        case Exactly():
            return _text(word.text)
        case Pattern():
            return f"{{ pattern = {_text(word.text)} }}"
        case File():
            return f"{{ file = {_text(word.directory)} }}"
        case Beneath():
            return f"{{ beneath = {_text(word.directory)} }}"
        case Anything():
            return "{ any = true }"


def _text(text: str) -> str:
    """Return a text as TOML writes it."""
    if text.isprintable() and "'" not in text and "\\" in text:
        return f"'{text}'"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", _escape, escaped) + '"'


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _fields(each: Filter) -> list[str]:
    if isinstance(each, KillFilter):
        fields = ["KillFilter", each.run_as, each.program, *each.signals]
    elif isinstance(each, WordsFilter):
        fields = _words_fields(each)
    else:
        fields = [type(each).__name__, each.command, each.run_as]
    name = each.name
    if any(
        "," in field or not field.isprintable() or field != field.strip()
        for field in fields
    ):
        raise CannotConvert("a field has a comma, or space around it")
    if not re.fullmatch(r"[^\s=:#;\[][^=:\n]*(?<!\s)|[^\s=:#;\[]", name):
        raise CannotConvert("its name is none for a .filters file")
    return [f"{name.lower()}: {', '.join(fields)}"]


def _words_fields(each: WordsFilter) -> list[str]:
    if each.named is not None:
        raise CannotConvert("it has named options")
    if each.variables:
        return _environment_fields(each)
    head = [each.command, each.run_as]
    if each.rest == ANY:
        if each.words or each.first is not None:
            raise CannotConvert("it has words, and any that follow them")
        return ["CommandFilter", *head]
    if each.rest == NONE and _is_file(each):
        return [
            "ReadFileFilter",
            *(word.directory for word in each.words if isinstance(word, File)),
        ]
    if any(isinstance(word, Beneath) for word in each.words):
        return ["PathFilter", *head, *_path_fields(each)]
    first = (
        re.escape(base_name(each.command)) if each.first is None else each.first.text
    )
    patterns = [first, *map(_pattern, each.words)]
    kind = "ChainingRegExpFilter" if each.rest == COMMAND else "RegExpFilter"
    return [kind, *head, *patterns]


def _environment_fields(each: WordsFilter) -> list[str]:
    words = (*each.variables.values(), *each.words)
    if each.rest != ANY or not all(isinstance(word, Anything) for word in words):
        raise CannotConvert("an EnvFilter says nothing of values and words")
    names = [f"{name}=" for name in each.variables]
    return [
        "EnvFilter",
        "env",
        each.run_as,
        *names,
        each.command,
        *("any" for _ in each.words),
    ]


def _is_file(each: WordsFilter) -> bool:
    return (
        (each.command, each.run_as) == ("cat", "root")
        and len(each.words) == 1
        and isinstance(each.words[0], File)
    )


def _path_fields(each: WordsFilter) -> Sequence[str]:
    if each.rest != NONE or each.first is not None:
        raise CannotConvert("a PathFilter has a fixed number of words")
    fields = []
    for word in each.words:
        if isinstance(word, Anything):
            fields.append("pass")
        elif isinstance(word, Exactly) and word.text != "pass" and word.text[:1] != "/":
            fields.append(word.text)
        elif isinstance(word, Beneath) and not isinstance(word, File):
            fields.append(word.directory)
        else:
            raise CannotConvert(f"a PathFilter has no word like {word!r}")
    return fields


def _pattern(word: Word) -> str:
    if isinstance(word, Exactly):
        return re.escape(word.text)
    if isinstance(word, Pattern):
        return word.text
    return _ANY_WORD


def _option_section(each: Filter) -> list[str]:
    options = each.options
    lines = []
    if options.no_new_privs:
        lines.append("no_new_privs = true")
    if options.capabilities is not None:
        lines.append(f"capabilities = {', '.join(_capabilities(options.capabilities))}")
    if options.timeout is not None:
        lines.append(f"timeout = {options.timeout!r}")
    return ["", f"[Options {each.name.lower()}]", *lines] if lines else []
