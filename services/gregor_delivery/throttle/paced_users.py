"""PURE. Pace of an expensive step of each user: calls above it get turns, one after another."""

from __future__ import annotations

from typing import Final

from gregor.core.rate_limit import Bucket, LocalBuckets

LONGEST_WAIT_S: Final = 60.0
"""Longest time until a turn. If more calls wait, they return together, spread like their first tries."""


class PacedUsers:
    """The users of one process. `rate`: steps of a user a second; `burst`: steps at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._steps = LocalBuckets()
        self._turns = LocalBuckets()

    def wait_s(self, uid: str, now_us: int) -> float:
        """Return 0.0 if the step may be taken now, which counts it; else the seconds until the call should try again.

        Each waiting call gets its own turn, so that calls do not all return at once for one step.
        """
        if not self._steps.take((Bucket(uid, self._rate, self._burst),), 1, now_us).wait_s:
            return 0.0
        return min(LONGEST_WAIT_S, self._turns.charge((Bucket(uid, self._rate, 1),), 1, now_us).reset_s)
