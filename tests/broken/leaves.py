"""Leaves the interpreter as a script does."""

raise SystemExit(3)
