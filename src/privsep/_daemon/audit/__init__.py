"""The audit: who called what, on record; docs/audit.md has the picture.

Loaded by the daemon of a context that has an audit.  By process: the supervisor has
`auditor`, a worker `recorder` and `summary`; the writer has `writer`, `ledger` and
the sinks, `file` and `logs`, which it loads after its fork.
"""
