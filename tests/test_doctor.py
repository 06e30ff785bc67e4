"""What ``privsep doctor`` says is what a call then comes to."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from listening import Manager, manage, public_path
from own_etc import make_etc, own_mounts
from public_python import etc_locked

from privsep._lockdown import landlock

if TYPE_CHECKING:
    import pwd
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from public_python import PublicPython

__all__ = ["manage", "public_path"]

needs_sudo = pytest.mark.skipif(
    shutil.which("sudo") is None, reason="sudo is not installed"
)


class Answer:
    """What doctor prints, line by topic, and whether it ends with 0."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.text = done.stdout
        self.works = done.returncode == 0
        assert done.returncode in (0, 1), done
        assert not done.stderr, done

    def says(self, topic: str, mark: str, words: str) -> bool:
        """Return whether a line has this topic, mark and words, also further below."""
        begin = self.text.find(f"{topic:11}{mark:3}")
        return begin >= 0 and words in self.text[begin:].split("\nuserns")[0]


@pytest.fixture
def examine(
    public_python: PublicPython, unprivileged_user: str
) -> Callable[..., Answer]:
    """Return a function that asks as the unprivileged user, and makes a call."""
    become = ["setpriv", f"--reuid={unprivileged_user}", "--clear-groups"]
    become.append(f"--regid={unprivileged_user}")

    def ask(
        variable: str,
        *,
        before: Sequence[str] = (),
        become: Sequence[str] = become,
    ) -> Answer:
        command = [*before, *become, public_python.command, "doctor", variable]
        with etc_locked(fcntl.LOCK_SH):  # what root says shall be the same for both
            first, second = (
                Answer(
                    subprocess.run(
                        [*command, *more], capture_output=True, text=True, check=False
                    )
                )
                for more in ([], ["--call"])
            )
        # What a call comes to is what was said without one.
        assert first.works == second.works, second.text
        assert second.text.startswith(first.text)
        return second

    return ask


@needs_sudo
def test_a_rule_of_sudo_is_found_and_the_call_goes_that_way(
    examine: Callable[..., Answer], sudoers_rule: Callable[[str], None]
) -> None:
    sudoers_rule("service:network")
    answer = examine("service:network")
    assert answer.works
    assert answer.says("exec", "no", "this process lacks CAP_NET_ADMIN")
    assert answer.says("sudo", "ok", "the very command is allowed")
    assert answer.says("sudo files", "ok", "")
    assert answer.says("sudo path", "ok", "imports service")
    assert answer.says("kernel", "-", f"Landlock ABI {landlock.best_abi()}")
    assert "A call would work, by sudo." in answer.text
    assert "network, started by sudo" in answer.text


@needs_sudo
def test_without_anything_each_method_has_its_remedy(
    examine: Callable[..., Answer], unprivileged_user: str, public_python: PublicPython
) -> None:
    answer = examine("service:network")
    assert not answer.works
    assert answer.says("socket", "-", "there is no /run/privsep/service:network.sock")
    assert answer.says("exec", "no", "AmbientCapabilities=")
    rule = rf"{unprivileged_user} ALL=(root) NOPASSWD: {public_python.launcher}"
    assert answer.says("sudo", "no", f"{rule} service\\:network")
    assert "A call would not work." in answer.text
    assert "The call failed: context 'network' could not be started" in answer.text


@needs_sudo
def test_what_roots_file_says_is_looked_at(
    examine: Callable[..., Answer], public_path: Path
) -> None:
    for number, (said, words) in enumerate(
        (
            ('users = ["root"]', "does not let uid "),
            ("capabilities = []", "does not have CAP_NET_ADMIN"),
            ("users = [", "root must mend that file"),
        )
    ):
        etc = make_etc(public_path / str(number), "service:network", said)
        answer = examine("service:network", before=own_mounts({"/etc": etc}))
        assert answer.says("sudo rules", "no", words)


@needs_sudo
def test_no_new_privileges_is_what_keeps_sudo_from_working(
    examine: Callable[..., Answer], sudoers_rule: Callable[[str], None]
) -> None:
    sudoers_rule("service:network")
    answer = examine("service:network", before=["setpriv", "--no-new-privs"])
    assert not answer.works
    assert answer.says("sudo", "no", "NoNewPrivileges= out of the unit")


def test_capabilities_of_the_process_itself_are_enough(
    examine: Callable[..., Answer], user_entry: pwd.struct_passwd
) -> None:
    become = [
        *("setpriv", f"--reuid={user_entry.pw_uid}", "--clear-groups"),
        *("--inh-caps=+net_admin", "--ambient-caps=+net_admin"),
    ]
    answer = examine("service:network", become=become)
    assert answer.works
    assert "A call would work, by exec." in answer.text


