"""Every call and every refusal is on record."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest
from audited import (
    audited,
    ended,
    missing,
    now,
    peer,
    read,
    wait_for_line,
    writer_pid,
)
from conftest import METHOD
from observe import daemon_pid

import privsep
from privsep._wire.frames import call_head

if TYPE_CHECKING:
    from pathlib import Path

    from audited import Start
    from service import Service

__all__ = ["audited"]


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


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_a_stream_is_recorded_with_the_number_of_its_items(
    audited: Start, isolation: str
) -> None:
    service = audited(isolation=isolation)
    assert list(service.numbers(30)) == list(range(30))
    with pytest.raises(KeyError):
        list(service.numbers(2, "KeyError"))
    stream = service.numbers(1000)
    next(stream)
    stream.close()
    assert service.echo(1) == 1
    whole, failed, closed, _ = service.calls()
    assert (whole["outcome"], whole["items"]) == ("returned", 30)
    assert (failed["outcome"], failed["items"]) == ("raised", 2)
    assert failed["error"] == "builtins.KeyError"
    assert (closed["outcome"], closed["items"]) == ("closed", 1)


def test_a_stream_that_its_client_has_left_is_recorded(audited: Start) -> None:
    service = audited()
    stream = service.numbers(1000)
    next(stream)
    del stream
    (call,) = service.calls()
    assert (call["outcome"], call["items"]) == ("closed", 1)


def test_an_exception_whose_class_answers_nothing_is_recorded(audited: Start) -> None:
    service = audited()
    with pytest.raises(ValueError):
        service.fail_with_guarded_class()
    (failed,) = service.calls()
    assert failed["outcome"] == "raised"
    assert failed["error"].endswith("._OfGuardedClass")


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


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


_HOSTILE: dict[str, tuple[object, ...]] = {
    "long": ("x" * 10_000_000,),
    "deep": (nested(90),),
    "wide": ([list(range(100_000))],),
    "many": tuple(range(10_000)),
    "control": ("\n\r\x1b[2J\x00\u2028\x85\u202e",),
    "surrogates": ("\ud800\udfff" * 64,),
    "numbers": (10**10_000, -(10**4000), float("nan"), float("-inf"), 1 << 64),
    "all": (b"\n" * 1000, {"\n" * 10: nested(50)}, {1, 2}, frozenset(), ()),
}
_HOSTILE_NAMES = ("\n\x1b[2J\ud800" * 50, "a=1, b", "", *map(str, range(10_000)))


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("kind", _HOSTILE)
def test_hostile_arguments_are_one_short_line(
    audited: Start, kind: str, *, by_name: bool
) -> None:
    service = audited()
    args = _HOSTILE[kind]
    kwargs: dict[str, object] = {}
    if by_name:
        args, kwargs = (), dict(zip(_HOSTILE_NAMES, args, strict=False))
    takes_it = len(args) == 1  # echo() has one parameter
    with nullcontext() if takes_it else pytest.raises(TypeError, match=r"echo\(\)"):
        service.echo(*args, **kwargs)
    (call,) = service.calls()
    assert call["outcome"] == ("returned" if takes_it else "raised")
    assert len(call["arguments"].encode()) <= 200
    assert call["arguments"].isprintable()
    for line in service.path.read_bytes().split(b"\n")[:-1]:
        assert line.isascii()
        assert line.decode().isprintable()
        assert len(line) < 1500


def test_a_name_that_looks_like_several_is_shown_as_one(audited: Start) -> None:
    service = audited()
    with pytest.raises(TypeError):
        service.echo(**{"a=1, b": 2})
    (call,) = service.calls()
    assert call["arguments"] == "'a=1, b'=2"


def test_what_is_called_a_secret_is_not_shown(audited: Start) -> None:
    service = audited()
    takes = service.secretive
    takes.log_in("me", "hidden")
    takes.log_in(user="me", password="hidden", api_key="hidden")  # noqa: S106
    takes.renew(1, "hidden")
    takes.keep(123, "name")
    takes.replace(1, "hidden")
    assert [call["arguments"] for call in service.calls()] == [
        "'me', <secret>",
        "user='me', password=<secret>, api_key=<secret>",
        "1, <secret>",
        "<secret>, 'name'",
        "1, <secret>",
    ]
    assert "hidden" not in service.path.read_text()


def test_a_call_of_what_is_no_entrypoint_is_recorded(audited: Start) -> None:
    service = audited()
    entry = service.context._table["service.echo"]
    client = service.context.client
    assert client is not None
    for name in (b"service.gone", b"\n\xff" * 30_000):
        gone = entry._replace(wire_name=name, head=call_head(name))
        with pytest.raises(privsep.Refused):
            client.call(gone, (), {})
    first, second = service.calls()
    assert first["event"] == second["event"] == "refused"
    assert first["entrypoint"] == "service.gone"
    assert second["entrypoint"] == "\n\\xff" * 100
    assert "is not an entrypoint" in first["reason"]
    assert first["peer"] == peer()


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
    service.echo(1)  # a worker is there, and begins at once
    with pytest.raises(privsep.CallTimeout):
        service.short_sleep(60)
    _, call = service.calls()
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
    with ended(writer_pid()) as writer, ended(daemon_pid()) as daemon:
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
