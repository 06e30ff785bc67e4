"""A context with annotations as most functions have them, by which it judges."""

import privsep

context = privsep.Context("bench-annotated", capabilities=[])


@context.entrypoint
def echo(name: str, number: int, items: list[str] | None) -> list[str] | None:
    """Return the items, all arguments having been judged."""
    del name, number
    return items
