"""The smallest context."""

import privsep

context = privsep.Context("trivial", capabilities=[], timeout=120.0)


@context.entrypoint
def echo(value: object) -> object:
    return value


@context.entrypoint
def loaded_modules() -> list[str]:
    import sys

    return list(sys.modules)
