"""Rate limits: the generic cell rate algorithm (GCRA), whose whole state is one number a bucket.

``take`` is the arithmetic of the buckets in the store (``lua/deployment/rate_limit.lua`` does the same sums; whole
microseconds, so both agree exactly). ``RateLimiter`` is a bucket in this process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from .errors import Problem
from .limits import Limits

SECOND_US: Final = 1_000_000

MAX_LOCAL: Final = 10_000
"""Buckets that ``LocalBuckets`` keeps, about 1 MB."""

DEFAULT_BURST_S: Final = 0.1
"""Tokens of this time may be used at once, if the burst is not given."""

REQUEST_NS: Final = 2_000_000
"""CPU time of a service for each unit of the rate of requests."""

MESSAGE_NS: Final = 5_000_000
"""CPU time of a service for each unit of the rate of messages."""

MAX_MEASURED_NS: Final = 2_000_000_000
"""CPU time that one request is charged for at most."""

DELAYED_RATE: Final = 200.0
"""Redis time of a user's due delayed messages, in units of 0.25 ms a second: 5 % of a core."""

DELAYED_BURST: Final = 1_000
"""Units that may be used at once: a thousand small messages, or 25 with many intervals."""

# Units a second, and units at once: 1 % of a core, and 0.2 s, beyond the rate of requests.
_GRACE: Final = (5.0, 100)

# Of one step: the rounding error of many sums of floats.
_ROUNDING: Final = 1e-6


def step_us(rate: float) -> int:
    """Return the microseconds in which a bucket of ``rate`` a second gets one token back."""
    return max(1, int(SECOND_US / rate + 0.5))


def take(full_at_us: int, rate: float, burst: int, count: int, now_us: int, debt: int = 0) -> tuple[int, float]:
    """Take ``count`` tokens at once from a bucket that refills at ``rate`` a second and holds ``burst``.

    ``full_at_us``: when the bucket will be full again (0: never used). ``debt``: tokens that are taken beside
    ``count``, even if the bucket then has less than nothing. Returns the new value of ``full_at_us`` and 0.0; if there
    are too few tokens for ``count``, the old value and the seconds to wait.
    """
    step = step_us(rate)
    next_us = max(full_at_us, now_us) + (count + debt) * step
    wait_us = next_us - (burst + debt) * step - now_us
    return (next_us, 0.0) if wait_us <= 0 else (full_at_us, wait_us / SECOND_US)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket in the store: its name, the tokens that it gets back a second, and those that it holds."""

    name: str
    rate: float
    burst: int


class Allowance(NamedTuple):
    """What is left after taking from buckets.

    Attributes:
        wait_s: 0.0 if it was taken; else the seconds after which the same can be taken.
        remaining: Tokens that can be taken now from each of the buckets; 0 if it was refused.
        reset_s: Seconds until the bucket with the fewest tokens is full; without tokens, until it has one.
    """

    wait_s: float
    remaining: int
    reset_s: float


def allowance_of(buckets: Sequence[Bucket], used_us: Sequence[int]) -> Allowance:
    """Return what is left after a successful take. ``used_us``: the time until each bucket is full."""
    lowest: tuple[int, int] | None = None
    for bucket, used in zip(buckets, used_us, strict=True):
        step = step_us(bucket.rate)
        remaining = bucket.burst - -(-used // step)
        if lowest is None or remaining < lowest[0]:
            lowest = remaining, used if remaining > 0 else used - (bucket.burst - 1) * step
    remaining, reset_us = lowest or (0, 0)
    return Allowance(0.0, max(0, remaining), reset_us / SECOND_US)


def refused(wait_us: int) -> Allowance:
    """Return the allowance of a refused take. ``wait_us``: the time after which it can be taken."""
    return Allowance(wait_us / SECOND_US, 0, wait_us / SECOND_US)


def until_repeat(left: Allowance, buckets: Sequence[Bucket], taken: int) -> Allowance:
    """Return what is left, with the wait until the whole request can be repeated.

    ``taken``: what the request took before it was refused. Its repeat takes this again, before it takes the rest.
    """
    if left.wait_s <= 0 or not taken:
        return left
    return refused(round(left.wait_s * SECOND_US) + taken * max(step_us(bucket.rate) for bucket in buckets))


def rate_limited(name: str, wait_s: float, cause: str = "") -> Problem:
    """Return the error for a caller that must wait. ``name``: of its limit, as in the field ``RateLimit``."""
    # Rounded up: "0.0 s" would invite a retry that comes too early.
    shown_s = max(1, math.ceil(wait_s * 10)) / 10
    detail = f'{cause or f"Too many {name}"}: the rate limit "{name}" is reached. Retry in {shown_s:.1f} s.'
    return Problem("rate_limited", detail, retry_after_s=wait_s)


def message_buckets(uid: str, device: str, limits: Limits) -> tuple[Bucket, Bucket]:
    """Return the buckets of a device's messages: its own, and that of its user. One pair for HTTP and WebSocket.

    No name has a slash. A user may send at least as much as one device.
    """
    user_rate, user_burst = max(limits.user_rate, limits.device_rate), max(limits.user_burst, limits.device_burst)
    return (
        Bucket(f"messages/{uid}/{device}", limits.device_rate, limits.device_burst),
        Bucket(f"messages/{uid}", user_rate, user_burst),
    )


def request_buckets(uid: str, device: str, limits: Limits) -> tuple[Bucket, Bucket]:
    """Return the buckets of a device's other requests, such as reads: its own, and that of its user."""
    device_rate, device_burst = limits.device_request_rate, limits.device_request_burst
    user_rate, user_burst = max(limits.user_request_rate, device_rate), max(limits.user_request_burst, device_burst)
    return (
        Bucket(f"requests/{uid}/{device}", device_rate, device_burst),
        Bucket(f"requests/{uid}", user_rate, user_burst),
    )


