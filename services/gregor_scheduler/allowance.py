"""How much of something may be done now: so many a second, so many at once."""

from __future__ import annotations


class Allowance:
    """A bucket of tokens by a monotonic clock: ``rate`` come each second, at most ``burst`` wait."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._left = float(burst)
        self._at_s: float | None = None

    def take(self, now_s: float) -> bool:
        """Whether one may be done now; then it counts as done."""
        if self._at_s is not None:
            self._left = min(self._burst, self._left + max(0.0, now_s - self._at_s) * self._rate)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
