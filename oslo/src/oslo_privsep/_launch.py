"""Starting a daemon by a command such as ``sudo privsep-helper``.

Runs in the client.  The command gets the path of a listening socket, which only this
user can reach; what connects there is the daemon's end of the control socket.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import selectors
import shutil
import socket
import subprocess
import tempfile
import threading
from time import monotonic
from typing import TYPE_CHECKING

from privsep import StartError
from privsep._client.forking import undivided
from privsep._client.readiness import wait_until
from privsep._start.handshake import wait_until_ready
from privsep._start.process import ChildProcess, Launched
from privsep._wire.descriptors import peer_credentials

if TYPE_CHECKING:
    from oslo_privsep._engine import Engine

DEADLINE = 60.0  # seconds: a busy host, an LDAP directory behind sudo


def launch(engine: Engine) -> Launched:
    """Run the context's command; return the daemon that connects, ready.

    Raises:
        StartError: it did not start.
        OSError: the command cannot be run.

    """
    # Not tempfile's directory: filters that services ship name /tmp.
    directory = tempfile.mkdtemp(dir="/tmp")
    logger = logging.getLogger(engine.logger)
    try:
        path = f"{directory}/privsep.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(path)
            listener.listen(1)
            words = engine.owner.helper_command(path)
            logger.info("Running privsep helper: %s", words)
            launched = _run(engine, words, listener)
        logger.info("Spawned new privsep daemon via rootwrap")
        logger.debug("Accepted privsep connection to %s", path)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return launched


def _run(engine: Engine, words: list[str], listener: socket.socket) -> Launched:
    helper, stderr = _spawn(words)
    # Closed last: eventlet may tell of its number when another file has that already.
    with io.FileIO(os.pidfd_open(helper.pid)) as end:
        try:
            launched = _connected(engine, helper, end, listener, stderr)
            what = f"{engine.owner} could not be started by {words[0]}"
            _, launched = wait_until_ready(launched, what, "", DEADLINE)
        finally:
            _reap(helper)
    return launched


def _spawn(words: list[str]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the helper; return it, and where it says what is wrong."""
    stderr, helpers = socket.socketpair()
    with helpers, undivided:
        try:
            helper = subprocess.Popen(  # noqa: S603 - the service chose the command
                words,
                stdin=subprocess.DEVNULL,
                stdout=helpers.fileno(),
                stderr=helpers.fileno(),
            )
        except BaseException:
            stderr.close()
            raise
    return helper, stderr


def _connected(
    engine: Engine,
    helper: subprocess.Popen[bytes],
    end: io.FileIO,
    listener: socket.socket,
    stderr: socket.socket,
) -> Launched:
    """Return the daemon that connects; close `stderr` if there is none.

    Raises:
        StartError: as `_accept`.

    """
    try:
        control = _accept(engine, helper, end, listener)
        pid = peer_credentials(control).pid
        return Launched(control, stderr, ChildProcess(pid))
    except BaseException:
        with contextlib.suppress(PermissionError):  # root's: its starter has gone now
            helper.kill()
        _log_words(engine, stderr)
        stderr.close()
        raise


def _reap(helper: subprocess.Popen[bytes]) -> None:
    """Have the helper reaped, which has ended, or stays as long as the daemon."""
    if helper.poll() is None:
        threading.Thread(target=helper.wait, name="privsep helper", daemon=True).start()


def _accept(
    engine: Engine,
    helper: subprocess.Popen[bytes],
    end: io.FileIO,
    listener: socket.socket,
) -> socket.socket:
    """Return the connection of the daemon.

    Raises:
        StartError: the helper ended without one, or none came in time, or a process
            of another user connected.

    """
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(end, selectors.EVENT_READ)
        ready = wait_until(selector, monotonic() + DEADLINE)
    control = _connection(listener)
    if control is not None:
        return control
    if not ready:
        msg = f"privsep helper command did not connect within {DEADLINE:g} s"
        raise StartError(msg)
    status = helper.wait()
    if status:
        msg = f"privsep helper command exited non-zero ({status})"
    else:
        msg = "privsep helper command exited without connecting"
    logging.getLogger(engine.logger).critical("%s", msg)
    raise StartError(msg)


def _connection(listener: socket.socket) -> socket.socket | None:
    """Return the connection that waits at `listener`, None if there is none.

    Whether one waits is not left to select: eventlet's tells of one file at a time, and
    that may be the helper's end.

    Raises:
        StartError: it is of another user.

    """
    listener.setblocking(False)  # noqa: FBT003
    try:
        control, _ = listener.accept()
    except BlockingIOError:
        return None
    control.settimeout(None)
    uid = peer_credentials(control).uid
    if uid in (0, os.geteuid()):
        return control
    control.close()
    msg = f"uid {uid}, neither root nor this user, connected in the helper's place"
    raise StartError(msg)


def _log_words(engine: Engine, stderr: socket.socket) -> None:
    """Log what the helper has said; it has ended, or is given up."""
    stderr.setblocking(False)  # noqa: FBT003
    said = b""
    try:
        while data := stderr.recv(64 * 1024):
            said += data
    except OSError:
        pass
    for line in said.decode("utf-8", "backslashreplace").splitlines():
        engine.log_line("stderr", None, line)
