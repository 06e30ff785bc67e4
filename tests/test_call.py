"""A privileged call is a call."""

from __future__ import annotations

import pytest
from service import Service, services

import privsep


def test_a_call_returns_what_the_function_returns(either: Service) -> None:
    assert either.echo("value") == "value"


def test_a_call_runs_in_another_process(either: Service) -> None:
    import os

    assert either.process_id() != os.getpid()


def test_an_exception_arrives_with_class_arguments_and_remote_traceback(
    either: Service,
) -> None:
    with pytest.raises(KeyError) as caught:
        either.fail("KeyError", "name", 3)
    assert caught.value.args == ("name", 3)
    assert "in fail" in str(caught.value.__cause__)


def test_a_value_that_does_not_cross_is_refused_before_anything_is_sent(
    either: Service,
) -> None:
    with pytest.raises(
        privsep.Unserializable, match="argument 1 holds a value of type object"
    ):
        either.echo(object())
    assert either.echo(1) == 1


def test_the_daemon_is_started_again_after_stop() -> None:
    service = services["plain"]
    with service.context:
        assert service.echo(1) == 1
    with service.context:
        assert service.echo(2) == 2
