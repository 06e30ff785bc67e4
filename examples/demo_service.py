"""The privileged part of the demo: a context and its entrypoints.

The client and the daemon both import it; in the client the functions are stubs.
"""

from __future__ import annotations

import os
import subprocess

import privsep

network = privsep.Context(
    "network", capabilities=["CAP_NET_ADMIN"], timeout=30.0, workers=1
)

_child: subprocess.Popen[bytes] | None = None


@network.entrypoint
def connect(bridge: str, left: str, right: str) -> None:
    """Make a bridge and a veth pair, and put the left end into the bridge."""
    _ip("link", "add", bridge, "type", "bridge")
    _ip("link", "add", left, "type", "veth", "peer", "name", right)
    _ip("link", "set", left, "master", bridge)


@network.entrypoint
def links() -> dict[str, str]:
    """Return each network interface but lo, with the words that `ip` has for it."""
    lines = _ip("-oneline", "link", "show").splitlines()
    words = (line.split(":", 2)[1:] for line in lines)
    named = {name.strip().partition("@")[0]: rest for name, rest in words}
    named.pop("lo", None)
    return named


@network.entrypoint
def disconnect(bridge: str, left: str) -> None:
    """Remove what `connect` made; the right end goes with the left one."""
    _ip("link", "delete", left)
    _ip("link", "delete", bridge)


@network.entrypoint
def who() -> tuple[int, int]:
    """Return the process and the user, as the worker sees them."""
    return os.getpid(), os.getuid()


@network.entrypoint
def start_child() -> int:
    """Start a program that runs for a minute, and return its process."""
    global _child  # noqa: PLW0603 - overrun() waits for it
    _child = subprocess.Popen(["sleep", "60"])
    return _child.pid


@network.entrypoint(timeout=0.5)
def overrun() -> None:
    """Wait for what `start_child` started: longer than this call is allowed."""
    assert _child is not None
    _child.wait()


@network.entrypoint
def add(left: int, right: int) -> int:
    """Add two numbers, to measure a call."""
    return left + right


def _ip(*words: str) -> str:
    """Run `ip` of iproute2 and return what it printed."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"ip {' '.join(words)}: {done.stderr.strip()}"
        raise RuntimeError(msg)
    return done.stdout
