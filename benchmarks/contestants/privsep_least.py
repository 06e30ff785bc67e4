"""The least context: one function, of which no annotation says what is to be judged."""

import privsep

context = privsep.Context("bench-least", capabilities=[])


@context.entrypoint
def echo(value: object) -> object:
    """Return the value."""
    return value
