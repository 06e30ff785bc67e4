"""Whatever a client sends to rootwrap's daemon, only a command runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from commanding import call_directly, client, shared, valid_arguments

import privsep

if TYPE_CHECKING:
    from privsep.rootwrap import Client

__all__ = ["client", "shared"]


def test_valid_arguments_run_a_command(client: Client) -> None:
    assert call_directly(client, valid_arguments()) == 0


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize(
    "value", [0, "true", b"true", (b"true",), ["true"], [b"true", 1], {}, None, True]
)
def test_what_is_no_command_is_refused(
    client: Client, place: int, value: object
) -> None:
    arguments = valid_arguments()
    arguments[place] = value
    if place in (2, 5) and value is None:
        assert call_directly(client, arguments) == 0
    else:
        with pytest.raises(privsep.Refused):
            call_directly(client, arguments)


@pytest.mark.parametrize(("place", "error"), [(1, NotADirectoryError), (5, OSError)])
def test_a_descriptor_of_another_kind_is_refused(
    client: Client, place: int, error: type[OSError]
) -> None:
    arguments = valid_arguments()
    arguments[place] = privsep.Fd(os.open("/dev/null", os.O_RDWR))
    with pytest.raises(error):
        call_directly(client, arguments)
