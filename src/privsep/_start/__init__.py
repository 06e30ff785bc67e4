"""How a daemon comes to have its privileges: one file a start method.

Runs in the client, which starts, and in the helper, which becomes the daemon.
"""
