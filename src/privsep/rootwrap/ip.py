"""The command line of ip(8), as far as to see that it runs no other command.

Runs in the privileged process.  ip takes any beginning of an option, an object or a
command for the whole word, in the order of its own tables; some options take the next
word.  So the words are read as ip reads them, and what is not in the tables here is
refused: a later version may mean anything by it.

Sources: ip(8), ip-netns(8), ip-vrf(8), and trials with iproute2 6.1.
"""

from __future__ import annotations

from privsep.rootwrap.errors import Differs

_FLAGS = (
    *("-Version", "-human-readable", "-iec", "-json", "-pretty", "-statistics"),
    *("-stats", "-details", "-resolve", "-oneline", "-timestamp", "-tshort", "-brief"),
    *("-Numeric", "-color", "-echo", "-help", "-4", "-6", "-B", "-M", "-0"),
)
_WITH_WORD = ("-loops", "-family", "-rcvbuf", "-netns")
#: What would be the beginning of two.  No option that is let pass is -batch, which
#: reads commands from a file, or -all, which runs one in each network namespace.
_SHORT = {"-f": "-family", "-r": "-resolve", "-b": "-batch"}

_OBJECTS = (
    *("address", "addrlabel", "amt", "fou", "help", "ila", "ioam", "l2tp", "link"),
    *("macsec", "maddress", "monitor", "mptcp", "mroute", "mrule", "neighbor"),
    *("neighbour", "netconf", "netns", "nexthop", "ntable", "ntbl", "route", "rule"),
    *("sr", "stats", "tap", "tcp_metrics", "tcpmetrics", "token", "tunl", "tunnel"),
    *("tuntap", "vrf", "xfrm"),
)
_NEIGHBOR = ("n", "ne")  # which could be netns, too, but come before it in ip's table
#: What of the two objects that can run a command does not.
_HARMLESS = {
    "netns": ("list", "show", "lst", "add", "delete"),
    "vrf": ("list", "show", "lst", "identify", "pids", "help"),
}


def check(words: tuple[str, ...]) -> None:
    """Accept the words after ``ip`` if ip runs no other command for them.

    Raises:
        Differs: it would, or may.

    """
    rest = _after_options(words)
    if not rest:
        return
    name, *arguments = rest
    found = [each for each in _OBJECTS if name and each.startswith(name)]
    if not found:
        raise Differs(f"{name!r} is no object of ip that is known here")
    if name in _NEIGHBOR:
        return
    for risky, harmless in _HARMLESS.items():
        if risky in found:
            _check_command(risky, harmless, arguments)


def _after_options(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return what follows the options before the object."""
    index = 0
    while index < len(words) and words[index].startswith("-"):
        word = words[index]
        index += 1
        if _option(word) in _WITH_WORD:
            if index == len(words):
                raise Differs(f"the option {word!r} has no value")
            if _option(word) == "-netns":
                check_namespace(words[index])
            index += 1
    return words[index:]


def _option(word: str) -> str:
    """Return one of the options that `word` may stand for: they are alike."""
    written = word[1:] if word.startswith("--") else word
    name, sign, _ = written.partition("=")
    name = _SHORT.get(name, name)
    found = [
        each
        for each in (*_FLAGS, *_WITH_WORD)
        if len(name) > 1 and each.startswith(name)
    ]
    kinds = {each in _WITH_WORD for each in found}
    if len(kinds) != 1 or (sign and found != ["-color"]):
        raise Differs(f"the option {word!r} is none that is allowed")
    return found[0]


def check_namespace(name: str) -> None:
    """Accept the name of a network namespace: a file in its directory.

    Raises:
        Differs: it is no plain name.

    """
    if "/" in name or name in ("", ".", "..") or name.startswith("-"):
        raise Differs(f"{name!r} is not the name of a network namespace")


def _check_command(risky: str, harmless: tuple[str, ...], arguments: list[str]) -> None:
    if not arguments:
        return
    command, *names = arguments
    if not any(command and each.startswith(command) for each in harmless):
        allowed = ", ".join(harmless)
        raise Differs(f"ip {risky} {command!r} is none of {allowed}")
    if risky == "netns":
        for name in names:
            check_namespace(name)
