"""Contexts whose daemons cannot start, each for a reason of its own."""

from __future__ import annotations

import privsep


def _importing(module: str) -> privsep.Context:
    return privsep.Context(
        module, capabilities=[], modules=["failing", f"broken.{module}"]
    )


raises = _importing("raises")
exits = _importing("exits")
leaves = _importing("leaves")
killed = _importing("killed")
hangs = privsep.Context(
    "hangs",
    capabilities=[],
    modules=["failing", "broken.hangs"],
    environment=["PRIVSEP_TEST_BEGUN"],
)
absent = _importing("absent")
starts = _importing("starts")
enters = _importing("enters")
asks = _importing("asks")
no_such_user = privsep.Context(
    "no_such_user", capabilities=[], user="privsep-nobody-has-this-name"
)
no_such_group = privsep.Context(
    "no_such_group", capabilities=[], group="privsep-nobody-has-this-name"
)
for_nobody = privsep.Context("for_nobody", capabilities=[], user="nobody")
in_no_variable = [privsep.Context("in_no_variable", capabilities=[])]
