"""What a service sees of rootwrap's daemon mode: printed as JSON, a row each.

Run as root with the interpreter of either environment.
"""

import json
import logging
import os
import select
import signal
import sys
import tempfile
import threading

from oslo_rootwrap import client, cmd

ROWS: dict[str, str] = {}
SCRIPT = f"{sys.prefix}/bin/oslo-rootwrap-daemon"

POLICY = r"""
[Filters]
ls: CommandFilter, ls, root
cat: CommandFilter, cat, root
true: CommandFilter, true, root
false: CommandFilter, false, root
missing: CommandFilter, /nonexistent/missing, root
sh: CommandFilter, sh, root
id: CommandFilter, id, nobody
printf: CommandFilter, printf, root
nice: ChainingRegExpFilter, nice, root, nice, -n, \d+
env: EnvFilter, env, root, NAME=, printenv, NAME
"""
COMMANDS = (
    ["true"],
    ["false"],
    ["ls", "/nonexistent-directory"],
    ["nothing"],
    ["missing"],
    ["id", "-un"],
    ["sh", "-c", "exit 7"],
    ["sh", "-c", "echo out; echo err >&2; exit 3"],
    ["sh", "-c", "kill -9 $$"],
    ["sh", "-c", "kill -15 $$"],
    ["printf", "\\377\\n"],
    ["printf", "é"],
    ["nice", "-n", "5", "true"],
    ["nice", "-n", "5", "nothing"],
    ["NAME=x", "printenv", "NAME"],
    ["cat"],
)


def row(name, call, *args, **kwargs):
    try:
        value = tuple(call(*args, **kwargs))
        ROWS[name] = f"{value!r}"
    except Exception as error:
        ROWS[name] = f"!! {type(error).__name__} {error.args!r}"


def execute(rootwrap, words, stdin=None):
    code, out, error = rootwrap.execute(words, stdin)
    return code, out, "nonexistent-directory" in error if error[:3] == "ls:" else error


def threads(rootwrap):
    results = []
    running = [
        threading.Thread(target=lambda n=n: results.append(
            rootwrap.execute(["printf", str(n)])[1] == str(n)))
        for n in range(12)
    ]
    for each in running:
        each.start()
    for each in running:
        each.join()
    return results


def main():
    logging.disable()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        os.chmod(directory, 0o755)
        os.mkdir(f"{directory}/filters")
        for name, text in (
            ("filters/a.filters", POLICY),
            ("rootwrap.conf", f"[DEFAULT]\nfilters_path = {directory}/filters\n"
                              "exec_dirs = /usr/bin,/bin\n"),
        ):
            with open(f"{directory}/{name}", "w") as file:
                file.write(text)
        config = f"{directory}/rootwrap.conf"
        rootwrap = client.Client([SCRIPT, config])
        for words in COMMANDS:
            row(f"execute: {' '.join(words)}", execute, rootwrap, words)
        row("execute: input is text", execute, rootwrap, ["cat"], "text é\n")
        row("execute: input is bytes", execute, rootwrap, ["cat"], b"bytes\n")
        row("execute: no input", execute, rootwrap, ["cat"], None)
        row("execute: a megabyte each way", lambda: [
            len(part) for part in rootwrap.execute(["cat"], "x" * (1 << 20))[1:]])
        row("execute: by many threads", threads, rootwrap)
        row("execute: the daemon has died", after_death, rootwrap)
        row("execute: no such program", lambda: client.Client(["/nonexistent", config]).execute(["true"]))
        row("execute: no such config", lambda: client.Client([SCRIPT, "/nonexistent"]).execute(["true"]))
        row("names", lambda: [callable(cmd.daemon), callable(cmd.main)])
    print(json.dumps(ROWS))


def after_death(rootwrap):
    """Kill the daemon, wait until it and its children are dead, and go on."""
    pid = int(rootwrap.execute(["sh", "-c", "echo $PPID"])[1])
    while True:
        with open(f"/proc/{pid}/stat") as file:
            parent = int(file.read().rpartition(")")[2].split()[1])
        if parent == os.getpid():
            break
        pid = parent
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        held = [os.pidfd_open(int(each)) for each in (str(pid), *file.read().split())]
    signal.pidfd_send_signal(held[0], signal.SIGKILL)
    for each in held:
        select.select([each], [], [])
        os.close(each)
    return rootwrap.execute(["printf", "again"])


if __name__ == "__main__":
    main()
