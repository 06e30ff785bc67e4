"""The irrevocable drop of everything that a context does not need.

Runs in the privileged process, before it serves a call (and in a client that
calls `drop_privileges`).  One file a system facility; `order` puts them in the
sequence that works, `status` reads back what the kernel says.
"""
