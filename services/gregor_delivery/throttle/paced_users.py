"""PURE. Pace of an expensive step of each user: calls above it get turns, one after another."""

from __future__ import annotations

from typing import Final

from gregor.core.limits import SECOND_US
from gregor.core.rate_limit import MAX_LOCAL, Bucket, LocalBuckets

from .turns import Turns

LONGEST_WAIT_S: Final = 60.0
"""Longest time until a turn. If more calls wait, they return together, spread like their first tries."""


class PacedUsers:
    """The users of one process. `rate`: steps of a user a second; `burst`: steps at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._steps = LocalBuckets()
        self._turns: dict[str, Turns] = {}

    def wait_s(self, uid: str, now_us: int) -> float:
        """Return 0.0 if the step may be taken now, which counts it; else the seconds until the call should try again.

        Each waiting call gets its own turn, so that calls do not all return at once for one step.
        """
        left = self._steps.take((Bucket(uid, self._rate, self._burst),), 1, now_us)
        if left.wait_s:
            if uid not in self._turns and len(self._turns) >= MAX_LOCAL:
                self._turns.clear()
            turns = self._turns.setdefault(uid, Turns())
            return turns.next_s(1 / self._rate, LONGEST_WAIT_S, now_us / SECOND_US)
        if left.remaining:
            self._turns.pop(uid, None)
        return 0.0
