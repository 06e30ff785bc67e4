"""A client that sends what ours never would gets an error, and harms nobody else."""

from __future__ import annotations

from clients import run


def test_arguments_that_are_none_are_an_error_of_that_call() -> None:
    said = run(
        """
import msgpack
from privsep._client.client import new_client
pair = lambda *both: msgpack.packb(both)
packed = [
    b"", b"\\xc1", b"\\xc0", b"\\x93", pair((1,)), pair((1,), {}, 3),
    pair((1,), {}) + b"x",
    pair(1, {}), pair((1,), {2: 3}), pair((1,), [("value", 1)]), pair({}, ()),
    b"\\x91" * 5000, b"\\xdd" + b"\\xff" * 4, b"\\xdf" + b"\\xff" * 4,
    b"\\x92\\xdd\\x00\\x10\\x00\\x00" + b"\\xc0" * (1 << 20) + b"\\x80",
]
first = operations.identity()
client = new_client(neutronlike.default.channel._engine)
entry = neutronlike.default.channel._entry_of("neutronlike.operations.echo")
raised = []
for each in packed:
    try:
        client.call(entry, (each,), {})
    except Exception as error:
        raised.append(isinstance(error, (ValueError, TypeError)) or repr(error))
        last = str(error)
print(json.dumps([raised, len(packed), operations.identity() == first, last]))
"""
    )
    raised, count, is_same, too_many = said
    assert raised == [True] * count
    assert is_same
    assert "1048576 exceeds" in too_many
