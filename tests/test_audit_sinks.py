"""Where the records go, and what happens when they cannot."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from audited import (
    OtherClient,
    audited,
    complete,
    ended,
    missing,
    only_root,
    parent_of,
    read,
    stopped,
    wait_for,
    wait_for_line,
    writer_pid,
)
from conftest import METHOD
from forks import in_child

import privsep
from privsep._lockdown import libc
from privsep._wire.frames import call_head
from privsep.audit import main as audit_command

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from audited import Audited, Start

__all__ = ["audited"]


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


# -- what cannot be written ----------------------------------------------------


@contextmanager
def little_room(size: int) -> Generator[None, None, None]:
    """Limit the size of files, as a full disk would, for what starts in it.

    No longer: the limit holds for a file that pytest itself writes its report to.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def when_said(text: str) -> threading.Event:
    """Return an event that is set when the daemon says so."""
    said = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if text in record.getMessage():
                said.set()
                logger.removeHandler(self)

    logger = logging.getLogger("privsep.audited")
    logger.addHandler(Handler())
    return said


def test_without_room_calls_run_and_the_loss_is_reported(
    audited: Start,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with little_room(1500):
        service = audited()
    for number in range(20):
        assert service.echo(number) == number
    records = service.records()
    ends = [x for x in records if x["event"] in ("call", "close")]
    assert len(ends) < 21
    assert "the audit cannot be written" in caplog.text
    assert len(ends) + missing(records, caplog) == 21


def test_without_room_calls_are_refused_where_they_must_be_recorded(
    audited: Start, caplog: pytest.LogCaptureFixture
) -> None:
    with little_room(1500):
        service = audited(on_failure="error")
    ran: list[int] = []

    def call_often() -> None:
        ran.extend(service.count() for _ in range(20))

    with pytest.raises(privsep.Refused, match="the audit cannot be written"):
        call_often()
    assert ran
    records = service.records()
    began = [x for x in records if x["event"] == "begin"]
    assert len(began) == len(ran)
    # Of each call one record is missing, not two: its beginning comes again in it.
    ends = [x for x in records if x["event"] in ("call", "close")]
    assert len(ends) + missing(records, caplog) == len(ran) + 1 + 1


def test_the_loss_is_recorded_when_there_is_room_again(
    audited: Start,
) -> None:
    if METHOD == "userns":
        pytest.skip("another process's limits are root's to change")
    with little_room(1500):
        service = audited()
    said = when_said("cannot be written")
    for number in range(20):
        service.echo(number)
    said.wait()
    opened = read(service.path)[0]
    none = resource.RLIM_INFINITY
    resource.prlimit(opened["writer"], resource.RLIMIT_FSIZE, (none, none))
    service.echo("again")
    wait_for_line(service.path, "lost")
    records = service.records()
    calls = [x for x in records if x["event"] == "call"]
    lost = sum(x["count"] for x in records if x["event"] == "lost")
    assert len(calls) + lost == 21


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


def _call_without_audit(service: Audited, on_failure: str, reason: str) -> None:
    """Call once; it runs, or is refused where no call may be unrecorded."""
    if on_failure == "error":
        with pytest.raises(privsep.Refused, match=reason):
            service.echo(2)
    else:
        assert service.echo(2) == 2


@pytest.mark.parametrize("on_failure", ["report", "error"])
def test_a_removed_directory_is_as_a_full_disk(
    audited: Start, on_failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = audited(on_failure=on_failure)
    service.echo(1)
    wait_for_line(service.path, "call")
    shutil.rmtree(service.path.parent)
    _call_without_audit(service, on_failure, "No such file or directory")
    service.context.stop()
    assert "the audit's file cannot be opened anew" in caplog.text


@only_root
@pytest.mark.parametrize("on_failure", ["report", "error"])
def test_without_its_writer_calls_are_refused_or_the_end_is_reported(
    audited: Start, on_failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = audited(on_failure=on_failure)
    service.echo(1)
    wait_for_line(service.path, "call")
    writer = read(service.path)[0]["writer"]
    with ended(writer) as end:
        os.kill(writer, signal.SIGKILL)
        end.poll()
    _call_without_audit(service, on_failure, "the audit's writer is gone")
    service.context.stop()
    assert f"the audit's writer {writer} has ended" in caplog.text


def test_a_service_of_the_lowest_priority_has_an_audit(audited: Start) -> None:
    def serve() -> object:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        service = audited()
        service.echo("recorded")
        return [x["arguments"] for x in service.calls()]

    assert in_child(serve) == """["'recorded'"]"""


# -- a writer that stands still ------------------------------------------------

_MORE_THAN_A_QUEUE = 3000


def test_a_writer_that_stands_still_hangs_no_call_and_none_is_lost_unseen(
    audited: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service = audited()
    service.echo("before")
    with stopped(writer_pid()):
        for number in range(_MORE_THAN_A_QUEUE):
            assert service.echo(number) == number
    records = service.records()
    lost = missing(records, caplog)
    assert lost > 0
    assert len(complete(records)) + lost == _MORE_THAN_A_QUEUE + 1


def test_an_exception_in_a_call_that_was_lost_marks_no_other(audited: Start) -> None:
    service = audited()
    with stopped(writer_pid()):
        for number in range(_MORE_THAN_A_QUEUE):
            service.echo(number)
        with pytest.raises(KeyError):
            service.fail("KeyError")
    wait_for_line(service.path, "call")
    service.echo("afterwards")
    assert {x["outcome"] for x in service.calls()} <= {"returned", "unknown"}


def test_refusals_that_a_writer_does_not_take_are_counted(
    audited: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service = audited()
    service.echo(1)
    assert service.context.client is not None
    assert service.context.client._connection is not None
    control = service.context.client._connection._control
    with stopped(writer_pid()):
        for _ in range(_MORE_THAN_A_QUEUE):
            control.send(b"no such request")
    service.echo(2)
    records = service.records()
    refused = [x for x in records if x["event"] == "refused"]
    assert len(refused) + missing(records, caplog) == _MORE_THAN_A_QUEUE
    assert records[-1]["outcome"] == "ended"


def test_refusals_crowd_out_nobodys_calls(audited: Start) -> None:
    service = audited()
    service.echo(1)
    assert service.context.client is not None
    assert service.context.client._connection is not None
    control = service.context.client._connection._control
    with (
        OtherClient(lambda: service.echo("other")) as other,
        stopped(writer_pid()),
    ):
        for _ in range(_MORE_THAN_A_QUEUE):
            control.send(b"no such request")
        assert other.step() == "'other'"
    calls = complete(service.records())
    assert [x["arguments"] for x in calls] == ["1", "'other'"]


def test_a_writer_that_stands_still_refuses_calls_that_must_be_recorded(
    audited: Start,
) -> None:
    service = audited(on_failure="error")
    assert service.count() == 1
    with (
        stopped(writer_pid()),
        pytest.raises(privsep.Refused, match="the audit's writer does not answer"),
    ):
        service.count()
    assert service.count() == 2  # the second did not run
    outcomes = [x["outcome"] for x in service.calls()]
    assert outcomes == ["returned", "refused", "returned"]


# -- a disk that is full -------------------------------------------------------

_CLONE_NEWNS, _CLONE_NEWNET = 0x20000, 0x40000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000


def hide_mounts() -> None:
    """Keep to this process, and its children, what it mounts from now on."""
    libc.unshare(_CLONE_NEWNS)
    libc.mount("none", "/", "none", _MS_REC | _MS_PRIVATE)


def fill(path: Path) -> None:
    """Write until there is no room left."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(512))
        except OSError:
            return


@only_root
@pytest.mark.parametrize("on_failure", ["report", "error"])
def test_on_a_full_disk_nothing_is_lost_unseen_and_it_goes_on_when_there_is_room(
    audited: Start, tmp_path: Path, on_failure: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()

    def call_with_and_without_room() -> None:
        hide_mounts()
        libc.mount("none", str(disk), "tmpfs", 0, "size=64k")
        service = audited(disk / "log" / "audit.jsonl", on_failure=on_failure)
        said = when_said("the audit cannot be written")
        fill(disk / "filler")
        ran = refused = 0
        while not (said.is_set() if on_failure == "report" else refused):
            try:
                service.count()
            except privsep.Refused:
                refused += 1
            else:
                ran += 1
        (disk / "filler").unlink()
        assert service.count() == ran + 1
        records = service.records()
        ends = [x for x in records if x["event"] == "call"]
        lost = sum(x["count"] for x in records if x["event"] == "lost")
        assert lost > 0 or on_failure == "error"
        assert len(ends) + lost == ran + refused + 1

    in_child(call_with_and_without_room)


# -- other sinks ---------------------------------------------------------------


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """A datagram socket as syslog and journald have it.

    As long as it is not read it holds eleven datagrams (net.unix.max_dgram_qlen).
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "socket"))
        yield sock


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


@contextmanager
def bound(path: Path) -> Generator[socket.socket, None, None]:
    """Give a datagram socket at a path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        yield sock


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
        libc.unshare(_CLONE_NEWNET)  # it would have the kernel audit
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


def test_one_sink_that_fails_leaves_the_others(
    audited: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = audited(syslog=str(tmp_path / "nobody"))
    service.echo(1)
    assert [call["arguments"] for call in service.calls()] == ["1"]
    assert "the audit cannot be written" in caplog.text


# -- a log that nobody reads ---------------------------------------------------


def fill_queue(listener: socket.socket) -> None:
    """Send until nothing more is taken."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        try:
            while True:
                sock.sendto(b"filler", listener.getsockname())
        except BlockingIOError:
            return


def empty_queue(listener: socket.socket) -> list[bytes]:
    """Return what was sent."""
    listener.setblocking(False)
    found = []
    while True:
        try:
            found.append(listener.recv(4096))
        except BlockingIOError:
            return found


@pytest.mark.parametrize("sink", ["syslog", "journald"])
def test_a_log_that_nobody_reads_hangs_no_call_and_the_file_has_them_all(
    audited: Start,
    listener: socket.socket,
    caplog: pytest.LogCaptureFixture,
    sink: str,
) -> None:
    fill_queue(listener)
    service = audited(**{sink: listener.getsockname()})
    for number in range(_MORE_THAN_A_QUEUE):
        assert service.echo(number) == number
    records = service.records()
    assert "is full: nobody reads it" in caplog.text
    calls = [int(x["arguments"]) for x in complete(records)]
    assert calls == list(range(_MORE_THAN_A_QUEUE))
    # What the log lacks is counted: each call, and that the daemon has ended.
    assert f"the audit lacks {_MORE_THAN_A_QUEUE + 1} records" in caplog.text


def test_a_log_that_nobody_reads_refuses_calls_that_must_be_recorded(
    audited: Start, listener: socket.socket
) -> None:
    service = audited(on_failure="error", syslog=listener.getsockname())
    assert service.count() == 1
    fill_queue(listener)
    for _ in range(2):
        with pytest.raises(privsep.Refused, match="is full: nobody reads it"):
            service.count()
    empty_queue(listener)
    assert service.count() == 2


def test_an_answer_to_another_call_is_not_taken_for_this_ones(
    audited: Start, listener: socket.socket
) -> None:
    service = audited(on_failure="error", syslog=listener.getsockname())
    service.attacks.begin_another_call()  # which is recorded, but was not asked for
    fill_queue(listener)
    with pytest.raises(privsep.Refused, match="is full: nobody reads it"):
        service.count()
    empty_queue(listener)
    assert service.count() == 1


def test_a_log_that_is_started_anew_is_found(audited: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with bound(path) as first:
        service = audited(syslog=str(path))
        service.echo(1)
        wait_for_line(service.path, "call")
        assert b'"arguments":"1"' in b"".join(empty_queue(first))
    path.unlink()
    with bound(path) as second:
        service.echo(2)
        service.context.stop()
        assert b'"arguments":"2"' in b"".join(empty_queue(second))
