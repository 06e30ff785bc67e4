"""The INI form of rootwrap.conf and of .filters files, as RawConfigParser reads it.

Runs in the privileged process.  Read by hand, because configparser takes longer to
load than the interpreter takes to start, and knows no line numbers once it has read.
What it does is kept: the first ``=`` or ``:`` ends a name, names are lower case,
deeper lines continue a value, lines that begin with ``#`` or ``;`` are comments and
the same within a line is not, a later name replaces an earlier one in its place,
and the section DEFAULT is part of every other.
"""

from __future__ import annotations

from privsep.rootwrap.errors import BadPolicy

_COMMENT = ("#", ";")
_COMMON = "DEFAULT"


class Field:
    """A value, and the line on which it begins."""

    __slots__ = ("line", "value")

    def __init__(self, value: str, line: int) -> None:
        self.value = value
        self.line = line


class Document:
    """An INI file that has been read."""

    def __init__(self, path: str, sections: dict[str, dict[str, Field]]) -> None:
        self.path = path
        self._sections = sections

    def names(self) -> list[str]:
        """Return the names of the sections but DEFAULT, in their order."""
        return [name for name in self._sections if name != _COMMON]

    def section(self, name: str) -> dict[str, Field]:
        """Return the fields of a section, with those of DEFAULT before them.

        Raises:
            BadPolicy: there is no such section.

        """
        if name not in self._sections and name != _COMMON:
            raise BadPolicy(self.path, f"it has no section [{name}]")
        return self._sections.get(_COMMON, {}) | self._sections.get(name, {})


def parse(path: str, text: str) -> Document:
    """Read the text of the file `path`.

    Raises:
        BadPolicy: a line is neither a section nor a field, or stands in no section.

    """
    sections: dict[str, dict[str, Field]] = {}
    section: dict[str, Field] | None = None
    field: Field | None = None
    indentation = 0
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        content = line.strip()
        if content.startswith(_COMMENT):
            continue
        if not content:
            if field is not None:
                field.value += "\n"
            continue
        depth = len(line) - len(line.lstrip())
        if field is not None and depth > indentation:
            field.value += "\n" + content
            continue
        indentation = depth
        end = content.rfind("]")
        if content[0] == "[" and end > 1:
            section = sections.setdefault(content[1:end], {})
            field = None
        elif section is None:
            raise BadPolicy(
                f"{path}:{number}", f"{content!r} stands before any [section]"
            )
        else:
            name, field = _field(path, number, content)
            section[name] = field
    for fields in sections.values():
        for each in fields.values():
            each.value = each.value.rstrip()
    return Document(path, sections)


def _field(path: str, number: int, content: str) -> tuple[str, Field]:
    ends = [end for end in (content.find("="), content.find(":")) if end >= 0]
    name = content[: min(ends)].rstrip().lower() if ends else ""
    if not name:
        raise BadPolicy(f"{path}:{number}", f"{content!r} is not NAME = VALUE")
    return name, Field(content[min(ends) + 1 :].strip(), number)
