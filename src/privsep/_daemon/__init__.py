"""The privileged daemon of one context: a supervisor and its workers.

Runs in the privileged process only.  It imports neither `_client` nor `cli`.
"""
