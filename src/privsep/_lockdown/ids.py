"""User, group and supplementary groups: credentials(7), setresuid(2).

Runs in the privileged process.
"""

from __future__ import annotations

import grp
import os
import pwd

from privsep._wire.typed import NamedTuple

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable


class Ids(NamedTuple):
    """Who a process is to be; None leaves that id as it is."""

    uid: int | None
    gid: int | None
    groups: tuple[int, ...] | None

    @classmethod
    def look_up(cls, user: str | int | None, group: str | int | None) -> Ids:
        """Return the ids of `user` and `group`, names or numbers.

        A user without a group has the group and the supplementary groups that
        the databases give; a group alone is the only group.

        Raises:
            LookupError: there is no such user or group.

        """
        uid: int | None = None
        gid: int | None = None
        groups: tuple[int, ...] | None = None
        if group is not None:
            gid = _gid(group)
            groups = (gid,)
        if user is not None:
            uid, primary, name = _user(user)
            gid = primary if gid is None else gid
            if gid is None:
                msg = f"user {user} has no entry in passwd: name its group, too"
                raise LookupError(msg)
            groups = tuple(os.getgrouplist(name, gid)) if name else (gid,)
        return cls(uid, gid, groups)

    def apply(self) -> None:
        """Become them: groups, then gid, then uid, each id of each kind.

        What it is already is not set again: that may need a capability.

        Raises:
            OSError: as setgroups(2), setresgid(2), setresuid(2).

        """
        if self.groups is not None and {*self.groups} != {*os.getgroups()}:
            _set(os.setgroups, self.groups)
        if self.gid is not None and os.getresgid() != (self.gid,) * 3:
            _set(os.setresgid, self.gid, self.gid, self.gid)
        if self.uid is not None and os.getresuid() != (self.uid,) * 3:
            _set(os.setresuid, self.uid, self.uid, self.uid)


def _set(change: Callable[..., None], *ids: object) -> None:
    """Call `change`; say which call it was if it fails."""
    try:
        change(*ids)
    except OSError as error:
        shown = ", ".join(map(str, ids))
        text = f"{change.__name__}({shown}): {error.strerror}"
        raise OSError(error.errno, text) from None


def _gid(group: str | int) -> int:
    if isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        names = [entry.gr_name for entry in grp.getgrall()]
        raise LookupError(_there_is_none("group", group, names)) from None


def _user(user: str | int) -> tuple[int, int | None, str | None]:
    try:
        entry = pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
    except KeyError:
        if isinstance(user, int):
            return user, None, None
        names = [entry.pw_name for entry in pwd.getpwall()]
        raise LookupError(_there_is_none("user", user, names)) from None
    return entry.pw_uid, entry.pw_gid, entry.pw_name


def _there_is_none(what: str, name: str, names: list[str]) -> str:
    from privsep._lockdown.nearest import nearest  # noqa: PLC0415 - only to explain

    near = nearest(name, names)
    return f"there is no {what} {name!r} on this system; did you mean {near!r}?"
