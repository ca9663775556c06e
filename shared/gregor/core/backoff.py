"""Retry delays: exponential backoff with full jitter. The random number comes from the caller: pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

Jitter = Callable[[float, float], float]
"""Returns a number between two bounds: ``random.uniform``, or ``no_jitter``."""

# 2**16 times any first delay is over any maximum; more would overflow to infinity.
_MAX_DOUBLINGS: Final = 16


def backoff_s(attempt: int, first_s: float, max_s: float, jitter: Jitter) -> float:
    """Return the seconds to wait before a retry.

    ``attempt``: failed attempts before this one, less one. The upper bound is ``first_s``, doubled with each attempt
    up to ``max_s``. Full jitter: clients that failed together do not come back together.
    """
    return jitter(0.0, min(max_s, first_s * 2 ** min(max(0, attempt), _MAX_DOUBLINGS)))


def no_jitter(low: float, high: float) -> float:
    """Return the upper bound: for a process that retries alone."""
    return high


class Backoff:
    """The delays of one retry loop: each is longer than the one before, until ``reset``."""

    __slots__ = ("_attempt", "_first_s", "_jitter", "_max_s", "_retry_at_s")

    def __init__(self, first_s: float, max_s: float, jitter: Jitter) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._jitter = jitter
        self._attempt = 0
        self._retry_at_s = float("-inf")

    def next_s(self) -> float:
        """Return the seconds to wait before the next attempt."""
        self._attempt += 1
        return backoff_s(self._attempt - 1, self._first_s, self._max_s, self._jitter)

    def next_at(self, now_s: float) -> float:
        """Return the seconds to wait, as ``next_s``. ``now_s``: any monotonic time.

        If the last retry was more than two maximum delays ago, the delays start again: the connection was good. A
        connection that is always killed on arrival never resets them.
        """
        if now_s - self._retry_at_s > 2 * self._max_s:
            self.reset()
        delay_s = self.next_s()
        self._retry_at_s = now_s + delay_s
        return delay_s

    def reset(self) -> None:
        """Start again with the first delay, after a success."""
        self._attempt = 0
