"""Bytes of a mebibyte or more go beside the message, and arrive as what they were."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
from contextlib import ExitStack, suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

import large
import pytest
import target
from conftest import METHOD
from hostile import FATE, HEADER, OVERRAN, PROMPTLY, SEGMENTS
from hypothesis import given, settings
from hypothesis import strategies as st
from large import MEBIBYTE, MOST

import privsep
import scripts
from privsep._client.channel import Channel
from privsep._wire import values
from privsep.context import status_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from large import Large


DATA = os.urandom(MEBIBYTE)


@pytest.fixture(scope="module", params=["large", "large-threads"])
def service(request: pytest.FixtureRequest) -> Iterator[Large]:
    """One daemon for all tests; the leak check sees the module's one."""
    service = large.services[request.param]
    service.context.start(METHOD)
    service.echo(0)
    yield service
    service.context.stop()


@pytest.fixture(params=["large-bounded", "large-bounded-threads"])
def bounded(request: pytest.FixtureRequest) -> Iterator[Large]:
    service = large.services[request.param]
    service.context.start(METHOD)
    yield service
    service.context.stop()


# -- what arrives ------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize(
    "size", [MEBIBYTE - 1, MEBIBYTE, MEBIBYTE + 1, 16 * MEBIBYTE, 33 * MEBIBYTE + 1]
)
def test_a_large_value_comes_back_with_its_type(
    service: Large, size: int, kind: type[bytes | bytearray]
) -> None:
    value = kind(os.urandom(size))
    back = service.echo(value)
    assert type(back) is kind
    assert back == value


_NESTED: dict[str, Any] = {
    "in a list": [1, DATA, b"small"],
    "in a tuple": (DATA,),
    "in a set": {DATA, b"small"},
    "in a frozenset": frozenset({DATA}),
    "as a value": {"key": DATA, "other": 1},
    "as a key": {DATA: "value"},
    "as a key beside odd keys": {(1,): 2, DATA: bytearray(DATA)},
    "deep": [[{"a": ({"b": [bytearray(DATA)]}, DATA)}]],
    "twice": [DATA, DATA],
    "beside another kind": [DATA, bytearray(DATA), "x" * MEBIBYTE, 2**100],
}


@pytest.mark.parametrize("value", _NESTED.values(), ids=_NESTED)
def test_a_large_value_comes_back_nested(service: Large, value: Any) -> None:
    back = service.echo(value)
    assert back == value
    assert repr(back) == repr(value) or isinstance(value, set)


def test_large_values_are_arguments_and_keywords(service: Large) -> None:
    sizes = service.take(DATA, DATA * 2, b"", more=DATA * 3, less=b"")
    assert sizes == {
        "0": MEBIBYTE,
        "1": 2 * MEBIBYTE,
        "2": 0,
        "more": 3 * MEBIBYTE,
        "less": 0,
    }


def test_a_large_value_and_an_open_file_cross_together(service: Large) -> None:
    with open(os.devnull, "rb") as null:
        file, data, number = service.echo([null, DATA, 7])
    with file:
        assert os.path.samestat(os.stat(file.fileno()), os.stat(os.devnull))
    assert (data, number) == (DATA, 7)


def test_a_large_value_that_an_exception_holds_arrives(service: Large) -> None:
    with pytest.raises(ValueError) as caught:
        service.fail(DATA)
    assert caught.value.args == (DATA,)


def test_small_calls_and_large_ones_take_turns_on_a_channel(service: Large) -> None:
    for size in (1, MEBIBYTE, 100_000, 2 * MEBIBYTE, 1):
        assert service.echo(bytes(size)) == bytes(size)
        assert service.echo(size) == size


def test_a_large_value_crosses_while_signals_interrupt(service: Large) -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        value = os.urandom(40 * MEBIBYTE)
        assert service.echo(value) == value
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_large_bytearray_cannot_change_its_size_before_it_is_sent() -> None:
    value = bytearray(MEBIBYTE)
    encoder = values.Encoder(beside=True)
    encoder.encode(value)
    with pytest.raises(BufferError):
        value.append(1)
    encoder.clear()
    value.append(1)


def test_what_was_not_sent_does_not_go_with_the_next_call() -> None:
    encoder = values.Encoder(beside=True)
    encoder.encode_call((DATA,), {})
    assert encoder.something_beside
    encoder.encode_call((1,), {})
    assert not encoder.something_beside
    assert not encoder.segments


_small = st.recursive(
    st.one_of(st.binary(max_size=20), st.integers(), st.binary().map(bytearray)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.one_of(st.binary(max_size=20), st.integers()), inner),
    ),
    max_leaves=20,
)


