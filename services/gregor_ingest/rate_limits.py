"""Rate limits of callers: messages of a device token or a service key, and reads of the history."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gregor.clock import Clock
from gregor.core.errors import Problem
from gregor.core.limits import Limits
from gregor.core.messages.cost import message_weight
from gregor.core.messages.model import Message
from gregor.core.rate_limit import Bucket, message_buckets
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

    async def take(self, actor: Actor, weights: Sequence[int] = (1,), *, taken: int = 0) -> float:
        """Take messages of these weights. Return 0.0 on success, otherwise the seconds to wait; then nothing was taken.

        A message that weighs more than a full bucket takes a full bucket: it stays possible, once in a while.
        ``taken``: what was taken for the same message before.
        """
        if actor.caller is not None:
            owner = actor.caller.uid
            buckets: tuple[Bucket, ...] = message_buckets(owner, actor.caller.device, self._limits)
        elif actor.key is not None and actor.key.rate is not None:
            # The burst is one second's worth of messages: operators read "rate" that way.
            owner = f"key/{actor.key.id}"
            buckets = (Bucket(owner, actor.key.rate, max(1, math.ceil(actor.key.rate))),)
        else:
            return 0.0
        most = min(bucket.burst for bucket in buckets) - taken
        count = sum(min(weight, most) for weight in weights)
        wait_s = await self._store.access.take_all(owner, buckets, count, self._clock.now_us())
        if wait_s > 0:
            self._reached.labels("messages").inc()
        return wait_s

    async def check_message(self, actor: Actor) -> None:
        """Take one message, before it is read. Raise ``rate_limited`` if there is none left."""
        _raise_if_limited(await self.take(actor))

    async def check_weight(self, actor: Actor, message: Message) -> None:
        """Take what a message weighs beyond 1, before its work is done. Raise ``rate_limited`` if that is too much."""
        weight = message_weight(message)
        if weight > 1:
            _raise_if_limited(await self.take(actor, (weight - 1,), taken=1))

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
