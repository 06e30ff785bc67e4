"""The command ``privsep``: what administrators and developers run, without privileges.

``privsep serve`` is not here: it is the daemon's (`privsep._start.serve`).
"""
