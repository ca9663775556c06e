"""Rate limits of a device or user at one gateway, over all connections: a new connection does not renew them. Pure.

A bucket may go into debt: the cost of some work is known only after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from gregor.core.ids import Prefixes
from gregor.core.limits import Limits
from gregor.core.rate_limit import REQUEST_NS, Allowance, Bucket, RateLimiter
from gregor.store.contract.access import KEY_HOLDER

JOINS_A_SECOND: Final = 10.0
"""Connections and polls a second of one device at one gateway."""
JOIN_BURST: Final = 200
"""Connections and polls at once: eight sessions that reconnect a few times."""
JOINS: Final = Bucket("joins", JOINS_A_SECOND, JOIN_BURST)
"""A join takes one token before its read, and more by the weight of its sync object. A poll shows what is left."""
USER_JOINS_A_SECOND: Final = 25.0
"""Joins a second of all devices of a user at one gateway.

Measured: 4 % of a core of the gateway, and 1.5 % of Redis, if all of them connect and read a short copy.
"""
FULL_RATE_GATEWAYS: Final = 2
"""Up to this number, each gateway has the full rates of joins. More gateways divide the rates of two.

These are 20 joins a second of a device, and 50 of a user."""
LEAST_SHARE: Final = 0.2
"""The smallest part of the rates that a gateway has: a proxy may send all polls of a device to one gateway."""
FILTER_BYTES: Final = 4_096
"""Bytes of filters for which a connection takes one more join.

The lease of the connection contains its filters, and later joins of the device read the lease."""
KEY_JOIN_BURST: Final = 500
"""Streams and polls at once of all observers of a service key that has a ``rate``, as for its other requests."""

FRAMES_A_MESSAGE: Final = 5
"""Units of the frame budget for each message that a device may send: its text, acks, presence and pings."""
BURST_FACTOR: Final = 4
"""The burst of the frame budget, in bursts of messages."""
BYTES_A_UNIT: Final = 2_048
"""Bytes of a frame for one more unit of the budget of its connection: the worst text takes 0.6 ms of CPU time.

