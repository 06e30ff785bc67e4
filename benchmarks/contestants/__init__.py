"""The measuring processes: a module for each thing that is measured.

Each runs in an environment of its own.
"""
