"""PURE. Rate of a step of each user: calls above it wait for their turn, one after another."""

from __future__ import annotations

from typing import Final

from gregor.core.limits import SECOND_US
from gregor.core.notify.intents import WEBHOOK
from gregor.core.rate_limit import MAX_LOCAL, Bucket, LocalBuckets

from .turns import Turns

LONGEST_WAIT_S: Final = 3_600.0
"""Longest time until a turn."""
WAITING_BURST_S: Final = 10.0
"""Waiting deliveries of a user that may become available at once, as the time that they take at its rate."""
WAITING_MIN_BURST: Final = 64
"""One item may go to 64 devices."""
WEBHOOK_FACTOR: Final = 10
"""How much faster webhook calls become available: a call may wait several times for its receiver, in its pace."""


class PacedUsers:
    """The users of one process. `rate`: steps of a user a second; `burst`: steps at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._steps = LocalBuckets()
        self._turns: dict[str, Turns] = {}

    def wait_s(self, uid: str, now_s: float) -> float:
        """Return 0.0 if the step may be taken now, which counts it; else the seconds until the call should try again.

        `now_s`: monotonic time. Each waiting call gets a different time, so that they do not all return at once.
        """
        left = self._steps.take((Bucket(uid, self._rate, self._burst),), 1, round(now_s * SECOND_US))
        if left.wait_s:
            return self._turns_of(uid).next_s(1 / self._rate, LONGEST_WAIT_S, now_s)
        return 0.0

    def charge(self, uid: str, steps: int, now_s: float) -> None:
        """Charge further steps to a user, whose next steps then wait longer."""
        if steps > 0:
            self._steps.charge((Bucket(uid, self._rate, self._burst),), steps, round(now_s * SECOND_US))

    def _turns_of(self, uid: str) -> Turns:
        turns = self._turns.pop(uid, None)
        if turns is None and len(self._turns) >= MAX_LOCAL:
            del self._turns[next(iter(self._turns))]
        self._turns[uid] = turns or Turns()
        return self._turns[uid]


def waiting_pace(rate: float, channel: str = "") -> PacedUsers:
    """Return the pace of the waiting deliveries of each user. `rate`: deliveries a second that become available."""
    rate *= WEBHOOK_FACTOR if channel == WEBHOOK else 1
    return PacedUsers(rate, max(WAITING_MIN_BURST, int(rate * WAITING_BURST_S)))
