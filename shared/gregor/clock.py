"""The clock of a process, passed as an argument: wall time for timestamps, monotonic time for deadlines, CPU time.

Rules that depend on the time get a clock. Measurements, transports and commands may ask the operating system.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """A source of wall time and of monotonic time."""

    def now_us(self) -> int:
        """Return the wall time in Unix µs, as it is stamped on items. It may jump in both directions."""
        ...

    def monotonic(self) -> float:
        """Return seconds since an arbitrary moment. Never decreases; use it for deadlines and durations."""
        ...

    def cpu_ns(self) -> int:
        """Return the CPU time of the calling thread in nanoseconds, since an arbitrary moment."""
        ...


def monotonic_us(clock: Clock) -> int:
    """Return the monotonic time of a clock in whole µs, for buckets of one process."""
    return round(clock.monotonic() * 1_000_000)


class SystemClock:
    """The clock of the operating system. ``offset_s`` shifts the wall time (setting ``GREGOR_CLOCK_OFFSET``)."""

    def __init__(self, offset_s: float = 0) -> None:
        self._offset_us = round(offset_s * 1_000_000)

    def now_us(self) -> int:
        """Return the wall time in Unix µs, shifted by the offset."""
        return time.time_ns() // 1_000 + self._offset_us

    def monotonic(self) -> float:
        """Return the monotonic seconds of the operating system. The offset does not affect them."""
        return time.monotonic()

    # The C function itself: a wrapper would double its cost.
    cpu_ns = staticmethod(time.thread_time_ns)


class ManualClock:
    """A clock for tests, moved by ``advance`` and ``step``. ``cpu_step_ns``: the CPU time between two readings."""

    def __init__(self, now_us: int) -> None:
        self.cpu_step_ns = 0
        self._now_us = now_us
        self._monotonic_us = 0
        self._cpu_ns = 0

    def now_us(self) -> int:
        """Return the initial time plus all advances and steps, in Unix µs."""
        return self._now_us

    def monotonic(self) -> float:
        """Return the seconds advanced since construction."""
        return self._monotonic_us / 1_000_000

    def cpu_ns(self) -> int:
        """Return the CPU time in nanoseconds; each reading uses ``cpu_step_ns``."""
        self._cpu_ns += self.cpu_step_ns
        return self._cpu_ns

    def advance(self, seconds: float) -> None:
        """Advance both clocks by ``seconds``. Raises ``ValueError`` if ``seconds`` is negative."""
        step_us = round(seconds * 1_000_000)
        if step_us < 0:
            raise ValueError("a clock cannot go back; create a new ManualClock with an earlier time")
        self._now_us += step_us
        self._monotonic_us += step_us

    def step(self, seconds: float) -> None:
        """Set the wall clock forward, or back if ``seconds`` is negative. The monotonic time stays."""
        self._now_us += round(seconds * 1_000_000)
