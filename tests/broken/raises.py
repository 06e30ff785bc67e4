"""Raises."""

raise RuntimeError("this module does not want to")
