"""What a service's files of configuration say, and whose they have to be for it."""

from __future__ import annotations

import json
import os
import pwd
from typing import TYPE_CHECKING

import environments
import pytest
from clients import BEGIN, configuration, needs_root, place, run

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["configuration", "place"]


def test_oslo_config_has_the_clients_files_in_a_daemon_that_loads_it(
    configuration: Path,
) -> None:
    configuration.write_text("[neutronlike]\nlogger_name = mine\n")
    said = run(
        """
print(json.dumps([light.loaded("oslo_config"),
                  operations.option("neutronlike", "logger_name")]))
""",
        configuration,
    )
    assert said == [[], "mine"]


@needs_root
def test_a_file_that_is_not_roots_is_read_and_sets_no_privileges(
    configuration: Path,
) -> None:
    configuration.write_text(
        "[neutronlike]\nuser = daemon\ncapabilities = CAP_SYS_PTRACE\n"
        "group = daemon\nhardening = strict\nlogger_name = theirs\n"
        "thread_pool_size = 3\n"
    )
    os.chown(configuration, pwd.getpwnam("nobody").pw_uid, -1)
    configuration.chmod(0o600)
    said = run(
        """
logging.getLogger("theirs").addHandler(Handler())
status = light.status("Uid", "CapEff", "NoNewPrivs")
option = operations.option("neutronlike", "logger_name")
operations.echo(1)
neutronlike.default.stop()
warned = [text for level, text in logged if level == "WARNING" and "ignored" in text]
print(json.dumps([status, option, warned]))
""",
        configuration,
    )
    status, option, warned = said
    assert status[0].split() == ["0"] * 4
    assert int(status[1], 16) == 1 << 21 | 1 << 12
    assert status[2] == "0"
    assert option == "theirs"
    for name in ("user", "group", "capabilities", "hardening"):
        (line,) = [text for text in warned if f"[neutronlike] {name} is" in text]
        assert str(configuration) in line


@needs_root
@pytest.mark.parametrize("method", ["FORK", "ROOTWRAP"])
def test_a_file_of_roots_sets_user_group_and_capabilities(
    configuration: Path, method: str
) -> None:
    configuration.write_text(
        "[neutronlike]\nuser = daemon\ngroup = daemon\ncapabilities = CAP_NET_RAW, 21\n"
    )
    said = run(
        f"""
neutronlike.default.start(priv_context.Method.{method})
print(json.dumps(light.status("Uid", "Gid", "Groups", "CapEff", "CapPrm")))
""",
        configuration,
    )
    entry = pwd.getpwnam("daemon")
    assert said[0].split() == [str(entry.pw_uid)] * 4
    assert said[1].split() == [str(entry.pw_gid)] * 4
    assert set(said[2].split()) <= {str(entry.pw_gid)}
    assert int(said[3], 16) == int(said[4], 16) == 1 << 13 | 1 << 21


@needs_root
def test_compatible_leaves_programs_what_root_has_and_warns_once(
    configuration: Path,
) -> None:
    configuration.write_text("[neutronlike]\nuser = root\n")
    said = run(
        """
child = light.status_of_child("CapEff", "NoNewPrivs")
umask = light.status("Umask")
neutronlike.default.stop()
warned = [text for level, text in logged if level == "WARNING" and "compatible" in text]
bounds = [line for line in open("/proc/self/status") if line.startswith("CapBnd")]
print(json.dumps([child, umask, len(warned), bounds[0].split()[1]]))
""",
        configuration,
    )
    (effective, no_new), umask, warned, bounding = said
    assert (effective, no_new) == (bounding, "0")
    assert umask == ["0000"]
    assert warned == 1


@needs_root
@pytest.mark.parametrize("loads", ["operations.echo(1)", "light.loaded('x')"])
def test_no_line_of_a_file_that_only_root_reads_gets_out(
    configuration: Path, loads: str
) -> None:
    configuration.write_text("[other]\nvery secret\n[neutronlike]\nuser = root\n")
    configuration.chmod(0o600)
    text = f"{BEGIN}\ncfg.CONF([])\n{loads}\noperations.option('neutronlike', 'user')"
    text = text.replace("cfg.CONF([word", "dict(x=[word", 1)
    client = environments.begin("ours", "-c", text, str(configuration))
    said, trouble = client.communicate()
    assert client.returncode == 1
    assert "cannot read" in trouble
    assert "secret" not in said + trouble


