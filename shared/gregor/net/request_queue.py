"""The queue of requests that wait for the CPU of a process, and when further requests are refused.

A request is in the queue from its arrival until its handler begins. Requests that wait for Redis or for a body do not
count. A long queue is harmless while it is short-lived: a burst of 2,000 requests is served in 0.3 s, and a pause of
the process makes many requests late once. After all requests of a second have waited too long, or if a full queue
refuses a verified service key while others wait too long, the queue is limited to 32 units. This ends after ten seconds
without a second of late requests, or of refused verified keys in a busy process.

A request with a verified service key is refused only if such requests alone fill the capacity. Any other request counts
one unit, and is refused if all requests together fill the capacity. So strangers take no place from verified keys, and
their refusals neither begin nor prolong an overload.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from gregor.cpu_demand import wanted_cpu_s

OVERLOAD_CAPACITY: Final = 32
"""Units of the queue in an overload. 32 small requests take 5 ms. With 64 units, the p99 of refusals exceeds 50 ms."""
BYTES_A_UNIT: Final = 2_048
"""Received bytes that count as one more unit: a batch of 100 messages counts as 13, which is its CPU time (1.8 ms)."""
LATE_FOR_S: Final = 1.0
"""An overload begins after requests have been late for this time, without one that was not (as CoDel, RFC 8289)."""
HOLD_S: Final = 10.0
"""An overload ends after this time without a second of late requests, or of refused verified keys in a busy process.

Refused callers return sooner.
"""
BUSY_SHARE: Final = 0.7
"""Refusals prolong an overload only if the event loop used or waited for a CPU for this share of their time.

Otherwise a few large requests a second could hold the queue of an idle process at 32 units.
"""
REFUSAL_GAP_S: Final = 0.5
"""Refusals with longer pauses between them do not prolong an overload: a burst now and then, on an idle process."""
NORMAL_CAPACITY: Final = 4_096
"""Units of the queue at other times: so many requests take about 0.6 s, and 30 MB."""

log = structlog.get_logger(__name__)


class RequestQueue:
    """Counts the requests in the queue, and decides which are refused."""

    __slots__ = (
        "_count_unserved",
        "_cpu_s",
        "_has_refused_verified",
        "_late_since_s",
        "_logged_refusals",
        "_max_delay_s",
        "_refused_at_s",
        "_refusing_since_cpu_s",
        "_refusing_since_s",
        "_unserved",
        "_until_s",
        "capacity",
        "refusals",
        "verified",
        "waiting",
    )  # fmt: skip

    def __init__(
        self, max_delay_s: float, count_unserved: Callable[[int], object], cpu_s: Callable[[], float] = wanted_cpu_s
    ) -> None:
        """``count_unserved``: gets the numbers of requests that ``refuse`` counted, from time to time.

        ``cpu_s``: returns the seconds for which the event loop has used or waited for a CPU so far.
        """
        self._max_delay_s = max_delay_s
        self._count_unserved = count_unserved
        self._cpu_s = cpu_s
        self._until_s = 0.0
        self._late_since_s: float | None = None
        self._has_refused_verified = False
        self._refused_at_s = self._refusing_since_s = self._refusing_since_cpu_s = 0.0
        self._unserved = self._logged_refusals = 0
        self.refusals = 0
        """All refused requests so far."""
        self.capacity = NORMAL_CAPACITY
        self.waiting = 0
        """Units in the queue."""
        self.verified = 0
        """Units of the requests in the queue that were offered as verified."""

    @property
    def is_full(self) -> bool:
        """Whether the next request without a verified key must be refused."""
        return self.waiting >= self.capacity

    @property
    def is_full_for_verified(self) -> bool:
        """Whether the next request with a verified key must be refused."""
        return self.verified >= self.capacity

    @property
    def is_overloaded(self) -> bool:
        """Whether the queue is limited to 32 units now."""
        return self.capacity != NORMAL_CAPACITY

    def needs_key(self, size_bytes: int) -> bool:
        """Return whether the caller must look up the key of a request of this size before ``offer``."""
        # A lookup costs CPU time. In a short queue, a small request has one unit with or without a key.
        return size_bytes >= BYTES_A_UNIT or self.waiting >= OVERLOAD_CAPACITY or self.is_overloaded

    def offer(self, size_bytes: int, *, is_verified: bool) -> int:
        """Add a request whose received part has this size. Returns its units, or 0 if it must be refused.

        ``is_verified``: it has a verified key.
        """
        if self.is_full_for_verified if is_verified else self.is_full:
            self.refusals += 1
            self._has_refused_verified = self._has_refused_verified or is_verified
            return 0
        if not is_verified:
            # One unit whatever its size: bodies of strangers are never parsed, and those of devices are small.
            self.waiting += 1
            return 1
        units = 1 + size_bytes // BYTES_A_UNIT
        self.waiting += units
        self.verified += units
        return units

    def refuse(self, *, is_verified: bool) -> None:
        """Count a request that was refused without an offer, because the queue is full."""
        self.refusals += 1
        self._unserved += 1
        self._has_refused_verified = self._has_refused_verified or is_verified

    def leave(self, units: int, arrived_s: float, now_s: float, *, is_verified: bool) -> None:
        """Remove a request whose handler begins now. ``units``: of ``offer``."""
        self.waiting -= units
        if is_verified:
            self.verified -= units
        delay_s = now_s - arrived_s
        if (
            delay_s > self._max_delay_s
            or self._late_since_s is not None
            or self._has_refused_verified
            or self._unserved
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
        if is_late or self._is_refusing(delay_s, now_s):
            if not self.is_overloaded:
                self.capacity = OVERLOAD_CAPACITY
                log.warning("overload.began", delay_s=round(delay_s, 3))
            self._until_s = now_s + HOLD_S
        elif self.is_overloaded and now_s >= self._until_s:
            self.capacity = NORMAL_CAPACITY
            log.warning("overload.ended", refused=self.refusals - self._logged_refusals)
            self._logged_refusals = self.refusals

    def _is_refusing(self, delay_s: float, now_s: float) -> bool:
        """Return whether refusals of verified keys show that requests exceed the CPU time."""
        if not self._has_refused_verified:
            return False
        if not self.is_overloaded:
            # A few large requests of one moment fill the queue, too. They are served at once, so none of them is late.
            is_late = delay_s > self._max_delay_s
            self._has_refused_verified = not is_late and self.waiting > 0
            return is_late
        self._has_refused_verified = False
        has_gap = now_s - self._refused_at_s > REFUSAL_GAP_S
        self._refused_at_s = now_s
        refusing_s = now_s - self._refusing_since_s
        if refusing_s < LATE_FOR_S and not has_gap:
            return False
        # A second of refusals has passed, or refusals begin after a gap: measure the next second from here.
        cpu_s = self._cpu_s()
        is_busy = cpu_s - self._refusing_since_cpu_s >= BUSY_SHARE * refusing_s
        self._refusing_since_s, self._refusing_since_cpu_s = now_s, cpu_s
        return is_busy and not has_gap