A device may send 8 KiB for each message of its rate (``text_weight``), so these never exceed the budget.
"""
FRAGMENTS_A_UNIT: Final = 16
"""Tiny fragments of a message for one more unit of both budgets: parsing each takes 5 µs."""
LONGEST_SHARE: Final = 8
"""A frame takes at most this part of the budget by its length, so several of the longest ones fit at once."""


def frame_bucket(limits: Limits) -> Bucket:
    """Return the frame budget of one connection."""
    return Bucket(
        "frames", FRAMES_A_MESSAGE * limits.device_rate, FRAMES_A_MESSAGE * BURST_FACTOR * limits.device_burst
    )


def device_frame_bucket(limits: Limits) -> Bucket:
    """Return the frame budget of all connections of a device. Frames that need the store take more of it."""
    bucket = frame_bucket(limits)
    return Bucket(bucket.name, limits.connections * bucket.rate, limits.connections * bucket.burst)


def user_join_bucket(limits: Limits) -> Bucket:
    """Return the joins of all devices of a user at one gateway: each of its connections may join twice at once."""
    return Bucket("joins", USER_JOINS_A_SECOND, max(JOIN_BURST, 2 * limits.devices * limits.connections))


def filter_weight(*filters: Prefixes) -> int:
    """Return how many further joins a connection takes for the length of its filters."""
    return sum(len(prefix) for prefixes in filters for prefix in prefixes or ()) // FILTER_BYTES


def length_units(size_bytes: int, burst: int) -> int:
    """Return the units that a frame takes by its length from a budget of ``burst`` units at once."""
    return min(size_bytes // BYTES_A_UNIT, burst // LONGEST_SHARE)


def retry_reason(wait_s: float, jitter: Callable[[float, float], float]) -> str:
    """Return the reason of a close with the time until the client may join again: one second or more, with jitter."""
    return f"retry_after_ms={round(1_000 * max(1.0, wait_s) * jitter(1.0, 3.0))}"


class DeviceRates:
    """Equal buckets, one for each device that used its bucket recently. A full bucket is forgotten."""

    def __init__(self, bucket: Bucket) -> None:
        self._rate, self._burst = bucket.rate, bucket.burst
        self._devices: dict[tuple[str, str], RateLimiter] = {}

    def __len__(self) -> int:
        return len(self._devices)

    def take(self, uid: str, device: str, now_s: float, count: int = 1) -> float:
        """Take tokens if there is at least one. Returns 0.0, or the seconds until there is one."""
        limiter = self._limiter(uid, device, now_s)
        if not limiter.capacity(1, now_s):
            return limiter.wait_s(now_s)
        limiter.acquire(now_s, count)
        return 0.0

    def charge(self, uid: str, device: str, weight: float, now_s: float) -> None:
        """Take ``weight`` tokens for work that was done, at most a full bucket."""
        if weight:
            self._limiter(uid, device, now_s).acquire(now_s, min(weight, self._burst))

    def left(self, uid: str, device: str, now_s: float) -> Allowance:
        """Return how many tokens a device has left, without taking one."""
        limiter = self._devices.get((uid, device))
        if limiter is None:
            return Allowance(0.0, self._burst, 0.0)
        left = limiter.capacity(self._burst, now_s)
        return Allowance(0.0, left, (self._burst - left) / self._rate if left else limiter.wait_s(now_s))

    def wait_s(self, uid: str, device: str, now_s: float) -> float:
        """Return the seconds until a device has a token, without taking it."""
        limiter = self._devices.get((uid, device))
        return 0.0 if limiter is None else limiter.wait_s(now_s)

    def _limiter(self, uid: str, device: str, now_s: float) -> RateLimiter:
        """Return the bucket of a device."""
        key = uid, device
        limiter = self._devices.pop(key, None) or RateLimiter(self._rate, self._burst)
        # The least recent devices are first; two steps a call keep up with one insertion.
        for oldest in [key for _, key in zip(range(2), self._devices, strict=False)]:
            if self._devices[oldest].capacity(self._burst, now_s) == self._burst:
                del self._devices[oldest]
        self._devices[key] = limiter
        return limiter


class KeyRates:
    """The buckets of the service keys that have a ``rate``. Full buckets are removed at each ``take``: keys are few.

    A join takes one token of its key. Its copy may cost 200 more, and the user decides the size of the copy. The copies
    of one user therefore take at most half of the rate: otherwise the observers of other users could not join.
    """

    def __init__(self) -> None:
        self._keys: dict[str, tuple[RateLimiter, DeviceRates]] = {}

    def wait_s(self, holder: str, now_s: float) -> float:
        """Return the seconds until a key has a token; 0.0 for all other holders."""
        known = self._keys.get(holder)
        return 0.0 if known is None else known[0].wait_s(now_s)

    def take(self, holder: str, rate: float, now_s: float) -> None:
        """Take a token of a key with this rate, also if it goes into debt by that."""
        for key in [key for key, (limiter, _) in self._keys.items() if limiter.is_full(now_s)]:
            del self._keys[key]
        if holder not in self._keys:
            burst = max(KEY_JOIN_BURST, math.ceil(rate))
            copies = DeviceRates(Bucket("copies", rate / 2, burst // 2))
            self._keys[holder] = RateLimiter(rate, burst), copies
        self._keys[holder][0].acquire(now_s)

    def charge(self, uid: str, holder: str, weight: int, now_s: float) -> None:
        """Take tokens of a key for the copy of a user that was read. Other holders have no bucket."""
        if (known := self._keys.get(holder)) is not None:
            limiter, copies = known
            paid = min(weight, copies.left(uid, "", now_s).remaining)
            copies.charge(uid, "", paid, now_s)
            limiter.acquire(now_s, paid)


class SharedTime:
    """A clock by which the buckets of joins refill: the more gateways are alive, the slower it goes.

    If the number of gateways changes, the rates of all buckets change at once, but not the tokens in them.
    """

    def __init__(self, live_gateways: Callable[[], int]) -> None:
        self._live_gateways = live_gateways
        self._now_s = self._passed_s = 0.0

    @property
    def share(self) -> float:
        """The part of the rates that this gateway has."""
        return max(LEAST_SHARE, min(1.0, FULL_RATE_GATEWAYS / max(1, self._live_gateways())))

    def at(self, now_s: float) -> float:
        """Return the shared time."""
        self._passed_s += (now_s - self._now_s) * self.share
        self._now_s = now_s
        return self._passed_s


class JoinRates:
    """The joins of each device, and of all devices of a user (``of_user``). Resyncs and rendering take from both.

    The holder of a join is its device, or the service key of an observer. A key takes no joins of the user: otherwise
    it could keep the devices from joining. If it has a ``rate``, its observers of all users together take from that.

    Joins cost Redis, which all gateways share, so the rates are divided among them (``live_gateways``: their number).
    Bursts are not: after a failure, all clients of a gateway join another one.
    """

    def __init__(self, of_user: Bucket, live_gateways: Callable[[], int] = lambda: 1) -> None:
        self._of_holder = DeviceRates(JOINS)
        self._of_user = DeviceRates(of_user)
        self._of_key = KeyRates()
        self._time = SharedTime(live_gateways)

    @property
    def of_device(self) -> Bucket:
        """The current limit of the joins of one device at this gateway."""
        return Bucket(JOINS.name, JOINS.rate * self._time.share, JOINS.burst)

    def take(self, uid: str, holder: str, now_s: float, key_rate: float | None = None) -> float:
        """Take a join. Returns 0.0, or the seconds until there is one. ``key_rate``: the ``rate`` of a service key."""
        at_s, shared_by = self._time.at(now_s), _shared_by(holder)
        # The shared buckets are checked first, without taking: a refusal must take no join from them.
        wait_s = self._of_user.wait_s(uid, shared_by, at_s) / self._time.share or self._of_key.wait_s(holder, now_s)
        wait_s = wait_s or self._of_holder.take(uid, holder, at_s) / self._time.share
        if not wait_s:
            self._of_user.charge(uid, shared_by, 1, at_s)
            if key_rate is not None:
                self._of_key.take(holder, key_rate, now_s)
        return wait_s

    def charge(self, uid: str, holder: str, weight: int, now_s: float, cpu_ns: int = 0) -> None:
        """Take ``weight`` joins for work that was done, at most ``JOIN_BURST``.

        ``cpu_ns``: its CPU time, which counts if it is worth more.
        """
        weight, cpu = min(weight, JOIN_BURST), min(cpu_ns // REQUEST_NS, JOIN_BURST)
        # The CPU time is that of this gateway alone, so its rate is not divided.
        shared, at_s = max(weight, cpu * self._time.share), self._time.at(now_s)
        # A device that owes a whole burst goes on into debt alone: otherwise it could keep the others from joining.
        if self._of_holder.wait_s(uid, holder, at_s) <= JOIN_BURST / JOINS_A_SECOND:
            self._of_user.charge(uid, _shared_by(holder), shared, at_s)
        self._of_holder.charge(uid, holder, shared, at_s)
        self._of_key.charge(uid, holder, max(weight, cpu), now_s)

    def left(self, uid: str, holder: str, now_s: float) -> Allowance:
        """Return how many joins a holder can take now."""
        at_s = self._time.at(now_s)
        own, shared = self._of_holder.left(uid, holder, at_s), self._of_user.left(uid, _shared_by(holder), at_s)
        least = min(own, shared, key=lambda left: left.remaining)
        return least._replace(reset_s=least.reset_s / self._time.share)

    def wait_s(self, uid: str, holder: str, now_s: float) -> float:
        """Return the seconds until a holder has a join, without taking it."""
        at_s = self._time.at(now_s)
        own_s, user_s = self._of_holder.wait_s(uid, holder, at_s), self._of_user.wait_s(uid, _shared_by(holder), at_s)
        return max(max(own_s, user_s) / self._time.share, self._of_key.wait_s(holder, now_s))


def _shared_by(holder: str) -> str:
    """Return the name of the bucket that a holder shares: that of all devices, or its own if it is a service key."""
    return holder if holder.startswith(KEY_HOLDER) else ""