@needs_root
@pytest.mark.parametrize("method", ["FORK", "ROOTWRAP"])
def test_strict_binds_programs_to_the_contexts_capabilities(
    configuration: Path, method: str
) -> None:
    configuration.write_text("[neutronlike]\nhardening = strict\n")
    said = run(
        f"""
neutronlike.default.start(priv_context.Method.{method})
child = light.status_of_child("CapEff", "CapBnd", "NoNewPrivs")
umask = light.status("Umask")
neutronlike.default.stop()
warned = [text for level, text in logged if "compatible" in text]
print(json.dumps([child, umask, warned]))
""",
        configuration,
    )
    (effective, bounding, no_new), umask, warned = said
    assert int(effective, 16) == int(bounding, 16) == 1 << 21 | 1 << 12
    assert no_new == "1"
    assert umask == ["0022"]
    assert warned == []


def test_a_worker_that_is_a_process_is_killed_at_its_timeout(
    configuration: Path,
) -> None:
    configuration.write_text("[neutronlike]\nworker_type = process\n")
    said = run(
        """
operations.echo(1)  # so that there is a worker
try:
    operations.evaluate("open('/proc/self/stat').read() and time.sleep(1000)",
                        _wrap_timeout=0.5)
except daemon.PrivsepTimeout as error:
    print(json.dumps([str(error), operations.echo(1)]))
""",
        configuration,
    )
    assert "was killed" in said[0]
    assert said[1] == 1


_SETTINGS = (
    "[s]\nuser = a\n",
    "[s]\nuser=a\nuser=b\n",
    "[s]\nuser: a\n",
    "[S]\nuser = a\n",
    "[s]\nuser = a # b\n",
    "[s]\nuser = 'a'\n",
    '[s]\nuser = "a b"\n',
    "[s]\nuser =\n",
    "[s]\n# user = a\n; user = b\n",
    "[s]\nuser = a\n b\n",
    "[s]\nuser = $group\ngroup = g\n",
    "[s]\nuser = $$x\n",
    "[DEFAULT]\nuser = a\n[s]\ngroup = g\n",
    "[t]\nuser = a\n[s]\n",
    "[s]\nuser = a\n[t]\nuser = b\n[s]\nuser = c\n",
    "[s]\nother = x\n  continued\nuser = a\n",
    "[s]\nuser = a.b@c\n",
    "[s]\nuser = a=b\n",
    "[s]\ncapabilities = CAP_CHOWN, 3\n",
    "[s]\ncapabilities =\n",
    "[s]\ncapabilities = CAP_CHOWN,\n 3\n",
    '[s]\ncapabilities = "CAP_CHOWN,CAP_KILL"\n',
    "[s]\ncapabilities = cap_chown\n",
    "[s]\nthread_pool_size = 4\n",
    "[s]\nthread-pool-size = 4\n",
    "[s]\nthread_pool_size = 0\n",
    "[s]\nthread_pool_size = x\n",
    "[s]\nhardening = strict\n",
    "[s]\nhardening = none\n",
    "[s]\nworker_type = process\n",
    "[s]\nnonsense\n",
    "user = a\n[s]\n",
    "",
)


def test_the_daemons_reader_of_options_agrees_with_oslo_config() -> None:
    script = f"""
import json, os, sys, tempfile
from oslo_privsep import _options, _settings
_options.declare("s", [1])
texts = {_SETTINGS!r}
rows = []
from oslo_config import cfg
for text in texts:
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(text); file.flush()
        try:
            said = []
            files = [_settings.File(file.name, text, True)]
            ours = list(_settings.read("s", files, said.append))
        except Exception as error:
            ours = "refused"
        try:
            cfg.CONF(["--config-file", file.name], project="x")
            conf = _options.register("s")
            theirs = [conf[name] for name in _settings.Settings._fields]
        except Exception as error:
            theirs = "refused"
    rows.append((text, ours, theirs))
print(json.dumps(rows))
"""
    out = environments.finish(environments.begin("ours", "-c", script))
    differ = [row for row in json.loads(out) if row[1] != row[2]]
    assert differ == []


def test_the_generator_of_configuration_knows_the_options() -> None:
    words = ["-m", "oslo_config.generator", "--namespace", "oslo.privsep"]
    sample = environments.finish(environments.begin("ours", *words))
    assert "[privsep]" in sample
    for name in ("user", "group", "capabilities", "thread_pool_size", "helper_command"):
        assert f"\n#{name} =" in sample
    for name in ("logger_name", "log_daemon_traceback", "hardening", "worker_type"):
        assert f"\n#{name} =" in sample
