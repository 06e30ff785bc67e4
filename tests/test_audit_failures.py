"""What happens when records cannot be written."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import signal
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import compromised  # noqa: F401 - compiled while there is room for their bytecode
import pytest
import secretive  # noqa: F401
from audited import (
    OtherClient,
    audited,
    bound,
    complete,
    ended,
    hide_mounts,
    listener,
    missing,
    only_root,
    read,
    stopped,
    wait_for_line,
    writer_pid,
)
from conftest import METHOD
from forks import in_child

import privsep
from privsep._lockdown import libc

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from audited import Audited, Start

__all__ = ["audited", "listener"]


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


def _call_without_audit(service: Audited, on_failure: str, reason: str) -> None:
    """Call once; it runs, or is refused where no call may be unrecorded."""
    if on_failure == "error":
        with pytest.raises(privsep.Refused, match=reason):
            service.echo(2)
    else:
        assert service.echo(2) == 2


@pytest.mark.parametrize("on_failure", ["report", "error"])
def test_a_removed_directory_is_as_a_full_disk(
    audited: Start,
    tmp_path: Path,
    on_failure: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = audited(on_failure=on_failure)
    service.echo(1)
    wait_for_line(service.path, "call")
    # At once: in a directory that is emptied the writer would make the file again.
    removed = tmp_path / "removed"
    service.path.parent.rename(removed)
    shutil.rmtree(removed)
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


def test_one_sink_that_fails_leaves_the_others(
    audited: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = audited(syslog=str(tmp_path / "nobody"))
    service.echo(1)
    assert [call["arguments"] for call in service.calls()] == ["1"]
    assert "the audit cannot be written" in caplog.text


# -- a writer that stands still ------------------------------------------------


_MORE_THAN_A_QUEUE = 3000
#: a worker loses none of these, however long the writer gets no processor
_LESS_THAN_A_QUEUE = 100


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
    # Each has a line of its own to the writer, who may take the later one first.
    calls = complete(service.records())
    assert {str(x["arguments"]) for x in calls} == {"1", "'other'"}
    assert len(calls) == 2


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
        # Room for all that may wait in the queue when there is some again.
        libc.mount("none", str(disk), "tmpfs", 0, "size=8m")
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
    for number in range(_LESS_THAN_A_QUEUE):
        assert service.echo(number) == number
    records = service.records()
    assert "is full: nobody reads it" in caplog.text
    calls = [int(x["arguments"]) for x in complete(records)]
    assert calls == list(range(_LESS_THAN_A_QUEUE))
    # What the log lacks is counted: each call, and that the daemon has ended.
    assert f"the audit lacks {_LESS_THAN_A_QUEUE + 1} records" in caplog.text


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
        while b'"arguments":"1"' not in first.recv(4096):
            pass
    path.unlink()
    with bound(path) as second:
        service.echo(2)
        service.context.stop()
        assert b'"arguments":"2"' in b"".join(empty_queue(second))
