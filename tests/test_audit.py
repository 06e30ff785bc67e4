"""Every call and every refusal is on record, and a change of the record shows.

A test makes a module of its own with a context of its own, so that a daemon that is
a new interpreter finds the same one.
"""

from __future__ import annotations

import ctypes
import datetime
import importlib
import json
import logging
import os
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import IS_ROOT, METHOD
from observe import daemon_pid
from service import Service

import privsep
from privsep.audit import main as audit_command

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    Start = Callable[..., "Audited"]

_IN_MODIFY, _IN_CREATE = 0x2, 0x100

_MODULE = """\
import privsep
from service import Service

context = privsep.Context(
    "audited", capabilities=[], timeout=10.0, prefix="service",
    audit=privsep.Audit({audit}), {options}
)
service = Service(context)
"""

only_root = pytest.mark.skipif(not IS_ROOT, reason="needs root: another uid")


class Audited(Service):
    """A started service whose context has an audit."""

    def __init__(self, context: privsep.Context, path: Path) -> None:
        super().__init__(context)
        self.path = path

    def records(self) -> list[dict[str, Any]]:
        """Stop the daemon, and return what was recorded."""
        self.context.stop()
        assert audit_command(["verify", str(self.path)]) == 0
        return read(self.path)

    def calls(self) -> list[dict[str, Any]]:
        return [x for x in self.records() if x["event"] in ("call", "refused")]


def read(path: Path) -> list[dict[str, Any]]:
    """Return the records in a file, of which the last may be half written."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def missing(records: list[dict[str, Any]], caplog: pytest.LogCaptureFixture) -> int:
    """Return how many records were reported to be missing."""
    said = re.findall(r"the audit lacks (\d+) ", caplog.text)
    counted = [x["count"] for x in records if x["event"] == "lost"]
    return sum(map(int, said)) + sum(map(int, counted))


@pytest.fixture
def audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return a function that starts a service with an audit."""
    monkeypatch.syspath_prepend(tmp_path)
    started: list[Audited] = []
    names: list[str] = []

    def start_service(path: Path | None = None, **options: object) -> Audited:
        path = tmp_path / "log" / "audit.jsonl" if path is None else path
        path.parent.mkdir(exist_ok=True)
        audit: dict[str, object] = {
            "file": str(path),
            **{
                name: options.pop(name)
                for name in ("on_failure", "syslog", "journald", "head_every")
                if name in options
            },
        }
        name = f"audited_{len(names)}"
        names.append(name)
        (tmp_path / f"{name}.py").write_text(
            _MODULE.format(audit=_keywords(audit), options=_keywords(options))
        )
        importlib.invalidate_caches()
        module = importlib.import_module(name)
        service = object.__new__(Audited)
        service.__dict__.update(vars(module.service))
        service.path = path
        service.context.start(METHOD)
        started.append(service)
        return service

    yield start_service
    for service in started:
        service.context.stop()
    for name in names:
        sys.modules.pop(name, None)


