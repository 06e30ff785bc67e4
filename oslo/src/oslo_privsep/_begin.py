"""``privsep-helper``: connects to its client, and asks root whom to trust.

Runs in the privileged process, first of all.  Where root has a say (a file in
`rules.DIRECTORY`), it was started without `site`, and nothing is imported before that
is judged but the standard library and what stands beside this and `privsep._start`.
"""

from __future__ import annotations

import os
import stat
import sys

from oslo_privsep._words import Words
from privsep._start import rules
from privsep._start.judge import (
    Caller,
    connect,
    judge,
    replace_closed_streams,
    set_deadline,
)
from privsep.errors import PrivsepError

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    import _socket
    from typing import NoReturn

    from privsep._start.rules import Rules

ALL = f"{rules.DIRECTORY}/oslo_privsep.toml"
"""Root's file for each PrivContext that has none of its own."""


def main(program: str | None, words: list[str]) -> NoReturn:
    """Be the daemon that the command line asks for.

    Args:
        program: the path of the launcher, if it has started this without `site`.
        words: of the command line.

    """
    wanted = Words(words)
    replace_closed_streams()
    if stat.S_ISSOCK(os.fstat(2).st_mode):
        control = _connect_in_child(wanted.sock_path)
    else:  # sudo's, say, which logs it: it has to stay, or the daemon would lose it
        control = _connect(wanted.sock_path)
    said = _obeyed(wanted, control, program)
    from oslo_privsep import _helper  # noqa: PLC0415 - now it is judged

    _helper.serve(wanted, control.detach(), said)


def _connect_in_child(path: str) -> _socket.socket:
    """Connect in a fork, and end this process then: sudo need not stay."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(writer)
        os._exit(0 if os.read(reader, 1) else 1)
    os.close(reader)
    control = _connect(path)
    os.write(writer, b"c")
    os.close(writer)
    return control


def _connect(path: str) -> _socket.socket:
    try:
        control = connect(path)
        Caller(control)
    except (OSError, PrivsepError) as error:
        sys.stderr.write(f"privsep-helper: --privsep_sock_path {path}: {error}\n")
        sys.stderr.flush()
        os._exit(1)
    return control


def _obeyed(
    wanted: Words, control: _socket.socket, program: str | None
) -> Rules | None:
    """Return what root says of the context, having done so; None: nothing."""
    caller = Caller(control)
    try:
        said = _said_of(wanted.context)
        if said is not None:
            _check_nothing_ran(said, program)
            set_deadline(said.deadline)
            judge(caller, said, program or "")
    except (PrivsepError, OSError) as error:
        caller.refuse(str(error))
    if said is None:
        _read_site()
    return said


def _said_of(context: str) -> Rules | None:
    """Return what root says of a context, or else of all; None: nothing."""
    if not os.path.isdir(rules.DIRECTORY):
        return None
    module, _, name = context.rpartition(".")
    for path in (rules.path_of(f"{module}:{name}"), ALL):
        said = rules.read_at(path)
        if said.is_there:
            return said
    return None


def _check_nothing_ran(said: Rules, program: str | None) -> None:
    """Refuse a start in which .pth files have been read before they are looked at."""
    if program is None or "site" in sys.modules:
        msg = (
            f"{said.path}: no file is looked at before it is read if this is not "
            "started by the script privsep-helper of an installation without -e"
        )
        raise PrivsepError(msg)


def _read_site() -> None:
    """Do what Python has not done, if it was started without `site`."""
    if "site" not in sys.modules:
        sys.path.remove(os.path.dirname(os.path.dirname(__file__)))
        import site  # noqa: PLC0415 - it does not know that it is there

        site.main()
