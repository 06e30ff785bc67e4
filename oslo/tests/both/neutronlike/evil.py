"""A module of the service without entrypoints."""


def plain() -> int:
    """Be no entrypoint."""
    return 1
