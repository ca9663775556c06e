"""Rate limits of callers: messages of a device token or a service key, and reads of the history."""

from __future__ import annotations

import math

from gregor.clock import Clock
from gregor.core.errors import Problem
from gregor.core.limits import Limits
from gregor.core.rate_limit import device_messages_bucket
from gregor.store.contract.store import Store
from gregor.telemetry import Metrics

from .auth import Actor


class CallerRateLimiter:
    """Takes from the token buckets of the store, which all processes share (GCRA: ``gregor.core.rate_limit``)."""

    def __init__(self, store: Store, clock: Clock, limits: Limits, metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._reached = metrics.limits_reached

    async def take(self, actor: Actor, count: int = 1) -> float:
        """Take ``count`` messages. Return 0.0 on success, otherwise the seconds to wait; then nothing was taken."""
        if actor.caller is not None:
            rate, burst = self._limits.device_rate, self._limits.device_burst
            bucket = device_messages_bucket(actor.caller.uid, actor.caller.device)
        elif actor.key is not None and actor.key.rate is not None:
            # The burst is one second's worth of messages: operators read "rate" that way.
            rate, burst, bucket = actor.key.rate, max(1, math.ceil(actor.key.rate)), f"key/{actor.key.id}"
        else:
            return 0.0
        wait_s = await self._store.access.take(bucket, rate, burst, count, self._clock.now_us())
        if wait_s > 0:
            self._reached.labels("messages").inc()
        return wait_s

    async def check_message(self, actor: Actor) -> None:
        """Take one message. Raise ``rate_limited`` if there is none left."""
        _raise_if_limited(await self.take(actor))

    async def check_history(self, actor: Actor) -> None:
        """Take one read of the history. Raise ``rate_limited`` if there is none left. Keys are not limited."""
        if actor.caller is not None:
            bucket = f"history/{actor.caller.uid}/{actor.caller.device}"
            rate = self._limits.resync_rate
            wait_s = await self._store.access.take(bucket, rate, 1, 1, self._clock.now_us())
            if wait_s > 0:
                self._reached.labels("history").inc()
            _raise_if_limited(wait_s)


def rate_limited(wait_s: float) -> Problem:
    """Return the error for a caller that must wait."""
    return Problem("rate_limited", f"Too many requests; retry in {wait_s:.1f} s.", retry_after_s=wait_s)


def _raise_if_limited(wait_s: float) -> None:
    if wait_s > 0:
        raise rate_limited(wait_s)
