"""Root's word on who may connect to a daemon that listens.

Runs in the privileged process, before lockdown and when it is told to reload.  The file
is /etc/privsep/contexts.d/NAME.toml, of the context's name:

    users = ["my-service", 1001]       # names or uids
    groups = ["netops"]                # a peer's own group, or a supplementary one
    units = ["my-service.service"]     # of systemd

What it lists is checked by who owns it, and every directory on the way to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from privsep._daemon.admission import Admission
from privsep._lockdown.ids import Ids
from privsep.rootwrap import trust

if TYPE_CHECKING:
    from privsep.context import Context

_DIRECTORY = "/etc/privsep/contexts.d"
_OR_NUMBERS = {"users": " or uids", "groups": " or gids", "units": ""}


def read(context: Context) -> Admission:
    """Return who may connect to the daemon of `context`; without a file, root alone.

    Raises:
        OSError: the file is not root's alone, or cannot be read.
        ValueError: it is no TOML, or a value is none of the above.
        LookupError: it names a user or a group that does not exist.

    """
    path = file_of(context)
    try:
        text = trust.read_file(path)
    except FileNotFoundError:
        return Admission()
    import tomllib  # noqa: PLC0415 - only where there is something to read

    try:
        table = tomllib.loads(text.decode())
        users, groups, units = (_words(table, key) for key in _OR_NUMBERS)
    except ValueError as error:
        msg = f"{path}: {error}"
        raise ValueError(msg) from None
    return Admission(
        users=frozenset(_uid(user) for user in users),
        groups=frozenset(_gid(group) for group in groups),
        units=frozenset(str(unit) for unit in units),
    )


def file_of(context: Context) -> str:
    """Return the path of root's file on `context`.

    Raises:
        ValueError: the context's name is no file's.

    """
    if not is_file_name(context.name):
        msg = f"context {context.name!r} can have no file of that name in {_DIRECTORY}"
        raise ValueError(msg)
    return f"{_DIRECTORY}/{context.name}.toml"


def is_file_name(name: str) -> bool:
    """Return whether a context of this name can have files that are named after it."""
    return bool(name) and "/" not in name and "\0" not in name


def _words(table: dict[str, object], key: str) -> list[str | int]:
    words = table.get(key, [])
    if not isinstance(words, list):
        msg = f"{key} is {words!r}; it must be a list"
        raise ValueError(msg)  # noqa: TRY004 - every mistake in the file is one
    for word in words:
        if type(word) is not str and (type(word) is not int or key == "units"):
            msg = f"{key} has {word!r}; it may have names{_OR_NUMBERS[key]}"
            raise ValueError(msg)
    return words


def _uid(user: str | int) -> int:
    uid = user if isinstance(user, int) else Ids.look_up(user, None).uid
    assert uid is not None  # noqa: S101 - a name that is found has one
    return uid


def _gid(group: str | int) -> int:
    gid = Ids.look_up(None, group).gid
    assert gid is not None  # noqa: S101 - as above
    return gid