@pytest.mark.parametrize("let_in", [True, False])
def test_a_socket_is_asked_whether_it_lets_the_user_in(
    examine: Callable[..., Answer],
    manage: Callable[..., Manager],
    public_path: Path,
    unprivileged_user: str,
    let_in: bool,
) -> None:
    admission = f'users = ["{unprivileged_user if let_in else "root"}"]'
    manager = manage("service:network", admission)
    directory = public_path / "run" / "privsep"
    directory.mkdir(parents=True)
    os.link(manager.path, directory / "service:network.sock")
    before = own_mounts({"/run": public_path / "run"})
    answer = examine("service:network", before=before)
    assert answer.works == let_in
    if let_in:
        assert answer.says("socket", "ok", "the daemon lets this user in")
        assert "A call would work, by socket." in answer.text
    else:
        assert answer.says("socket", "no", "may not connect")


@pytest.fixture
def installed(public_python: PublicPython) -> Iterator[Callable[[str], Path]]:
    """Return a function that installs a module, `examined`, beside the others."""
    packages = next((public_python.prefix / "lib").glob("python*/site-packages"))
    module = packages / "examined.py"

    def install(arguments: str) -> Path:
        # Python would take it for this one: of as many bytes, in the same second.
        for compiled in packages.glob("__pycache__/examined.*"):
            compiled.unlink()
        module.write_text(f'import privsep\nX = privsep.Context("x", {arguments})\n')
        return module

    yield install
    module.unlink(missing_ok=True)


@needs_sudo
def test_a_file_that_is_not_roots_is_named_with_its_owner_and_mode(
    examine: Callable[..., Answer],
    installed: Callable[[str], Path],
    sudoers_rule: Callable[[str], None],
    user_entry: pwd.struct_passwd,
) -> None:
    module = installed('capabilities=["CAP_CHOWN"]')
    os.chown(module, user_entry.pw_uid, -1)
    sudoers_rule("examined:X")
    answer = examine("examined:X")
    assert not answer.works
    owner = f"{module} belongs to uid {user_entry.pw_uid}"
    assert answer.says("sudo files", "no", owner)
    assert answer.says("sudo files", "no", "install the service as root; or owners =")


@pytest.mark.parametrize(
    ("arguments", "topic", "words"),
    [
        ('user="nobody-has-this"', "user", "there is no user 'nobody-has-this'"),
        ('group="nobody-has-this"', "user", "there is no group 'nobody-has-this'"),
        (
            'sandbox=privsep.Sandbox(write=["/absent"])',
            "sandbox",
            "make the path, or take it out",
        ),
        (
            ')\n@X.entrypoint\ndef run(value: "Undefined") -> None: ...\n#',
            "annotation",
            "cannot be resolved when the daemon starts",
        ),
        ('audit=privsep.Audit("/nodir/x.jsonl")', "audit", "/nodir/x.jsonl: No such"),
        ('audit=privsep.Audit("/dev/null")', "audit", "it is no regular file"),
    ],
)
def test_what_the_daemon_itself_would_lack_is_told(
    examine: Callable[..., Answer],
    installed: Callable[[str], Path],
    arguments: str,
    topic: str,
    words: str,
) -> None:
    installed(f"capabilities=[], {arguments}")
    answer = examine("examined:X", become=())
    assert not answer.works
    assert answer.says(topic, "no", words)
    userns = answer.text.partition("\nuserns")[2]
    assert userns.split(maxsplit=1)[1].startswith("start('userns') would not work: ")


def test_an_audit_file_that_the_user_may_not_write_is_told(
    examine: Callable[..., Answer],
    installed: Callable[[str], Path],
    user_entry: pwd.struct_passwd,
) -> None:
    installed('capabilities=[], audit=privsep.Audit("/etc/x.jsonl")')
    answer = examine("examined:X")
    assert not answer.works
    said = f"/etc is not for uid {user_entry.pw_uid} to write"
    assert answer.says("audit file", "no", said)


@pytest.fixture
def logs(installed: Callable[[str], Path], public_path: Path) -> Path:
    """The directory of the audit of `examined:X`."""
    directory = public_path / "logs"
    directory.mkdir(mode=0o755)
    installed(f'capabilities=[], audit=privsep.Audit("{directory}/calls.jsonl")')
    return directory


