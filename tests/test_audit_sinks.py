"""Where the records go: the file, syslog, journald."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from audited import (
    CLONE_NEWNET,
    audited,
    hide_mounts,
    listener,
    missing,
    only_root,
    parent_of,
    read,
    wait_for,
    wait_for_line,
    writer_pid,
)
from forks import in_child
from observe import daemon_pid

import privsep
from privsep._lockdown import libc
from privsep._wire.frames import call_head
from privsep.audit import main as audit_command

if TYPE_CHECKING:
    import socket

    from audited import Start

__all__ = ["audited", "listener"]


# -- the file ------------------------------------------------------------------


@pytest.mark.parametrize("whom", ["daemon", "writer"])
def test_sighup_opens_the_file_anew_and_the_chain_goes_on(
    audited: Start, whom: str
) -> None:
    service = audited()
    service.echo(1)
    wait_for_line(service.path, "call")
    writer = writer_pid()
    old = service.path.with_suffix(".1")
    service.path.rename(old)
    os.kill(parent_of(writer) if whom == "daemon" else writer, signal.SIGHUP)
    wait_for_line(service.path, "open")
    service.echo(2)
    service.context.stop()
    assert audit_command(["verify", str(old), str(service.path)]) == 0
    assert [x["arguments"] for x in read(service.path) if x["event"] == "call"] == ["2"]
    assert service.path.stat().st_mode & 0o777 == 0o600


def test_no_call_is_lost_while_the_file_is_rotated(
    audited: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service = audited()
    writer = writer_pid()
    rotated: list[Path] = []
    made: list[object] = []
    enough = threading.Event()

    def call_until_enough() -> None:
        while not enough.is_set():
            made.append(service.echo(len(made)))

    caller = threading.Thread(target=call_until_enough)
    caller.start()
    for number in range(8):
        wait_for_line(service.path, "call")
        rotated.append(service.path.with_suffix(f".{number}"))
        service.path.rename(rotated[-1])
        os.kill(writer, signal.SIGHUP)
    wait_for_line(service.path, "call")
    enough.set()
    caller.join()
    service.context.stop()
    files = [*rotated, service.path]
    assert audit_command(["verify", *map(str, files)]) == 0
    records = [record for file in files for record in read(file)]
    calls = [int(x["arguments"]) for x in records if x["event"] == "call"]
    assert len(set(calls)) == len(calls)
    assert len(calls) + missing(records, caplog) == len(made)


def test_a_second_daemon_of_the_same_file_does_not_start(audited: Start) -> None:
    service = audited()
    with pytest.raises(privsep.StartError, match="is written by another daemon"):
        audited(service.path)


@pytest.mark.parametrize(
    ("mode", "said"), [(0o660, "mode 0660"), (0o602, "mode 0602"), (0o644, "")]
)
@pytest.mark.parametrize("suffix", ["", ".head"])
def test_a_file_that_others_may_write_is_refused(
    audited: Start, tmp_path: Path, mode: int, said: str, suffix: str
) -> None:
    path = tmp_path / "log" / "audit.jsonl"
    path.parent.mkdir()
    other = Path(f"{path}{suffix}")
    other.touch()
    other.chmod(mode)
    if said:
        with pytest.raises(privsep.StartError, match=said):
            audited(path)
    else:
        audited(path)


@only_root
def test_a_file_of_another_user_is_refused(audited: Start, tmp_path: Path) -> None:
    path = tmp_path / "log" / "audit.jsonl"
    path.parent.mkdir()
    path.touch()
    path.chmod(0o606)  # without capabilities the writer could not open it, else
    os.chown(path, 65534, 65534)
    with pytest.raises(privsep.StartError, match="is uid 65534's"):
        audited(path)


def test_what_is_no_regular_file_is_refused(audited: Start, tmp_path: Path) -> None:
    directory = tmp_path / "log"
    (directory / "directory").mkdir(parents=True)
    os.mkfifo(directory / "fifo")
    (directory / "link").symlink_to("elsewhere")
    for name, said in (
        ("directory", "Is a directory"),
        ("fifo", "is no regular file"),
        ("link", "Too many levels of symbolic links"),
    ):
        with pytest.raises(privsep.StartError, match=said):
            audited(directory / name)


def test_a_deleted_file_is_made_again(audited: Start) -> None:
    service = audited()
    service.echo(1)
    wait_for_line(service.path, "call")
    last = read(service.path)[-1]
    service.path.unlink()
    service.echo(2)
    service.context.stop()
    opened, *_, call, _ = read(service.path)
    assert (opened["reason"], opened["prev"]) == ("deleted", last["hash"])
    assert (call["event"], call["arguments"]) == ("call", "2")


def test_a_service_of_the_lowest_priority_has_an_audit(audited: Start) -> None:
    def serve() -> object:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        service = audited()
        with suppress(PermissionError):  # beside others that run it takes minutes
            for pid in (os.getpid(), daemon_pid(), writer_pid()):
                os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
        service.echo("recorded")
        return [x["arguments"] for x in service.calls()]

    assert in_child(serve) == """["'recorded'"]"""


# -- other sinks ---------------------------------------------------------------


def test_syslog_gets_the_records_and_the_head(
    audited: Start, listener: socket.socket
) -> None:
    service = audited(syslog=listener.getsockname(), head_every=3)
    service.echo(1)
    service.echo(2)
    records = service.records()
    heads: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    last = {"context": "audited", "seq": records[-1]["seq"]}
    last |= {"event": "head", "hash": records[-1]["hash"]}
    while last not in heads:
        priority, _, message = listener.recv(4096).decode().partition(">")
        record = json.loads(message.partition("]: ")[2])
        {"<85": heads, "<86": lines}[priority].append(record)
    assert lines == records
    assert len(heads) > 1


def fields_of(entry: bytes) -> dict[str, str]:
    """Read what journald's native protocol has in a datagram."""
    fields = {}
    while entry:
        name, _, rest = entry.partition(b"\n")
        (size,) = struct.unpack_from("<Q", rest)
        fields[name.decode()] = rest[8 : 8 + size].decode()
        assert rest[8 + size :][:1] == b"\n"
        entry = rest[8 + size + 1 :]
    return fields


