"""Bytes, frames and descriptors between client and daemon; no policy.

Runs in both processes.  This package imports nothing else of privsep, knows
neither contexts nor entrypoints, and treats what it reads as hostile.
"""
