"""Where a contestant's two sides run.

Apart from `measure`, because the daemon imports it and its start is measured.
"""

import os


def pin(processor: int) -> None:
    """Keep every thread of this process, and their children, on one processor."""
    for thread in os.scandir("/proc/self/task"):
        os.sched_setaffinity(int(thread.name), {processor})