def delayed_bucket(uid: str) -> Bucket:
    """Return the bucket of the Redis time of a user's due delayed messages (``redis_units``).

    The rates of messages limit how fast they are accepted. A device could save that up for one moment.
    """
    return Bucket(f"delayed/{uid}", DELAYED_RATE, DELAYED_BURST)


class LocalBuckets:
    """Token buckets in this process. At most ``MAX_LOCAL`` are kept that are not full."""

    def __init__(self) -> None:
        self._full_at_us: dict[str, int] = {}

    def take(self, buckets: Sequence[Bucket], count: int, now_us: int, debt: int = 0) -> Allowance:
        """Take ``count`` tokens from each bucket, or from none. ``debt``: see ``take`` of this module."""
        taken = [
            take(self._full_at_us.get(bucket.name, 0), bucket.rate, bucket.burst, count, now_us, debt)
            for bucket in buckets
        ]
        wait_s = max(wait_s for _, wait_s in taken)
        return (
            refused(round(wait_s * SECOND_US)) if wait_s > 0 else self._keep(buckets, [at for at, _ in taken], now_us)
        )

    def charge(self, buckets: Sequence[Bucket], count: int, now_us: int) -> Allowance:
        """Take ``count`` tokens from each bucket, even if it has less: it goes into debt."""
        debts = [max(self._full_at_us.get(each.name, 0), now_us) + count * step_us(each.rate) for each in buckets]
        return self._keep(buckets, debts, now_us)

    def _keep(self, buckets: Sequence[Bucket], full_at_us: Sequence[int], now_us: int) -> Allowance:
        if len(self._full_at_us) >= MAX_LOCAL:
            self._full_at_us = {name: at_us for name, at_us in self._full_at_us.items() if at_us > now_us}
            if len(self._full_at_us) >= MAX_LOCAL:
                self._full_at_us.clear()
        for bucket, at_us in zip(buckets, full_at_us, strict=True):
            self._full_at_us[bucket.name] = at_us
        return allowance_of(buckets, [at_us - now_us for at_us in full_at_us])


class ExcessCost:
    """Computes the units to charge after a request that used more CPU time than its weight.

    ``draw`` returns a random number from 0 to 1. Each owner has a grace, for the first request of a process, garbage
    collection, and a slow machine.
    """

    def __init__(self, draw: Callable[[], float]) -> None:
        self._grace = LocalBuckets()
        self._draw = draw

    def weight(self, owner: str, cpu_ns: int, unit_ns: int, taken: int, now_us: int) -> int:
        """Return the tokens to take. ``unit_ns``: the CPU time of a token; ``taken``: the tokens that were taken."""
        # Rounded up or down at random, in proportion: otherwise almost one unit of each request would be free.
        excess = int(min(cpu_ns, MAX_MEASURED_NS) / unit_ns - taken + self._draw())
        if excess <= 0 or not self._grace.take((Bucket(owner, *_GRACE),), excess, now_us).wait_s:
            return 0
        return excess


class RateLimiter:
    """A token bucket of this process: a client-side rate limit, or a throttle of background work.

    ``rate``: tokens a second; ``None`` for no limit. ``burst``: tokens that a full bucket holds; by default those of
    100 ms, and at least one. Times are monotonic seconds.
    """

    __slots__ = ("_burst", "_full_at_s", "_step_s")

    def __init__(self, rate: float | None, burst: int | None = None) -> None:
        self._step_s = 0.0 if rate is None else 1.0 / rate
        self._burst = burst if burst is not None else max(1, int((rate or 0.0) * DEFAULT_BURST_S))
        self._full_at_s = float("-inf")

    def capacity(self, limit: int, now_s: float, ahead_s: float = 0.0) -> int:
        """Return how many tokens are available, at most ``limit``. Takes none; see ``acquire``.

        ``ahead_s``: also count the tokens of the next seconds, for callers that wait for their token.
        """
        if not self._step_s:
            return limit
        used = (max(0.0, self._full_at_s - now_s) - ahead_s) / self._step_s
        return max(0, min(limit, int(self._burst - used + _ROUNDING)))

    def is_full(self, now_s: float) -> bool:
        """Return whether all tokens are available."""
        return self._full_at_s <= now_s

    def acquire(self, now_s: float, count: float = 1) -> None:
        """Take ``count`` tokens. An empty bucket goes into debt, which later calls wait for."""
        self._full_at_s = max(self._full_at_s, now_s) + count * self._step_s

    def try_acquire(self, now_s: float) -> bool:
        """Take one token if one is available, and return whether it was."""
        if not self.capacity(1, now_s):
            return False
        self.acquire(now_s)
        return True

    def wait_s(self, now_s: float) -> float:
        """Return the seconds until a token is available."""
        return max(0.0, self._full_at_s - now_s - (self._burst - 1) * self._step_s)
