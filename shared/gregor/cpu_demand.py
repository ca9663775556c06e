"""CPU time that a thread used or waited for. Other processes on the same cores do not change it much."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

# A process that the kernel does not schedule is overloaded too, although it uses little CPU time.
_SCHEDULER_STATISTICS: Final = Path("/proc/thread-self/schedstat")


def wanted_cpu_s() -> float:
    """Return the seconds for which the calling thread has used a CPU, or has waited for one.

    Without the statistics of the Linux scheduler, waiting does not count.
    """
    try:
        used_ns, waited_ns, *_ = map(int, _SCHEDULER_STATISTICS.read_bytes().split())
    except (OSError, ValueError):
        used_ns = waited_ns = 0
    # A kernel may leave the statistics at 0.
    return (used_ns + waited_ns) / 1e9 if used_ns else time.thread_time()
