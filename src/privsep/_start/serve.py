"""The main function of a daemon that listens: ``privsep serve``.

Runs in the privileged process; systemd starts it, or an administrator.  It has a
fresh interpreter, isolated by its launcher.  Its options are few and read by hand: a
library for that is no part of the daemon.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import NoReturn

from privsep._daemon import main as daemon
from privsep._daemon.admission import Admission
from privsep._start import rules, trust
from privsep._start.helper import find_judged
from privsep.errors import PrivsepError

_FIRST_PASSED = 3  # sd_listen_fds(3)
_USAGE = """\
usage: privsep serve [--listen PATH] MODULE:CONTEXT
The listening socket comes from systemd (LISTEN_FDS), or is made at PATH.
"""


def main() -> NoReturn:
    """Be the daemon of the context that the last argument names, until SIGTERM."""
    words = sys.argv[1:]
    path = None
    if len(words) == 3 and words[0] == "--listen":  # noqa: PLR2004
        path = words[1]
        del words[:2]
    if len(words) != 1 or words[0].startswith("-"):
        sys.exit(_USAGE)
    try:
        sock = _passed() if path is None else _made(path)
        said = rules.read(words[0])
    except (OSError, PrivsepError) as error:
        sys.exit(f"privsep serve: {error}")
    daemon.listen(
        sock,
        lambda: find_judged(words[0], said),
        lambda: _admission(rules.read(words[0])),
    )


def _admission(said: rules.Rules) -> Admission:
    """Return who may connect: without root's word, root alone."""
    return Admission(said.users or frozenset(), said.groups or frozenset(), said.units)


def _passed() -> socket.socket:
    """Return the listening socket that the service manager passed: sd_listen_fds(3)."""
    count = os.environ.get("LISTEN_FDS", "0")
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        count = "0"
    if count != "1":
        sys.exit(
            f"privsep serve: {count} listening sockets were passed (LISTEN_FDS), there "
            "must be one: start it by a socket unit (privsep generate systemd prints "
            "one), or with --listen PATH"
        )
    sock = socket.socket(fileno=_FIRST_PASSED)
    sock.set_inheritable(False)
    if (
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) != socket.AF_UNIX
        or sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) != socket.SOCK_SEQPACKET
        or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        sys.exit(
            "privsep serve: the socket that was passed is of another kind: the socket "
            "unit must have ListenSequentialPacket=PATH"
        )
    return sock


def _made(path: str) -> socket.socket:
    """Listen at `path`, in the place of what an earlier daemon left there.

    The mode lets everybody connect: who is let in is root's file's to say.  Whoever
    could write the directory could have another file get that mode.

    Raises:
        Untrusted: somebody else could put another file at `path`.
        OSError: as bind(2) and rename(2); the directory must be there.

    """
    os.closerange(_FIRST_PASSED, _FIRST_PASSED + 1)  # nothing was passed
    directory, name = os.path.split(path)
    place = trust.walk_to_directory(directory)
    place.close()
    path = f"{place.path}/{name}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    draft = f"{path}.{os.getpid()}"
    sock.bind(draft)
    try:
        os.chmod(draft, 0o666)  # noqa: S103 - as said above
        sock.listen(socket.SOMAXCONN)
        os.rename(draft, path)
    except OSError:
        os.unlink(draft)
        raise
    return sock