def test_journald_gets_the_records(audited: Start, listener: socket.socket) -> None:
    name = "of two\nlines=1"
    service = audited(journald=listener.getsockname(), name=name)
    service.echo(1)
    records = service.records()
    for record in records:
        fields = fields_of(listener.recv(4096))
        assert json.loads(fields["MESSAGE"]) == record
        assert fields["PRIVSEP_CONTEXT"] == record["context"] == name
        assert fields["SYSLOG_IDENTIFIER"] == "privsep"


def test_the_longest_record_fits_into_a_datagram(
    audited: Start, listener: socket.socket
) -> None:
    service = audited(journald=listener.getsockname(), name="\x01" * 200)
    entry = service.context._table["service.echo"]
    hostile = b"\x01" * 65535
    client = service.context.client
    assert client is not None
    with pytest.raises(privsep.Refused):
        hostile_entry = entry._replace(wire_name=hostile, head=call_head(hostile))
        client.call(hostile_entry, (), {})
    (refused,) = service.calls()
    assert len(refused["entrypoint"]) == 200
    messages = [fields_of(listener.recv(10_000))["MESSAGE"] for _ in range(3)]
    assert json.loads(messages[1]) == refused
    assert max(map(len, messages)) < 6000


_JOURNALD = "/lib/systemd/systemd-journald"


@only_root
@pytest.mark.skipif(not os.path.exists(_JOURNALD), reason="journald is not installed")
def test_the_systems_own_journald_understands_both_protocols(
    audited: Start, tmp_path: Path
) -> None:
    name = "of two\nlines=1"
    (tmp_path / "run").mkdir()

    def record_in_the_journal() -> None:
        hide_mounts()
        libc.unshare(CLONE_NEWNET)  # it would have the kernel audit
        libc.mount("none", "/run", "tmpfs", 0)
        settings = Path("/run/systemd/journald.conf.d/settings.conf")
        settings.parent.mkdir(parents=True)
        settings.write_text("[Journal]\nStorage=volatile\nAudit=no\nReadKMsg=no\n")
        Path("/run/log/journal").mkdir(parents=True)
        sockets = Path("/run/systemd/journal")
        sockets.mkdir()
        with subprocess.Popen([_JOURNALD], stderr=subprocess.DEVNULL) as journald:
            for socket_name in ("socket", "dev-log", "io.systemd.journal"):
                wait_for(sockets, (sockets / socket_name).exists)
            service = audited(
                journald=str(sockets / "socket"),
                syslog=str(sockets / "dev-log"),
                name=name,
            )
            service.echo("\n\0\udc80\U0001f600")
            records = service.records()
            subprocess.run(["journalctl", "--sync"], check=True)
            journald.terminate()
        journal = ["journalctl", "--directory=/run/log/journal", "--output=json"]
        shown = subprocess.run(
            [*journal, "SYSLOG_IDENTIFIER=privsep"], check=True, capture_output=True
        )
        entries = list(map(json.loads, shown.stdout.splitlines()))
        head = {"event": "head"} | {
            key: records[-1][key] for key in ("context", "hash", "seq")
        }
        for transport in ("journal", "syslog"):
            found = [x for x in entries if x["_TRANSPORT"] == transport]
            assert [json.loads(x["MESSAGE"]) for x in found] == [*records, head]
            assert [x["PRIORITY"] for x in found] == [*"6" * len(records), "5"]
        assert {x.get("PRIVSEP_CONTEXT") for x in entries} == {name, None}
        assert {x["SYSLOG_FACILITY"] for x in entries} == {"10"}

    in_child(record_in_the_journal)
