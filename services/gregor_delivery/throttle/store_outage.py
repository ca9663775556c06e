"""PURE. What a worker does while the store cannot be reached: it takes little, and spreads what it puts back.

The queue may be on another server, or one shard of a cluster may be away. Each attempt then waits for seconds in a
place that other users need.
"""

from __future__ import annotations

import random
from typing import Final

from gregor.core.limits import SECOND_US
from gregor.store.contract.store import Contended, Unavailable, UnreadableValue
from gregor.store.redis.errors import StoreFull

from .turns import Turns

FAILURES: Final = 20
"""Failures in a row after which the worker only probes. With one shard of three away, others succeed in between."""
PROBE_S: Final = 1.0
"""Pause between two probes."""
FIRST_RETRY_S: Final = 1.0
LONGEST_RETRY_S: Final = 600.0
"""Longest time until a retry, beyond the first two seconds."""
RETRIES_PER_S: Final = 50
"""The most put-back intents that are due in one second. Each may wait 2.5 s for its shard, so they take at most half of
the places of a worker."""


class StoreOutage:
    """The failures of the store that the attempts of one worker met. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._failures = 0
        self._probe_at_s = 0.0
        self._retries = Turns()

    def capacity(self, limit: int, now_s: float) -> int:
        """Return how many of ``limit`` attempts may start now; each one that starts calls ``start``."""
        if self._failures < FAILURES:
            return limit
        return min(1, limit) if now_s >= self._probe_at_s else 0

    def start(self, now_s: float) -> None:
        """Note that an attempt starts. During an outage it is a probe."""
        self._probe_at_s = now_s + PROBE_S

    def end(self) -> None:
        """Note that an attempt could use the store."""
        self._failures = 0

    def fail(self, error: Unavailable, now_us: int, now_s: float) -> int:
        """Note that an attempt failed. Returns when to attempt the delivery again (µs)."""
        # Other errors concern one value, or only what needs memory.
        if not isinstance(error, Contended | UnreadableValue | StoreFull):
            self._failures += 1
        # At random, because several processes put back at the same time.
        turn_s = self._retries.next_s(1 / RETRIES_PER_S, LONGEST_RETRY_S, now_s)
        delay_s = FIRST_RETRY_S + turn_s + random.uniform(0.0, FIRST_RETRY_S)
        return now_us + round(delay_s * SECOND_US)
