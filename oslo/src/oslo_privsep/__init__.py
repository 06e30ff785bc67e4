"""The names and the behaviour of oslo.privsep, over `privsep`.

Runs on both sides.
"""
