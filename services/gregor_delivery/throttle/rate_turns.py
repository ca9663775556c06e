"""PURE. The rate limit of a channel. Attempts are decided a little ahead, and only a message that is sent counts."""

from __future__ import annotations

from typing import Final

from gregor.core.rate_limit import RateLimiter

AHEAD_S: Final = 1.0
"""How far ahead attempts start, so the longest wait of a message for its turn.

Of a user with many deliveries, most attempts send nothing. If each needed a free token, they would delay all others."""


class RateTurns:
    """The attempts of one channel in one process. Times are monotonic seconds."""

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter
        self._undecided = 0

    def capacity(self, limit: int, now_s: float) -> int:
        """Return how many of `limit` attempts may start now; each one that starts calls `start`."""
        tokens = self._limiter.capacity(limit + self._undecided, now_s, AHEAD_S)
        return max(0, tokens - self._undecided)

    def wait_s(self, now_s: float) -> float:
        """Return the seconds until another attempt may start, if none ends before."""
        return self._limiter.wait_s(now_s + AHEAD_S)

    def start(self) -> RateTurn:
        """Start an attempt. The caller must call `use` or `give_back` of its turn."""
        self._undecided += 1
        return RateTurn(self)

    def _end(self, sends_at_s: float | None) -> float:
        self._undecided -= 1
        if sends_at_s is None:
            return 0.0
        wait_s = self._limiter.wait_s(sends_at_s)
        self._limiter.acquire(sends_at_s)
        return wait_s


class RateTurn:
    """The turn of one attempt. The first call of `use` or `give_back` counts."""

    __slots__ = ("_turns",)

    def __init__(self, turns: RateTurns) -> None:
        self._turns: RateTurns | None = turns

    def use(self, now_s: float) -> float:
        """Count a message that is sent. Returns the seconds to wait before."""
        return self._end(now_s)

    def give_back(self) -> None:
        """End the attempt without a message."""
        self._end(None)

    def _end(self, sends_at_s: float | None) -> float:
        turns, self._turns = self._turns, None
        return 0.0 if turns is None else turns._end(sends_at_s)
