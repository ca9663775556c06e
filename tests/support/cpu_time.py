"""CPU time of a piece of code, for tests that compare it with that of other code."""

import time
from collections.abc import Callable


def fastest(work: Callable[[], object]) -> float:
    """Return the least CPU time of five runs in seconds."""
    times = []
    for _ in range(5):
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return min(times)


def reference_s() -> float:
    """Return the CPU time of a fixed loop in seconds: about 0.001, and more while other processes slow the core."""
    began = time.thread_time()
    for number in range(20_000):
        str(number)
    return time.thread_time() - began
