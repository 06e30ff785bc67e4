"""What root says of a context: ``/etc/privsep/contexts.d/MODULE:CONTEXT.toml``.

Runs in the privileged process, before anything of the context is loaded.  The file's
name is the name that the caller gives, so that no other file is read, and none may
speak of the same context.  Most contexts have none, and pay one look for it.
"""

from __future__ import annotations

from privsep._start import trust
from privsep.errors import StartError

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable

DIRECTORY = "/etc/privsep/contexts.d"
DEADLINE = 10.0
_LONGEST_NAME = 240  # with .toml and letters of one byte, what a file system takes
_LONGEST_DEADLINE = 3600.0


class Rules:
    """What root's file says; without a file, what is written here.

    Attributes:
        path: the file, be it there or not.
        is_there: whether it is.
        users: uids of those who may start the context, or connect to its daemon.
        groups: gids of those who may, too; where `users` and `groups` are None,
            whoever is let through (by sudoers) may start it.
        units: systemd units whose processes may connect.
        owners: uids whose files are trusted as root's are.
        capabilities: bit mask of those that the context may have; None: all.
        deadline: seconds that a start may take.

    """

    is_there = False
    users: frozenset[int] | None = None
    groups: frozenset[int] | None = None
    units: frozenset[str] = frozenset()
    owners: frozenset[int] = frozenset()
    capabilities: int | None = None
    deadline: float = DEADLINE

    def __init__(self, path: str) -> None:
        self.path = path

    def may_start(self, uid: int, gids: frozenset[int]) -> bool:
        """Return whether a process with these ids may start the context."""
        if uid == 0 or self.users is None is self.groups:
            return True
        return uid in (self.users or ()) or not gids.isdisjoint(self.groups or ())

    def check_capabilities(self, variable: str, asked: int) -> None:
        """Refuse more capabilities than the context may have.

        Args:
            variable: the context's name.
            asked: bit mask of those that it asks for.

        Raises:
            StartError: it asks for more.

        """
        more = 0 if self.capabilities is None else asked & ~self.capabilities
        if more:
            from privsep._lockdown import capability_names  # noqa: PLC0415 - see below

            msg = (
                f"{variable} asks for {capability_names.describe(more)}, which "
                f"capabilities in {self.path} does not have"
            )
            raise StartError(msg)


def path_of(variable: str) -> str:
    """Return the path of the file for a context, be it there or not.

    Args:
        variable: ``MODULE:CONTEXT``.

    Raises:
        StartError: that is no name of a context.

    """
    module, _, name = variable.partition(":")
    words = *module.split("."), name
    if len(variable) > _LONGEST_NAME or not all(map(str.isidentifier, words)):
        msg = f"{variable[:200]!r} is no name of a context: write MODULE:CONTEXT"
        raise StartError(msg)
    return f"{DIRECTORY}/{variable}.toml"


def read(variable: str) -> Rules:
    """Return what root's file says of a context.

    Args:
        variable: ``MODULE:CONTEXT``.

    Raises:
        StartError: the name is none, or the file says what it may not.
        Untrusted: somebody else than root could change the file.
        OSError: as open(2), but for a file that is not there.

    """
    return read_at(path_of(variable))


def read_at(path: str) -> Rules:
    """Return what the file at `path` says.

    Raises:
        StartError, Untrusted, OSError: as `read`.

    """
    rules = Rules(path)
    try:
        data = trust.read_file(path)
    except FileNotFoundError:
        return rules
    rules.is_there = True
    import tomllib  # noqa: PLC0415 - it costs as much as all of this

    try:
        table = tomllib.loads(data.decode())
    except ValueError as error:  # TOML's, and of what is no UTF-8
        raise _bad(rules, str(error)) from error
    for key, value in table.items():
        if key not in _KEYS:
            raise _bad(rules, f"no key {key!r}; there are: {', '.join(_KEYS)}")
        try:
            setattr(rules, key, _KEYS[key](value))
        except (TypeError, ValueError) as error:
            raise _bad(rules, f"{key}: {error}") from error
    return rules


def _bad(rules: Rules, reason: str) -> StartError:
    return StartError(f"{rules.path}: {reason}")


def _list(value: object) -> list[object]:
    if isinstance(value, list):
        return value
    msg = f"it is {value!r}; it must be a list"
    raise ValueError(msg)


def _ids(value: object, kind: str, look_up: Callable[[str], int]) -> frozenset[int]:
    ids = set()
    for item in _list(value):
        if isinstance(item, str):
            try:
                ids.add(look_up(item))
            except KeyError:
                msg = f"there is no {kind} {item!r} on this system"
                raise ValueError(msg) from None
        elif isinstance(item, int) and not isinstance(item, bool) and item >= 0:
            ids.add(item)
        else:
            msg = f"{item!r} is neither a name nor a number"
            raise ValueError(msg)
    return frozenset(ids)


def _users(value: object) -> frozenset[int]:
    import pwd  # noqa: PLC0415 - only with a file

    return _ids(value, "user", lambda name: pwd.getpwnam(name).pw_uid)


def _groups(value: object) -> frozenset[int]:
    import grp  # noqa: PLC0415 - only with a file

    return _ids(value, "group", lambda name: grp.getgrnam(name).gr_gid)


def _units(value: object) -> frozenset[str]:
    return frozenset(map(str, _list(value)))


def _capabilities(value: object) -> int:
    from privsep._lockdown import capability_names  # noqa: PLC0415 - only with a file

    numbers = map(capability_names.number, _list(value))  # type: ignore[arg-type]
    return capability_names.mask(numbers)


def _deadline(value: object) -> float:
    if isinstance(value, int | float) and 0 < value <= _LONGEST_DEADLINE:
        return float(value)
    msg = f"it is {value!r}; it may be up to {_LONGEST_DEADLINE:g} seconds"
    raise ValueError(msg)


_KEYS: dict[str, Callable[[object], object]] = {
    "users": _users,
    "groups": _groups,
    "units": _units,
    "owners": _users,
    "capabilities": _capabilities,
    "deadline": _deadline,
}