def test_a_directory_of_somebody_else_is_not_for_root_s_writer_either(
    examine: Callable[..., Answer], logs: Path, user_entry: pwd.struct_passwd
) -> None:
    assert examine("examined:X", become=()).works
    (logs / "calls.jsonl").unlink()
    (logs / "calls.jsonl.head").unlink()
    os.chown(logs, user_entry.pw_uid, user_entry.pw_gid)
    answer = examine("examined:X", become=())
    assert not answer.works
    assert answer.says("audit file", "no", f"{logs} is not for uid 0 to write")
    assert answer.says("audit file", "no", "as uid 0, without capabilities")


@pytest.mark.parametrize("name", ["calls.jsonl", "calls.jsonl.head"])
def test_a_file_of_somebody_else_is_no_audit_of_root_s(
    examine: Callable[..., Answer],
    logs: Path,
    user_entry: pwd.struct_passwd,
    name: str,
) -> None:
    file = logs / name
    file.touch(0o600)
    os.chown(file, user_entry.pw_uid, user_entry.pw_gid)
    for mode, words in (
        (0o600, f"{file} is not for uid 0 to write"),
        (0o606, f"{file} belongs to uid {user_entry.pw_uid}"),
    ):
        file.chmod(mode)
        answer = examine("examined:X", become=())
        assert not answer.works
        assert answer.says("audit file", "no", words), answer.text
    os.chown(file, 0, 0)
    file.chmod(0o620)
    answer = examine("examined:X", become=())
    assert not answer.works
    assert answer.says("audit file", "no", f"{file} is for others to write (mode 0620)")


@needs_sudo
def test_the_audit_of_a_daemon_behind_sudo_is_root_s_to_write(
    examine: Callable[..., Answer],
    installed: Callable[[str], Path],
    logs: Path,
    sudoers_rule: Callable[[str], None],
    user_entry: pwd.struct_passwd,
) -> None:
    audit = f'audit=privsep.Audit("{logs}/beneath/calls.jsonl")'
    installed(f'capabilities=["CAP_CHOWN"], {audit}')
    sudoers_rule("examined:X")
    beneath = logs / "beneath"
    beneath.mkdir(mode=0o755)
    answer = examine("examined:X")
    assert answer.works, answer.text
    os.chown(logs, user_entry.pw_uid, user_entry.pw_gid)
    logs.chmod(0o700)  # so root may not even look for it, without a capability
    answer = examine("examined:X")
    assert not answer.works
    assert answer.says("audit file", "no", "is not for uid 0 to write")
    logs.chmod(0o755)
    os.chown(beneath, user_entry.pw_uid, user_entry.pw_gid)
    (beneath / "calls.jsonl").unlink()
    answer = examine("examined:X")
    assert not answer.works
    assert answer.says("audit file", "no", f"{beneath} is not for uid 0 to write")


def test_userns_would_not_work_with_a_user(
    examine: Callable[..., Answer], installed: Callable[[str], Path]
) -> None:
    installed('capabilities=[], user="nobody"')
    answer = examine("examined:X", become=())
    assert "start('userns') would not work: only root is mapped there" in answer.text


def test_a_module_that_raises_is_told_in_one_line(
    public_python: PublicPython, installed: Callable[[str], Path]
) -> None:
    for arguments, said in (
        ("capabilities=[absent]", "NameError: name 'absent' is not defined ({}:2)"),
        ("capabilities=[], timeout=0", "ValueError: timeout is 0; "),
        ("capabilities=[", "SyntaxError: "),
        (
            "capabilities=[])\nimport absent.thing\n#",
            "ModuleNotFoundError: No module named 'absent' ({}:3)",
        ),
    ):
        module = installed(arguments)
        done = subprocess.run(
            [public_python.command, "doctor", "examined:X"],
            capture_output=True,
            text=True,
            check=False,
        )
        begin = f"privsep doctor: examined: {said.format(module)}"
        assert done.stderr.startswith(begin), done.stderr
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_a_module_in_the_current_directory_is_told_not_to_count(
    public_python: PublicPython, public_path: Path
) -> None:
    (public_path / "beside.py").write_text("")
    said = [
        subprocess.run(
            [public_python.command, "doctor", f"{name}:context"],
            cwd=public_path,
            capture_output=True,
            text=True,
            check=False,
        ).stderr
        for name in ("beside", "absent")
    ]
    assert said == [
        (
            "privsep doctor: No module named 'beside': the current directory does not "
            "count; install the module, or run python3 -m privsep.cli doctor "
            "beside:context\n"
        ),
        "privsep doctor: No module named 'absent'\n",
    ]


def test_what_is_no_context_is_told(public_python: PublicPython) -> None:
    done = subprocess.run(
        [public_python.command, "doctor", "service:absent"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "privsep doctor: service:absent is not a privsep.Context "
        "(write MODULE:CONTEXT)\n"
    )
