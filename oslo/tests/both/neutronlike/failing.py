"""An exception of the service's own that a library's is the base of."""

from oslo_concurrency import processutils


class CommandFailed(processutils.ProcessExecutionError):
    pass
