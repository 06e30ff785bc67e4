"""What is too large, too deep or too much is refused, and the next call works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import workload  # it adds its services
from conftest import IS_ROOT

import privsep

if TYPE_CHECKING:
    from collections.abc import Callable

    from workload import Workload

    Start = Callable[..., Workload]

LIMIT = 64 * 1024  # of the context "tight"
MOST_ELEMENTS = 1_000_000
MOST_DEPTH = 100


@pytest.fixture
def tight(start: Start) -> Workload:
    return start("tight")


def _assert_goes_on(service: Workload, worker: int) -> None:
    """Check that the same worker serves the next call, with its own answer."""
    assert service.echo("next") == "next"
    assert service.process_id() == worker


# -- bytes -------------------------------------------------------------------------


def test_messagetoolarge_is_a_valueerror() -> None:
    assert issubclass(privsep.MessageTooLarge, ValueError)


def test_arguments_beyond_max_message_are_refused_and_the_channel_goes_on(
    tight: Workload,
) -> None:
    worker = tight.process_id()
    for size in (LIMIT, LIMIT * 100):
        with pytest.raises(privsep.MessageTooLarge, match=r"arguments of .*echo\(\)"):
            tight.echo(bytes(size))
        _assert_goes_on(tight, worker)


def test_a_result_beyond_max_message_is_refused_and_the_channel_goes_on(
    tight: Workload,
) -> None:
    worker = tight.process_id()
    for size in (LIMIT, LIMIT * 100):
        said = r"result of .*make_bytes\(\) makes a message of .* \(max_message=\)"
        with pytest.raises(privsep.MessageTooLarge, match=said):
            tight.make_bytes(size)
        _assert_goes_on(tight, worker)


def test_an_exception_beyond_max_message_is_shortened_and_the_channel_goes_on(
    tight: Workload,
) -> None:
    worker = tight.process_id()
    with pytest.raises(ValueError, match="x…") as caught:
        tight.raise_with(LIMIT * 2)
    assert "it was too large and has been shortened" in caught.value.__notes__
    _assert_goes_on(tight, worker)


def test_a_message_just_below_max_message_crosses_in_both_directions(
    tight: Workload,
) -> None:
    data = bytes(LIMIT - 2048)
    assert tight.echo(data) == data


def test_a_message_of_many_megabytes_crosses_in_both_directions(start: Start) -> None:
    service = start("leisurely")
    data = bytes(range(256)) * 40_000
    assert service.echo(data) == data


# -- elements and depth ------------------------------------------------------------


def test_arguments_with_too_many_elements_are_refused(start: Start) -> None:
    service = start("lonely")
    worker = service.process_id()
    with pytest.raises(privsep.MessageTooLarge, match="1000000 elements"):
        service.echo([0] * (MOST_ELEMENTS + 1))
    with pytest.raises(privsep.MessageTooLarge, match="1000000 elements"):
        service.echo([[0] * 1000] * 1000)
    _assert_goes_on(service, worker)


def test_a_result_with_too_many_elements_is_refused(start: Start) -> None:
    service = start("lonely")
    worker = service.process_id()
    with pytest.raises(privsep.MessageTooLarge, match="1000000 elements"):
        service.make_list(MOST_ELEMENTS + 1)
    _assert_goes_on(service, worker)


def test_a_result_with_as_many_elements_as_are_allowed_crosses(start: Start) -> None:
    service = start("lonely")
    assert service.make_list(MOST_ELEMENTS) == [0] * MOST_ELEMENTS


def _nested(depth: int) -> list[object]:
    return workload.make_nested(depth)


def test_arguments_that_are_nested_too_deep_are_refused(start: Start) -> None:
    service = start("lonely")
    worker = service.process_id()
    for depth in (MOST_DEPTH + 1, 100_000):
        with pytest.raises(privsep.MessageTooLarge, match="deeper than 100"):
            service.echo(_nested(depth))
    _assert_goes_on(service, worker)


def test_a_result_that_is_nested_too_deep_is_refused(start: Start) -> None:
    service = start("lonely")
    worker = service.process_id()
    for depth in (MOST_DEPTH + 1, 100_000):
        with pytest.raises(privsep.MessageTooLarge, match="deeper than 100"):
            service.make_nested(depth)
    _assert_goes_on(service, worker)


def test_a_result_as_deep_as_is_allowed_crosses(start: Start) -> None:
    service = start("lonely")
    assert service.make_nested(MOST_DEPTH) == _nested(MOST_DEPTH)


def test_a_list_that_holds_itself_is_refused_in_both_directions(start: Start) -> None:
    service = start("lonely")
    worker = service.process_id()
    cycle = workload.make_cycle()
    with pytest.raises(privsep.MessageTooLarge, match="deeper than 100"):
        service.echo(cycle)
    with pytest.raises(privsep.MessageTooLarge, match="deeper than 100"):
        service.echo({"key": (cycle,)})
    with pytest.raises(privsep.MessageTooLarge, match="deeper than 100"):
        service.make_cycle()
    _assert_goes_on(service, worker)


# -- memory ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["frugal", "frugal-threads"])
def test_a_function_that_takes_more_than_the_memory_gets_memoryerror(
    start: Start, name: str
) -> None:
    service = start(name)
    with pytest.raises(MemoryError):
        service.take_memory(2 * 1024 * workload.MEBIBYTE)
    assert service.take_memory(workload.MEBIBYTE) == workload.MEBIBYTE


def test_a_program_that_takes_more_than_the_memory_fails(start: Start) -> None:
    # What a fork has of its service, and a program has not, counts beyond the memory.
    service = start("frugal", "exec" if IS_ROOT else "userns")
    status, _ = service.run_program("dd if=/dev/zero of=/dev/null bs=2000M count=1")
    assert status == 1
    assert service.echo(1) == 1


def test_arguments_that_do_not_fit_into_the_workers_memory_end_one_call(
    start: Start,
) -> None:
    service = start("starved")
    with pytest.raises((privsep.MessageTooLarge, privsep.WorkerDied, MemoryError)):
        service.echo(bytes(200 * workload.MEBIBYTE))
    assert service.context.client is not None


def test_a_result_that_does_not_fit_into_the_workers_memory_ends_one_call(
    start: Start,
) -> None:
    service = start("frugal")
    with pytest.raises((privsep.MessageTooLarge, privsep.WorkerDied, MemoryError)):
        service.make_nested_bytes(6, 100 * workload.MEBIBYTE)
    assert service.echo(1) == 1


def test_a_context_with_hardly_any_memory_fails_with_an_error_and_not_a_hang(
    start: Start,
) -> None:
    service = start("starved")
    try:
        assert service.take_memory(64 * workload.MEBIBYTE)
    except (MemoryError, privsep.WorkerDied):
        pass
    else:
        pytest.fail("the limit has no effect")


def test_a_worker_that_has_no_memory_to_start_is_not_asked_for_without_end(
    start: Start,
) -> None:
    """By the time the arguments are packed, each worker is dead."""
    service = start("starved-for-ever")
    with pytest.raises((privsep.MessageTooLarge, privsep.WorkerDied, MemoryError)):
        service.echo(bytes(200 * workload.MEBIBYTE))
