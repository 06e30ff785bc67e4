"""Entrypoints that need nothing but the standard library."""

import os
import sys

from neutronlike import default


@default.entrypoint
def loaded(prefix):
    return sorted(name for name in sys.modules if name.startswith(prefix))


@default.entrypoint
def status(*names):
    with open("/proc/self/status") as file:
        fields = dict(map(str.strip, line.split(":", 1)) for line in file)
    return [fields[name] for name in names]


@default.entrypoint
def status_of_child(*names):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 1)
        os.execv("/bin/cat", ["cat", "/proc/self/status"])
    os.close(writer)
    with os.fdopen(reader) as file:
        fields = dict(map(str.strip, line.split(":", 1)) for line in file)
    os.waitpid(pid, 0)
    return [fields[name] for name in names]
