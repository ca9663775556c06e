"""The two clocks of the house, as one thing that is passed in: wall time for stamps, monotonic time for deadlines.

Nothing else in the library or in a service asks the operating system what time it is.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """What a process may know of time."""

    def now_us(self) -> int:
        """Wall time: Unix µs, as it is stamped on items. It may jump, back too."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back. For deadlines and durations only."""
        ...


class SystemClock:
    """The clock of the operating system; `offset_s` is added to wall time (setting `GREGOR_CLOCK_OFFSET`)."""

    def __init__(self, offset_s: float = 0) -> None:
        self._offset_us = round(offset_s * 1_000_000)

    def now_us(self) -> int:
        """Unix µs of the operating system plus the offset."""
        return time.time_ns() // 1_000 + self._offset_us

    def monotonic(self) -> float:
        """Seconds of the monotonic clock of the operating system; the offset does not touch it."""
        return time.monotonic()


class ManualClock:
    """A clock that stands still until it is told to advance: for tests."""

    def __init__(self, now_us: int) -> None:
        self._now_us = now_us
        self._monotonic_us = 0

    def now_us(self) -> int:
        """Unix µs as given, plus what was advanced."""
        return self._now_us

    def monotonic(self) -> float:
        """Seconds advanced since the clock was made."""
        return self._monotonic_us / 1_000_000

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, on both clocks."""
        step_us = round(seconds * 1_000_000)
        if step_us < 0:
            raise ValueError("a clock advances; for a clock that was set back make a new one")
        self._now_us += step_us
        self._monotonic_us += step_us
