"""Modules that do not let themselves be imported, for daemons that try."""
