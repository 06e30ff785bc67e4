"""What the interpreter, and any program, needs to read to work at all.

Runs in the privileged process.  Every sandbox leaves these readable: Python
imports late (a codec, a traceback's source), and the C library does, too.
"""

from __future__ import annotations

import os
import sys

SYSTEM = (
    # ld.so(8): shared libraries and the cache that finds them
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    # tzset(3): what time it is in the log
    "/etc/localtime",
    "/usr/share/zoneinfo",
    # what programs open without being asked to: null(4), urandom(4)
    "/dev/null",
    "/dev/urandom",
    # A rule for /proc/self would be one for the process that made it, not for
    # its workers.  What others keep secret there (environ, mem, fd, root) asks
    # for the right to trace them, which Landlock takes away: ptrace(2).  Only
    # CAP_PERFMON and CAP_SYS_ADMIN still show environ and maps.
    "/proc",
)


def loaders() -> list[str]:
    """Return the dynamic loaders, which the kernel executes with any program."""
    return [
        f"{directory}/{name}"
        for directory in ("/lib", "/lib64")
        if os.path.isdir(directory)
        for name in os.listdir(directory)
        if name.startswith("ld") and ".so" in name
    ]


def python_paths() -> list[str]:
    """Return where the interpreter finds modules and their shared libraries.

    These are the entries of sys.path, and the places of loaded packages that
    stand elsewhere, as an editable installation has them.
    """
    found = [os.path.join(prefix, "lib") for prefix in (sys.base_prefix, sys.prefix)]
    found += sys.path
    covered = tuple([f"{directory}/" for directory in found])
    for name, module in list(sys.modules.items()):
        if "." not in name:
            places = getattr(module, "__path__", None) or [
                getattr(module, "__file__", None)
            ]
            found += [
                place
                for place in places
                if isinstance(place, str) and not place.startswith(covered)
            ]
    return [path for path in dict.fromkeys(found) if _is_below_root(path)]


def _is_below_root(path: str) -> bool:
    # "" is the working directory, which is / by now; a rule for / allows all.
    return os.path.isabs(path) and os.path.realpath(path) != "/"
