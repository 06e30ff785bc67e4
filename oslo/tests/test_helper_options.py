"""The words that privsep-helper takes."""

from __future__ import annotations

import json
import pwd
import re
import subprocess
from pathlib import Path

import environments
from clients import needs_root, place, run

__all__ = ["place"]

#: of oslo.config itself; nobody starts a daemon by it
_LEFT_OUT = {"--shell_completion"}


def _help(side: str) -> str:
    helper = Path(environments.python(side)).with_name("privsep-helper")
    words = [helper, "--help"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def test_each_option_of_oslos_helper_is_taken() -> None:
    lines = re.findall(r"^  (-.*?)(?:  |$)", _help("theirs"), re.MULTILINE)
    options = []
    for line in lines:  # from 3.13 on only the last name has the value beside it
        names = [each.split() for each in line.split(", ")]
        options += [[name, *names[-1][1:]] for name, *_ in names]
    taken = [words for words in options if words[0] not in _LEFT_OUT | {"-h", "--help"}]
    assert len(taken) > 20
    script = f"""
import json
from oslo_privsep._words import Words
needed = ["--privsep_context", "a.b", "--privsep_sock_path", "/s"]
for words in {taken!r}:
    Words([*words, *needed])
print(json.dumps([Words([*words, *needed]).sock_path for words in {taken!r}]))
"""
    said = environments.finish(environments.begin("ours", "-c", script))
    assert json.loads(said) == ["/s"] * len(taken)


@needs_root
def test_files_of_a_directory_count_in_their_order_and_as_the_words_have_it(
    place: Path,
) -> None:
    directory = place / "conf.d"
    directory.mkdir()
    for name, user in (("a.conf", "daemon"), ("b.conf", "nobody"), ("c.txt", "root")):
        (directory / name).write_text(f"[neutronlike]\nuser = {user}\n")
    (place / "file.conf").write_text("[neutronlike]\nuser = daemon\n")
    said = run(
        f"""
uids = []
for words in ("--config-file {place}/file.conf --config-dir {directory}",
              "--config-dir={directory} --config-file={place}/file.conf"):
    helper = sys.prefix + "/bin/privsep-helper " + words
    cfg.CONF.set_override("helper_command", helper, group="neutronlike")
    uids.append(light.status("Uid")[0].split()[0])
    neutronlike.default.stop()
print(json.dumps(uids))
"""
    )
    assert said == [
        str(pwd.getpwnam("nobody").pw_uid),
        str(pwd.getpwnam("daemon").pw_uid),
    ]