def _keywords(values: dict[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def now() -> str:
    """Return the time as the records have it."""
    when = datetime.datetime.now(datetime.UTC)
    return when.isoformat(timespec="microseconds").replace("+00:00", "Z")


def peer() -> dict[str, int]:
    """Whom the daemon sees: in a pid namespace it sees no pid of outside."""
    if METHOD == "userns":
        return {"gid": 0, "pid": 0, "uid": 0}
    return {"gid": os.getegid(), "pid": os.getpid(), "uid": os.geteuid()}


def wait_for_line(path: Path, event: str) -> None:
    """Wait, without a limit of its own, until a record of that kind is in the file."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_CLOEXEC)
    try:
        libc.inotify_add_watch(watch, bytes(path.parent), _IN_MODIFY | _IN_CREATE)
        while not path.exists() or event not in (x["event"] for x in read(path)):
            os.read(watch, 4096)
    finally:
        os.close(watch)


def writer_of(service: Audited) -> int:
    """Return the writer's pid, as the outer namespace has it.

    It alone of the daemon's processes holds the file open; a root of a user
    namespace is not looked into, so there its place among the children tells.
    """
    daemons = _below(os.getpid())
    for pid in daemons:
        try:
            open_files = [
                os.readlink(f"/proc/{pid}/fd/{fd}")
                for fd in os.listdir(f"/proc/{pid}/fd")
            ]
        except OSError:
            continue
        if str(service.path) in open_files:
            return pid
    pytest.skip("the writer cannot be found: it is not to be looked into")


@contextmanager
def ended(pid: int) -> Generator[select.poll, None, None]:
    """Give a poll object that is ready when the process has ended."""
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    try:
        yield poll
    finally:
        os.close(pidfd)


def _below(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *_below(child)]
    return found


# -- what is recorded ----------------------------------------------------------


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_a_call_is_recorded_with_all_that_is_known_of_it(
    audited: Start, isolation: str
) -> None:
    service = audited(isolation=isolation)
    began, before = time.monotonic(), now()
    assert service.echo(value="x") == "x"
    (call,) = service.calls()
    assert call["entrypoint"] == "service.echo"
    assert call["arguments"] == "value='x'"
    assert call["context"] == "audited"
    assert call["outcome"] == "returned"
    assert call["peer"] == peer()
    assert 0 <= call["duration"] < (time.monotonic() - began) * 1e6
    assert before <= call["time"] <= now()


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_a_failing_call_is_recorded_with_its_exceptions_class_alone(
    audited: Start, isolation: str
) -> None:
    service = audited(isolation=isolation)
    with pytest.raises(KeyError):
        service.fail("KeyError")
    service.echo(1)
    failed, then = service.calls()
    assert (failed["outcome"], failed["error"]) == ("raised", "builtins.KeyError")
    assert then["outcome"] == "returned"
    assert "error" not in then


def test_arguments_are_short_and_bytes_are_not_shown(audited: Start) -> None:
    service = audited()
    long = "x" * 10_000
    for value in (b"secret", long, {"key": "hidden"}, [[1, 2], "a"], 10**5000, "\n"):
        service.echo(value)
    service.echo([long] * 8)
    shown = [call["arguments"] for call in service.calls()]
    assert shown[0] == "<bytes of 6>"
    assert shown[1] == f"{long[:64]!r}..."
    assert shown[2] == "<dict of 1>"
    assert shown[3] == "[<list of 2>, 'a']"
    assert shown[4] == "<int>"
    assert shown[5] == r"'\n'"
    assert len(shown[6]) == 200


def test_a_call_of_what_is_no_entrypoint_is_recorded(audited: Start) -> None:
    service = audited()
    entry = service.context._table["service.echo"]
    missing = entry._replace(name="service.gone", wire_name=b"service.gone")
    from privsep._wire.frames import call_head

    client = service.context.client
    assert client is not None
    with pytest.raises(privsep.Refused):
        client.call(missing._replace(head=call_head(b"service.gone")), (), {})
    (refused,) = service.calls()
    assert refused["event"] == "refused"
    assert refused["entrypoint"] == "service.gone"
    assert "is not an entrypoint" in refused["reason"]
    assert refused["peer"] == peer()


def test_a_request_that_the_supervisor_refuses_is_recorded(audited: Start) -> None:
    service = audited()
    service.echo(1)
    client = service.context.client
    assert client is not None
    assert client._connection is not None
    client._connection._control.send(b"no such request")
    service.echo(2)
    refused = [x for x in service.calls() if x["event"] == "refused"]
    assert [x["reason"] for x in refused] == ["not a request for a worker"]
    assert refused[0]["peer"] == peer()


def test_a_call_that_is_killed_at_its_deadline_leaves_its_record(
    audited: Start,
) -> None:
    service = audited()
    with pytest.raises(privsep.CallTimeout):
        service.short_sleep(60)
    (call,) = service.calls()
    assert call["entrypoint"] == "service.short_sleep"
    # whoever was first of the supervisor and the client
    assert call["outcome"] in ("timeout", "cancelled")
    assert call["signal"] == signal.SIGKILL
    assert call["peer"] == peer()


@pytest.mark.parametrize(
    ("entrypoint", "argument", "end"),
    [
        ("exit_with", 3, {"status": 3}),
        ("exit_with", 0, {"status": 0}),
        ("kill_self", 9, {"signal": 9}),
    ],
)
def test_a_worker_that_dies_leaves_its_record(
    audited: Start, entrypoint: str, argument: int, end: dict[str, int]
) -> None:
    service = audited()
    with pytest.raises(privsep.WorkerDied):
        getattr(service, entrypoint)(argument)
    (call,) = service.calls()
    assert call["outcome"] == "died"
    assert end.items() <= call.items()
    assert call["peer"] == peer()


def test_a_call_is_on_record_while_it_runs(audited: Start, tmp_path: Path) -> None:
    service = audited()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    caller = threading.Thread(target=service.wait_for_writer, args=(str(fifo),))
    caller.start()
    wait_for_line(service.path, "begin")
    fifo.write_text("go")
    caller.join()
    records = service.records()
    begin = next(x for x in records if x["event"] == "begin")
    call = next(x for x in records if x["event"] == "call")
    assert call["begun"] == begin["seq"]
    assert begin["time"] == call["time"]


def test_what_runs_when_the_daemon_is_killed_is_recorded(
    audited: Start, tmp_path: Path
) -> None:
    if METHOD == "userns":
        pytest.skip("the writer dies with its namespace's init")
    service = audited()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def call() -> None:
        with pytest.raises(privsep.DaemonGone):
            service.wait_for_writer(str(fifo))

    caller = threading.Thread(target=call)
    caller.start()
    wait_for_line(service.path, "begin")
    os.kill(read(service.path)[0]["daemon"], signal.SIGKILL)
    caller.join()
    wait_for_line(service.path, "close")
    *_, call_record, close = service.records()
    assert call_record["outcome"] == "died"
    assert close["outcome"] == "died"


@pytest.mark.parametrize("on_failure", ["report", "error"])
def test_no_call_of_many_threads_is_lost_unseen(
    audited: Start, on_failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = audited(on_failure=on_failure)
    each = 500

    def work(thread: int) -> None:
        for number in range(each):
            assert service.echo(thread * each + number) == thread * each + number

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = service.records()
    assert [x["seq"] for x in records] == list(range(1, len(records) + 1))
    calls = [int(x["arguments"]) for x in records if x["event"] == "call"]
    assert len(set(calls)) == len(calls)
    # With "report" a writer that gets no processor for a second leaves no room.
    assert len(calls) + missing(records, caplog) == 4 * each
    if on_failure == "error":
        assert sorted(calls) == list(range(4 * each))


@pytest.mark.parametrize("on_failure", ["report", "error"])
def test_the_writer_has_ended_when_the_daemon_ends(
    audited: Start, on_failure: str
) -> None:
    service = audited(on_failure=on_failure)
    service.echo(1)
    with ended(writer_of(service)) as writer, ended(daemon_pid()) as daemon:
        stopping = threading.Thread(target=service.context.stop)
        stopping.start()
        daemon.poll()
        assert writer.poll(0)
        stopping.join()


def test_a_daemon_without_an_audit_loads_nothing_of_it(plain: Service) -> None:
    ours = "privsep._daemon.audit" if METHOD == "fork" else "privsep."
    loaded = plain.loaded_modules()
    assert not [name for name in loaded if name.startswith(ours) and "audit" in name]


def test_the_daemon_with_one_loads_no_json_and_no_hashes(audited: Start) -> None:
    loaded = audited().loaded_modules()
    if METHOD == "fork":
        pytest.skip("a fork has what its parent has loaded")
    assert not {"json", "hashlib", "privsep._daemon.audit.writer"}.intersection(loaded)


# -- the chain -----------------------------------------------------------------


@pytest.fixture
def written(audited: Start) -> Path:
    service = audited()
    for number in range(5):
        service.echo(number)
    service.records()
    return service.path


def _change(lines: list[str]) -> None:
    lines[2] = lines[2].replace('"context":"audited"', '"context":"other"')


def _remove(lines: list[str]) -> None:
    del lines[2]


def _insert(lines: list[str]) -> None:
    lines.insert(2, lines[1])


def _reorder(lines: list[str]) -> None:
    lines[2], lines[3] = lines[3], lines[2]


def _cut_begin(lines: list[str]) -> None:
    del lines[:2]


def _cut_line(lines: list[str]) -> None:
    lines[-1] = lines[-1][:-20]


def _cut_end(lines: list[str]) -> None:
    del lines[-2:]


def _reformat(lines: list[str]) -> None:
    lines[2] = lines[2].replace(",", ", ", 1)


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (_change, ":3: record 3 does not fit"),
        (_remove, ":3: record 3 is missing"),
        (_insert, ":3: record 2 stands after record 2"),
        (_reorder, ":3: record 3 is missing"),
        (_cut_begin, ":1: record 3 is no beginning of a file"),
        (_cut_line, ":{last}: the line is incomplete"),
        (_cut_end, "the end is missing: the last record is {last}"),
        (_reformat, ":3: record 3 does not fit"),
    ],
)
def test_a_change_is_found_and_its_line_named(
    written: Path, tamper: Callable[[list[str]], None], said: str
) -> None:
    lines = written.read_text().splitlines(keepends=True)
    tamper(lines)
    said = said.format(last=len(lines))  # how many "begin" there are is chance
    written.write_text("".join(lines))
    finished = subprocess.run(
        [sys.executable, "-m", "privsep.audit", "verify", str(written)],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 1
    assert said in finished.stderr


def test_a_chain_that_was_computed_anew_does_not_match_the_head(written: Path) -> None:
    from privsep.audit import Chain

    chain = Chain()
    lines = []
    for record in read(written):
        record["context"] = "forged"
        if "prev" in record:
            record["prev"] = chain.head
        lines.append(chain.seal(record))
    written.write_bytes(b"".join(lines))
    assert audit_command(["verify", str(written)]) == 1
    Path(f"{written}.head").unlink()
    assert audit_command(["verify", str(written)]) == 0  # as docs/audit.md says


def test_the_chain_goes_on_after_a_restart(audited: Start) -> None:
    service = audited()
    service.echo(1)
    first = service.records()
    again = audited(service.path)
    again.echo(2)
    records = again.records()
    assert records[: len(first)] == first
    assert records[len(first)]["event"] == "open"
    assert records[len(first)]["prev"] == first[-1]["hash"]


def test_the_chain_goes_on_in_a_file_that_was_rotated_while_none_wrote(
    audited: Start,
) -> None:
    service = audited()
    service.echo(1)
    service.records()
    old = service.path.with_suffix(".1")
    service.path.rename(old)
    again = audited(service.path)
    again.echo(2)
    again.records()
    assert audit_command(["verify", str(old), str(service.path)]) == 0


def test_a_file_that_was_cut_while_none_wrote_shows_a_gap(
    audited: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service = audited()
    service.echo(1)
    service.records()
    lines = service.path.read_text().splitlines(keepends=True)
    service.path.write_text("".join(lines[:-1]))
    again = audited(service.path)
    again.echo(1)
    again.context.stop()
    assert "lacks its last 1 records" in caplog.text
    assert audit_command(["verify", str(service.path)]) == 1


@pytest.mark.parametrize("whom", ["daemon", "writer"])
def test_sighup_opens_the_file_anew_and_the_chain_goes_on(
    audited: Start, whom: str
) -> None:
    service = audited()
    service.echo(1)
    wait_for_line(service.path, "call")
    opened = read(service.path)[0]
    old = service.path.with_suffix(".1")
    service.path.rename(old)
    writer = writer_of_renamed(old) if METHOD == "userns" else opened["writer"]
    daemon = opened["daemon"]
    if METHOD == "userns":
        daemon = _parent(writer)
    os.kill(daemon if whom == "daemon" else writer, signal.SIGHUP)
    wait_for_line(service.path, "open")
    service.echo(2)
    service.context.stop()
    assert audit_command(["verify", str(old), str(service.path)]) == 0
    assert [x["arguments"] for x in read(service.path) if x["event"] == "call"] == ["2"]
    assert service.path.stat().st_mode & 0o777 == 0o600


def writer_of_renamed(path: Path) -> int:
    service = object.__new__(Audited)
    service.path = path
    return writer_of(service)


def _parent(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("PPid:")[1].split()[0])


def test_a_second_daemon_of_the_same_file_does_not_start(audited: Start) -> None:
    service = audited()
    with pytest.raises(privsep.StartError, match="is written by another daemon"):
        audited(service.path)


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
    said = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: (  # type: ignore[method-assign]
        said.set() if "cannot be written" in record.getMessage() else None
    )
    logger = logging.getLogger("privsep.audited")
    logger.addHandler(handler)
    for number in range(20):
        service.echo(number)
    said.wait()
    logger.removeHandler(handler)
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


@pytest.mark.parametrize("on_failure", ["report", "error"])
def test_a_removed_directory_is_as_a_full_disk(
    audited: Start, on_failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = audited(on_failure=on_failure)
    service.echo(1)
    wait_for_line(service.path, "call")
    shutil.rmtree(service.path.parent)
    if on_failure == "error":
        with pytest.raises(privsep.Refused, match="No such file or directory"):
            service.echo(2)
    else:
        assert service.echo(2) == 2
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
    if on_failure == "error":
        with pytest.raises(privsep.Refused, match="the audit's writer is gone"):
            service.echo(2)
    else:
        assert service.echo(2) == 2
    service.context.stop()
    assert f"the audit's writer {writer} has ended" in caplog.text


def test_a_place_that_cannot_be_opened_is_an_error_of_the_start(
    audited: Start, tmp_path: Path
) -> None:
    path = tmp_path / "log" / "audit.jsonl"
    path.mkdir(parents=True)
    with pytest.raises(privsep.StartError, match="Is a directory"):
        audited(path)


# -- other sinks ---------------------------------------------------------------


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """A datagram socket as syslog and journald have it."""
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
    service = audited(journald=listener.getsockname())
    service.echo(1)
    records = service.records()
    for record in records:
        fields = fields_of(listener.recv(4096))
        assert json.loads(fields["MESSAGE"]) == record
        assert fields["PRIVSEP_CONTEXT"] == "audited"


def test_one_sink_that_fails_leaves_the_others(
    audited: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = audited(syslog=str(tmp_path / "nobody"))
    service.echo(1)
    assert [call["arguments"] for call in service.calls()] == ["1"]
    assert "the audit cannot be written" in caplog.text


# -- out of the workers' reach -------------------------------------------------


@only_root
def test_a_worker_reaches_neither_the_file_nor_the_writer(
    audited: Start, tmp_path: Path
) -> None:
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)  # so that it is the file that refuses
    service = audited(user=65534, group=65534)
    service.echo(1)
    wait_for_line(service.path, "call")
    writer = read(service.path)[0]["writer"]
    assert service.try_to("open_to_read", str(service.path)) == "PermissionError"
    assert service.try_to("open_to_write", str(service.path)) == "PermissionError"
    assert service.try_to("unlink", str(service.path)) == "PermissionError"
    assert service.try_to("open_to_read", f"/proc/{writer}/mem") == "PermissionError"
    assert service.try_to("kill", writer) == "PermissionError"
    assert service.try_to("ptrace", writer) == "PermissionError"


def test_a_worker_holds_no_end_of_the_line_but_its_own(audited: Start) -> None:
    service = audited()
    service.echo(1)
    with_audit = service.sockets()
    service.context.stop()
    from service import services

    plain = services["plain"]
    with plain.context:
        assert len(with_audit) == len(plain.sockets()) + 1


# -- the declaration -----------------------------------------------------------


def test_a_declaration_that_cannot_work_is_refused() -> None:
    for options, said in (
        ({}, "needs a file, syslog or journald"),
        ({"file": "relative"}, "is not absolute"),
        ({"file": "/x", "on_failure": "ignore"}, "on_failure is 'ignore'"),
        ({"file": "/x", "head_every": -1}, "head_every is -1"),
    ):
        with pytest.raises(ValueError, match=said):
            privsep.Audit(**options)  # pyright: ignore[reportArgumentType] - wrong
