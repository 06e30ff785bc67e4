"""Rootwrap's daemon, started through sudo by an unprivileged user."""

from __future__ import annotations

import os
import pwd
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from wrapping import Wrapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from public_python import PublicPython


@pytest.fixture
def run_client(
    tmp_path: Path,
    public_python: PublicPython,
    unprivileged_user: str,
    sudoers_rule: Callable[..., None],
) -> Callable[..., list[str]]:
    """Return a function that runs a client's script and returns what it printed.

    The script's ``sys.argv[1:3]`` start the daemon, by sudo.
    """

    def run(filters: list[str], script: str, *arguments: str) -> list[str]:
        wrapped = Wrapped(tmp_path)
        wrapped.configure(directories=["/usr/bin"])
        wrapped.allow(*filters)
        command = [public_python.rootwrap_daemon, str(wrapped.config)]
        sudoers_rule(command)
        return public_python.run(script, *command, *arguments, user=unprivileged_user)

    return run


def test_an_unprivileged_user_runs_commands_by_sudo(
    run_client: Callable[..., list[str]],
) -> None:
    lines = run_client(
        ["id: CommandFilter, id, root", "cat: CommandFilter, cat, root"],
        """
        import os, sys
        from privsep.rootwrap import Client
        with Client(["sudo", "-n", *sys.argv[1:]]) as client:
            print(os.getuid() != 0, client.execute(["id", "-u"]).stdout.strip())
            print(client.execute(["id", "-G"]).stdout.strip())
            print(client.execute(["cat"], "x" * 100_000).stdout == "x" * 100_000)
            process = client.popen(["cat"], stdin=os.pipe()[0])
            process.kill()
            print(process.wait(), client.execute(["sh"]).returncode)
        """,
    )
    groups = " ".join(map(str, os.getgrouplist("root", 0)))
    assert lines == ["True 0", groups, "True", "-9 99"]


def test_no_command_runs_where_its_caller_may_not_go(
    run_client: Callable[..., list[str]], unprivileged_user: str
) -> None:
    """To open it by O_PATH takes no leave; one that is allowed goes on."""
    with tempfile.TemporaryDirectory() as hidden, ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory())
        os.chmod(place, 0o710)  # noqa: S103 - who is in its group may enter
        group = pwd.getpwnam(unprivileged_user).pw_gid
        os.chown(place, 0, group)
        for directory in (hidden, place):
            Path(directory, "secret").write_text(directory)
        lines = run_client(
            ["cat: RegExpFilter, cat, root, cat, secret"],
            """
            import os, sys
            from privsep.rootwrap import Client
            *command, hidden, place = sys.argv[1:]
            get = os.open
            with Client(["sudo", "-n", *command]) as client:
                for there in (place, hidden, place):
                    os.open = lambda path, flags: get(there, flags)
                    try:
                        print(client.execute(["cat", "secret"]).stdout)
                    except PermissionError:
                        print("refused")
            """,
            hidden,
            place,
        )
    assert lines == [place, "refused", place]


def test_workers_of_an_unprivileged_user_do_not_survive_the_daemon(
    run_client: Callable[..., list[str]],
) -> None:
    lines = run_client(
        ["sh: CommandFilter, sh, root"],
        """
        import os, sys, privsep
        from privsep.rootwrap import Client
        kill = "read _ _ _ daemon _ < /proc/$PPID/stat; kill -9 $daemon; read _"
        with Client(["sudo", "-n", *sys.argv[1:]]) as client:
            stdin, end = os.pipe()
            try:  # popen may hear of the end already
                print(client.popen(["sh", "-c", kill], stdin=stdin).wait())
            except privsep.DaemonGone:
                print("gone")
        """,
    )
    assert lines == ["gone"]


def test_a_helper_of_privsep_knows_who_called(
    run_client: Callable[..., list[str]], tmp_path: Path
) -> None:
    """It serves nobody else; other commands do not know."""
    names = ("privsep-helper", "other")
    for name in names:
        program = tmp_path / name
        program.write_text("#!/bin/sh\nenv | grep ^SUDO_ | sort\n")
        program.chmod(0o755)
    lines = run_client(
        [f"{name}: CommandFilter, {tmp_path / name}, root" for name in names],
        """
        import os, sys
        from privsep.rootwrap import Client
        *command, place = sys.argv[1:]
        with Client(["sudo", "-n", *command]) as client:
            for name in ("privsep-helper", "other"):
                said = client.execute([f"{place}/{name}"]).stdout
                sudos = f"SUDO_GID={os.getgid()}\\nSUDO_UID={os.getuid()}\\n"
                print(said == sudos, said == "")
        """,
        str(tmp_path),
    )
    assert lines == ["True False", "False True"]


def test_the_listener_of_a_service_is_not_written_to(
    run_client: Callable[..., list[str]], tmp_path: Path
) -> None:
    """As if root could be had to say something to it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0{tmp_path}")
        listener.listen()
        lines = run_client(
            [],
            """
            import socket, subprocess, sys
            *command, name = sys.argv[1:]
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as ours:
                ours.connect("\\0" + name)
                done = subprocess.run(
                    ["sudo", "-n", *command], stdin=ours, stderr=subprocess.PIPE
                )
            print(done.returncode, b"the control socket is uid 0's" in done.stderr)
            """,
            str(tmp_path),
        )
        theirs, _ = listener.accept()
        with theirs:
            assert theirs.recv(1) == b""
    assert lines == ["97 True"]
