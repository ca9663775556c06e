"""Rate limit of joins: each new connection of a device reads its state, and nothing else limits how often. Pure.

A join takes one token before its read. Its sync object then takes tokens by its weight; the bucket may go into debt.
"""

from __future__ import annotations

from typing import Final

from gregor.core.rate_limit import Allowance, Bucket, RateLimiter

JOINS_A_SECOND: Final = 10.0
"""Connections and polls a second of one device at one gateway."""
JOIN_BURST: Final = 200
"""Connections and polls at once: eight sessions that reconnect a few times."""
JOINS: Final = Bucket("joins", JOINS_A_SECOND, JOIN_BURST)
"""The same, for the fields ``RateLimit`` of a poll."""


class JoinRates:
    """The buckets of the devices that joined recently. A full bucket is forgotten."""

    def __init__(self) -> None:
        self._devices: dict[tuple[str, str], RateLimiter] = {}

    def __len__(self) -> int:
        return len(self._devices)

    def take(self, uid: str, device: str, now_s: float) -> float:
        """Count a join. Returns 0.0, or the seconds until the next one is allowed."""
        key = uid, device
        limiter = self._devices.pop(key, None) or RateLimiter(JOINS_A_SECOND, JOIN_BURST)
        # The least recent devices are first; two steps a call keep up with one insertion.
        for oldest in [key for _, key in zip(range(2), self._devices, strict=False)]:
            if self._devices[oldest].capacity(JOIN_BURST, now_s) == JOIN_BURST:
                del self._devices[oldest]
        self._devices[key] = limiter
        return 0.0 if limiter.try_acquire(now_s) else limiter.wait_s(now_s)

    def charge(self, uid: str, device: str, weight: int, now_s: float) -> None:
        """Charge a device ``weight`` further joins for a sync that it requested; at most a full bucket."""
        if weight:
            limiter = self._devices.setdefault((uid, device), RateLimiter(JOINS_A_SECOND, JOIN_BURST))
            limiter.acquire(now_s, min(weight, JOIN_BURST))

    def left(self, uid: str, device: str, now_s: float) -> Allowance:
        """Return how many joins a device has left, without taking one."""
        limiter = self._devices.get((uid, device))
        if limiter is None:
            return Allowance(0.0, JOIN_BURST, 0.0)
        left = limiter.capacity(JOIN_BURST, now_s)
        return Allowance(0.0, left, (JOIN_BURST - left) / JOINS_A_SECOND if left else limiter.wait_s(now_s))
