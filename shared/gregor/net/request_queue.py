"""The queue of requests that wait for the CPU of a process, and when further requests are refused.

A request is in the queue from its arrival until its handler begins. Requests that wait for Redis or for a body do not
count. A long queue is harmless while it is short-lived: a burst of 2,000 requests is served in 0.3 s, and a pause of
the process makes many requests late once. After all requests of a second have waited too long, the queue is
limited to 32 units, until ten seconds have passed without a refusal or a second of late requests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

OVERLOAD_CAPACITY: Final = 32
"""Units of the queue in an overload. 32 small requests take 5 ms. With 64 units, the p99 of refusals exceeds 50 ms."""
BYTES_A_UNIT: Final = 2_048
"""Received bytes that count as one more unit: a batch of 100 messages counts as 13, which is its CPU time (1.8 ms)."""
LATE_FOR_S: Final = 1.0
"""An overload begins after requests have been late for this time, without one that was not (as CoDel, RFC 8289)."""
HOLD_S: Final = 10.0
"""The capacity ends after this time without a refusal or a second of late requests. Refused callers return sooner."""
NORMAL_CAPACITY: Final = 4_096
"""Units of the queue at other times: so many requests take about 0.6 s, and 30 MB."""

log = structlog.get_logger(__name__)


class RequestQueue:
    """Counts the requests in the queue, and decides which are refused."""

    __slots__ = (
        "_began_refusals",
        "_count_unserved",
        "_last_refusals",
        "_late_since_s",
        "_max_delay_s",
        "_unserved",
        "_until_s",
        "capacity",
        "refusals",
        "waiting",
    )  # fmt: skip

    def __init__(self, max_delay_s: float, count_unserved: Callable[[int], object]) -> None:
        """``count_unserved``: gets the numbers of requests that ``refuse`` counted, from time to time."""
        self._max_delay_s = max_delay_s
        self._count_unserved = count_unserved
        self._until_s = 0.0
        self._late_since_s: float | None = None
        self._unserved = self._last_refusals = self._began_refusals = 0
        self.refusals = 0
        """All refused requests so far."""
        self.capacity = NORMAL_CAPACITY
        self.waiting = 0
        """Units in the queue."""

    @property
    def is_full(self) -> bool:
        """Whether the next request must be refused."""
        return self.waiting >= self.capacity

    @property
    def is_overloaded(self) -> bool:
        """Whether the queue is limited to 32 units now."""
        return self.capacity != NORMAL_CAPACITY

    def offer(self, size_bytes: int) -> int:
        """Add a request whose received part has this size. Returns its units, or 0 if it must be refused."""
        if self.waiting >= self.capacity:
            self.refusals += 1
            return 0
        units = 1 + size_bytes // BYTES_A_UNIT
        self.waiting += units
        return units

    def refuse(self) -> None:
        """Count a request that was refused without an offer, because the queue is full."""
        self.refusals += 1
        self._unserved += 1

    def leave(self, units: int, arrived_s: float, now_s: float) -> None:
        """Remove a request whose handler begins now. ``units``: of ``offer``."""
        self.waiting -= units
        delay_s = now_s - arrived_s
        if (
            delay_s > self._max_delay_s
            or self._late_since_s is not None
            or self.refusals != self._last_refusals
            or self.capacity != NORMAL_CAPACITY
        ):
            self._observe(delay_s, now_s)

    def _observe(self, delay_s: float, now_s: float) -> None:
        """Begin, continue or end the overload."""
        if self._unserved:
            # A refusal implies that requests wait; one of them leaves soon.
            self._count_unserved(self._unserved)
            self._unserved = 0
        if delay_s <= self._max_delay_s:
            self._late_since_s = None
        elif self._late_since_s is None:
            self._late_since_s = now_s
        is_late = self._late_since_s is not None and now_s - self._late_since_s >= LATE_FOR_S
        if is_late or self.refusals != self._last_refusals:
            if self.capacity == NORMAL_CAPACITY:
                self.capacity, self._began_refusals = OVERLOAD_CAPACITY, self._last_refusals
                log.warning("overload.began", delay_s=round(delay_s, 3))
            self._until_s, self._last_refusals = now_s + HOLD_S, self.refusals
        elif now_s >= self._until_s:
            self.capacity = NORMAL_CAPACITY
            log.warning("overload.ended", refused=self.refusals - self._began_refusals)
