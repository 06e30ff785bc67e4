"""What `privsep.testing` is made of.

Runs in a test's process, and `faults` in the daemon that it starts; in no other.
"""
