"""The caller's side: start and keep a daemon, keep channels, make calls.

Runs in the unprivileged process.
"""
