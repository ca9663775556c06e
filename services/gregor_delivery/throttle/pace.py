"""PURE. How many may go out a second to one provider: a bound that its owner sets, so that the provider need not."""

from __future__ import annotations

from typing import Final

BURST_S: Final = 0.1
"""What was not used of so long a time may go out at once; one always may."""


class Pace:
    """Of one provider and process. ``rate``: a second; ``None`` is no bound. Times are monotonic seconds."""

    def __init__(self, rate: float | None) -> None:
        self._step_s = 0.0 if rate is None else 1.0 / rate
        self._burst = 1 if rate is None else max(1, int(rate * BURST_S))
        self._free_at_s = 0.0
        """When all of the burst may go out again (GCRA)."""

    def room(self, most: int, now_s: float) -> int:
        """How many may go out now, of ``most``; each that does is told of by ``began``."""
        if not self._step_s:
            return most
        taken = max(0.0, self._free_at_s - now_s) / self._step_s
        return max(0, min(most, int(self._burst - taken + _ROUNDING)))

    def began(self, now_s: float) -> None:
        """One goes out."""
        self._free_at_s = max(self._free_at_s, now_s) + self._step_s

    def wait_s(self, now_s: float) -> float:
        """Seconds until there is room for one."""
        return max(0.0, self._free_at_s - now_s - (self._burst - 1) * self._step_s)


_ROUNDING: Final = 1e-6
"""Of a step: what the sums of many steps are off by."""