@given(_small)
@settings(deadline=None)  # how fast is not its business
def test_large_values_anywhere_are_found_and_put_back(value: Any) -> None:
    """As if ten bytes were large."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values, "LARGE", 10)
        encoder = values.Encoder(beside=True)
        data = encoder.encode(value)
        as_arguments = values.Encoder(beside=True)
        call = as_arguments.encode_call((value,), {"k": value})
    segments: list[bytes | None] = [bytes(segment) for segment in encoder.segments]
    assert all(segment and len(segment) >= 10 for segment in segments)
    assert len(segments) * 2 == len(as_arguments.segments)
    assert encoder.something_beside == bool(segments)
    back = values.decode_with(data, [], segments)
    assert repr(back) == repr(value)
    twice: list[bytes | None] = [bytes(part) for part in as_arguments.segments]
    assert repr(values.decode_with(call, [], twice)) == repr([[value], {"k": value}])


# -- bounds ------------------------------------------------------------------------


def test_max_message_counts_large_arguments(bounded: Large) -> None:
    for arguments in ([bytes(MOST)], [DATA] * 8, [bytes(MOST // 2), bytes(MOST // 2)]):
        with pytest.raises(privsep.MessageTooLarge, match=f"limit is {MOST}"):
            bounded.take(*arguments)
        assert bounded.take(b"next") == {"0": 4}
    assert bounded.take(bytes(MOST - 1000)) == {"0": MOST - 1000}


def test_max_message_counts_large_results(bounded: Large) -> None:
    worker = bounded.worker()
    for count, size in ((1, MOST), (8, MEBIBYTE), (2, MOST // 2)):
        with pytest.raises(privsep.MessageTooLarge, match=f"limit is {MOST}"):
            bounded.make(count, size)
        assert bounded.make(1, 5) == [bytes(5)]
        assert bounded.worker() == worker
    assert bounded.make(1, MOST - 1000) == [bytes(MOST - 1000)]


def test_a_daemon_declines_what_only_its_client_takes(bounded: Large) -> None:
    bounded.context.max_message = 2 * MOST
    try:
        worker = bounded.worker()
        with pytest.raises(privsep.MessageTooLarge, match=f"limit is {MOST}"):
            bounded.take(bytes(MOST + 1))
        assert bounded.take(b"next") == {"0": 4}
        assert bounded.worker() == worker
    finally:
        bounded.context.max_message = MOST


def test_a_client_declines_what_only_its_daemon_sends(bounded: Large) -> None:
    bounded.context.max_message = 2 * MEBIBYTE
    try:
        with pytest.raises(privsep.MessageTooLarge, match=f"limit is {2 * MEBIBYTE}"):
            bounded.make(1, 2 * MEBIBYTE + 1)
        assert bounded.make(1, 5) == [bytes(5)]
    finally:
        bounded.context.max_message = MOST


def test_files_of_a_message_that_is_too_large_do_not_go_with_the_next(
    bounded: Large,
) -> None:
    with open(os.devnull, "rb") as null:
        for value in ([null, bytes(MOST)], [null, "x" * MOST], [null, DATA, object()]):
            with pytest.raises((privsep.MessageTooLarge, privsep.Unserializable)):
                bounded.echo(value)
            assert bounded.echo("next") == "next"


# -- deadlines, and workers that go ----------------------------------------------------


def _call_a_worker_that(behaves: Callable[[socket.socket], object]) -> str:
    """Make a large call of 0.2 seconds to the test's own hand-written worker."""
    entry = status_entry(dict)._replace(limit=0.2)
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(2)]
        for sock in (end for pair in pairs for end in pair):
            stack.enter_context(sock)
        (ours, worker), (fate, supervisor) = pairs
        worker.settimeout(PROMPTLY)
        supervisor.send(FATE.pack(OVERRAN, 9, 12345))

        def work() -> None:
            with suppress(ConnectionError):  # the client has given up before
                behaves(worker)

        thread = threading.Thread(target=work)
        thread.start()
        channel = Channel(ours, fate, target.processes, lambda: None)
        deadline = monotonic() + 0.2
        try:
            with pytest.raises(privsep.CallTimeout) as caught:
                channel.call(entry, (bytes(16 * MEBIBYTE),), {}, 0, deadline, 0.2)
            assert not channel.usable
        finally:
            channel.close()
            thread.join()
        return str(caught.value)


def test_a_deadline_ends_a_call_whose_segments_are_not_asked_for() -> None:
    said = _call_a_worker_that(lambda worker: worker.recv(1000))
    assert "its worker 12345 was killed" in said


def test_a_deadline_ends_a_call_whose_segments_are_not_read() -> None:
    def stop(worker: socket.socket) -> None:
        worker.recv(1000)
        worker.sendall(HEADER.pack(0, SEGMENTS))

    assert "did not end in time" in _call_a_worker_that(stop)


def test_a_deadline_ends_a_call_whose_result_stops_in_a_segment() -> None:
    def stop(worker: socket.socket) -> None:
        worker.recv(1000)
        worker.sendall(HEADER.pack(0, SEGMENTS))
        left = 16 * MEBIBYTE  # and then the CALL
        while left > 0:
            left -= len(worker.recv(MEBIBYTE)) or left
        worker.sendall(HEADER.pack(4, SEGMENTS) + struct.pack("!I", MEBIBYTE))
        worker.recv(1000)
        worker.sendall(bytes(1000))

    assert "did not end in time" in _call_a_worker_that(stop)


def test_a_worker_that_retires_takes_no_call_with_large_values() -> None:
    # Clients want one worker in turn, so it retires while any of them sends.
    lines = scripts.run(
        """
        import os, large, forks
        service = large.services["large"]
        service.context.workers = 1
        service.context.start("fork")
        def many():
            data = os.urandom(large.MEBIBYTE)
            for number in range(25):
                assert service.echo([data, number]) == [data, number]
            return "all"
        children = [forks.Child(many) for _ in range(3)]
        print(many(), *[child.result() for child in children])
        service.context.stop()
        """
    )
    assert lines == ["all all all all"]
