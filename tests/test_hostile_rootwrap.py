"""Whatever a client sends to rootwrap's daemon, only a command runs."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest
from commanding import Fifo, call_directly, client, said, shared, valid_arguments

import privsep

if TYPE_CHECKING:
    from privsep.rootwrap import Client

__all__ = ["client", "said", "shared"]


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
    if place == 2 and value is None:
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


def test_a_line_takes_anything(client: Client, said: Fifo) -> None:
    """Signals that are none, for nobody, or too many: they change nothing."""
    ours, line = socket.socketpair()
    arguments = valid_arguments()
    arguments[0] = [
        b"sh",
        b"-c",
        f"trap '' USR1; echo x > {said.path}; sleep 0".encode(),
    ]
    arguments[5] = privsep.Fd(line.detach())
    harmless = bytes([0, 65, 127, 0x80, 256 - 65])
    ours.send(harmless * 50)
    with ours:
        assert call_directly(client, arguments) == 0
    said.read()
