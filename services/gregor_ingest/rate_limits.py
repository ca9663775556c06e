"""Rate limits of callers: messages, and other requests, of a device token or a service key.

The excess of a request above its weight is charged when it ends (``run``). The response of a limited
request has the fields ``RateLimit`` and ``RateLimit-Policy`` of the limits that it took from.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Any, Final, TypeVar

from starlette.types import Scope

from gregor.clock import Clock, monotonic_us
from gregor.cooperative import KeyedSemaphore
from gregor.core.limits import Limits
from gregor.core.messages.cost import text_weight
from gregor.core.rate_limit import (
    MAX_LOCAL,
    MESSAGE_NS,
    REQUEST_NS,
    Allowance,
    Bucket,
    ExcessCost,
    LocalBuckets,
    message_buckets,
    rate_limited,
    request_buckets,
    until_repeat,
)
from gregor.cpu_meter import CpuMeter
from gregor.metrics.process import Metrics
from gregor.store.contract.store import Store, Unavailable
from gregor.web.rate_limit_fields import note_limit

from .auth.actor import Actor

MESSAGES: Final = "messages"
REQUESTS: Final = "requests"
HISTORY: Final = "history"
_CAUSES: Final = {HISTORY: "Too many reads of the history"}
PATIENCE_S: Final = 0.5
"""How long a request waits for the bucket of its key, and how long the next ones do not ask for it again."""
MAX_CONCURRENT: Final = 8
"""Requests of one device, without batches and short messages, that a process serves at once. Others wait."""
_KEY_OWNER: Final = "key/"
_TAKEN: Final = "gregor.taken"
"""The member of an ASGI scope with the units that its request took."""
T = TypeVar("T")


class CallerRateLimiter:
    """Takes from the token buckets of the store, which all processes share (GCRA: ``gregor.core.rate_limit``)."""

    def __init__(self, store: Store, clock: Clock, limits: Limits, metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._reached = metrics.limits_reached
        self._charged_afterwards = metrics.charged_afterwards
        self._excess = ExcessCost(random.random)
        self._concurrent = KeyedSemaphore(MAX_CONCURRENT)
        self._local = LocalBuckets()
        self._ask_at_s: dict[str, float] = {}

    # ---- messages

    async def take(self, actor: Actor, scope: Scope, weights: Sequence[int] = (1,), *, taken: int = 0) -> float:
        """Take messages of these weights. Return 0.0 on success, otherwise the seconds to wait; then nothing was taken.

        A message that weighs more than a full bucket stays possible, once in a while: it needs a full bucket, which
        then owes the rest. ``taken``: what was taken for the same message before.
        """
        limit = self._limit_of(actor, MESSAGES)
        return 0.0 if limit is None else await self._take(MESSAGES, *limit, scope, weights, taken)

    async def check_message(self, actor: Actor, scope: Scope, weight: int = 1) -> None:
        """Take a message of this weight, before it is read. Raise ``rate_limited`` if that is too much."""
        _raise_if_limited(MESSAGES, await self.take(actor, scope, (weight,)))

    async def check_text(self, actor: Actor, scope: Scope, size_bytes: int) -> int:
        """Take what the text of a device's message weighs beyond 1, before it is decoded; returns its weight.

        Raise ``rate_limited`` if that is too much.
        """
        weight = text_weight(size_bytes) if actor.caller is not None else 1
        if weight > 1:
            _raise_if_limited(MESSAGES, await self.take(actor, scope, (weight - 1,), taken=1))
        return weight

    async def check_weight(self, actor: Actor, scope: Scope, weight: int, taken: int) -> None:
        """Take what a message weighs beyond ``taken``, before its work is done.

        Raise ``rate_limited`` if that is too much.
        """
        if weight > taken:
            _raise_if_limited(MESSAGES, await self.take(actor, scope, (weight - taken,), taken=taken))

    async def charge_message(self, actor: Actor, scope: Scope, weight: int) -> None:
        """Take more from a device for a message that is being done: its bucket can go into debt.

        A key pays only for its messages. A device chooses the state of its user, and could otherwise use up the rate
        of a key that sends to it.
        """
        limit = self._limit_of(actor, MESSAGES)
        if limit is not None and actor.caller is not None:
            await self._charge(MESSAGES, *limit, scope, weight)
            scope[_TAKEN] = scope.get(_TAKEN, 0) + weight

    # ---- other requests

    async def check_request(self, actor: Actor, scope: Scope, weight: int = 1, *, taken: int = 0) -> None:
        """Take a request that is not a message. Raise ``rate_limited`` if that is too much.

        A key with a rate has a bucket of its requests with the same rate, and the burst of a device. ``taken``: what
        was taken for the same request before.
        """
        limit = self._limit_of(actor, REQUESTS) if weight > 0 else None
        if limit is not None:
            _raise_if_limited(REQUESTS, await self._take(REQUESTS, *limit, scope, (weight,), taken))

    async def check_body(self, actor: Actor, scope: Scope, size_bytes: int) -> None:
        """Take what the body of a device's request weighs beyond 1, before it is decoded.

        Raise ``rate_limited`` if that is too much.
        """
        if actor.caller is not None:
            await self.check_request(actor, scope, text_weight(size_bytes) - 1, taken=1)

    async def check_history(self, actor: Actor, scope: Scope) -> None:
        """Take one read of the history. Raise ``rate_limited`` if there is none left. Keys have no such limit."""
        if actor.caller is not None:
            name = f"history/{actor.caller.uid}/{actor.caller.device}"
            buckets = (Bucket(name, self._limits.resync_rate, 1),)
            _raise_if_limited(HISTORY, await self._take(HISTORY, name, buckets, scope, (1,), 0))

    def is_limited(self, actor: Actor) -> bool:
        """Return whether ``check_request`` takes from a bucket. If not, the weight of a read is not needed."""
        return actor.key is None or actor.key.rate is not None

    # ---- measured cost

    async def run(self, actor: Actor, scope: Scope, name: str, work: Coroutine[Any, Any, T]) -> T:
        """Run the work of a request, then charge the excess: its CPU time beyond the weight that was taken.

        ``name``: the limit that the request takes from (``MESSAGES`` or ``REQUESTS``).
        """
        limit = self._limit_of(actor, name)
        if limit is None:
            return await work
        meter = CpuMeter(self._clock.cpu_ns)
        try:
            return await meter.run(work)
        finally:
            await self._charge_excess(name, *limit, scope, meter.used_ns)

    def concurrency(self, actor: Actor) -> AbstractAsyncContextManager[None]:
        """Return a context that waits while a device has ``MAX_CONCURRENT`` requests; enter it before ``run``.

        Without it, hundreds of requests at once would begin before the first of them is charged for its work. Leave it
        when the client has read the response, because an unread response takes memory. Keys do not wait.
        """
        return (
            nullcontext() if actor.caller is None else self._concurrent.of(f"{actor.caller.uid}/{actor.caller.device}")
        )

    async def _charge_excess(self, name: str, owner: str, buckets: Sequence[Bucket], scope: Scope, cpu_ns: int) -> None:
        now_us = monotonic_us(self._clock)
        unit_ns = MESSAGE_NS if name == MESSAGES else REQUEST_NS
        weight = self._excess.weight(buckets[0].name, cpu_ns, unit_ns, scope.get(_TAKEN, 0), now_us)
        if weight:
            self._charged_afterwards.labels(name).inc(weight)
            await self._charge(name, owner, buckets, scope, weight)

    async def _charge(self, name: str, owner: str, buckets: Sequence[Bucket], scope: Scope, weight: int) -> None:
        # A failure to store the charge must not fail a request that is done.
        with suppress(TimeoutError, Unavailable):
            async with asyncio.timeout(PATIENCE_S):
                left = await self._store.access.charge_all(owner, buckets, weight, self._clock.now_us())
            note_limit(scope, name, buckets, left)

    # ---- buckets

    def _limit_of(self, actor: Actor, name: str) -> tuple[str, tuple[Bucket, ...]] | None:
        """Return the owner and the buckets of a caller; ``None`` if it has no limit."""
        if actor.caller is not None:
            owner = actor.caller.uid
            buckets_of = message_buckets if name == MESSAGES else request_buckets
            return owner, buckets_of(owner, actor.caller.device, self._limits)
        if actor.key is None or actor.key.rate is None:
            return None
        owner, rate = f"{_KEY_OWNER}{actor.key.id}", actor.key.rate
        if name == MESSAGES:
            # The burst is one second's worth of messages: operators read "rate" that way.
            return owner, (Bucket(owner, rate, max(1, math.ceil(rate))),)
        # not "requests/{owner}": a device can have the uid "key"
        return owner, (Bucket(f"{owner}/requests", rate, max(self._limits.device_request_burst, math.ceil(rate))),)

    async def _take(
        self, name: str, owner: str, buckets: Sequence[Bucket], scope: Scope, weights: Sequence[int], taken: int
    ) -> float:
        # Without the debt, the heaviest message would cost no more than the burst, which can be 1 for a key. Other
        # requests of a device leave no debt, because a page must be able to load a long copy again.
        has_debt = name == MESSAGES or owner.startswith(_KEY_OWNER)
        most = min(bucket.burst for bucket in buckets) - taken
        # Negative after a part above the burst: the message must not wait for the debt that it left itself. Several
        # lines must, because otherwise all of them would be accepted at once.
        if len(weights) > 1 or not has_debt:
            most = max(0, most)
        count = sum(min(weight, most) for weight in weights)
        debt = sum(weights) - count if has_debt else 0
        left = until_repeat(await self._take_from_store(owner, buckets, count, debt), buckets, taken)
        note_limit(scope, name, buckets, left)
        if left.wait_s > 0:
            self._reached.labels(name).inc()
        else:
            scope[_TAKEN] = scope.get(_TAKEN, 0) + count + debt
        return left.wait_s

    async def _take_from_store(self, owner: str, buckets: Sequence[Bucket], count: int, debt: int) -> Allowance:
        # The buckets of a device are in the shard of its user: without it, the request fails anyway.
        if not owner.startswith(_KEY_OWNER):
            return await self._store.access.take_all(owner, buckets, count, self._clock.now_us(), debt)
        # The bucket of a key may be in an unreachable shard, of which the users of the request know nothing. Then each
        # process allows the whole rate.
        now_s = self._clock.monotonic()
        if now_s >= self._ask_at_s.get(owner, 0.0):
            try:
                async with asyncio.timeout(PATIENCE_S):
                    return await self._store.access.take_all(owner, buckets, count, self._clock.now_us(), debt)
            except (TimeoutError, Unavailable):
                if len(self._ask_at_s) >= MAX_LOCAL:
                    self._ask_at_s.clear()
                # From the end of the wait on: otherwise the next request would wait, too.
                self._ask_at_s[owner] = self._clock.monotonic() + PATIENCE_S
        return self._local.take(buckets, count, monotonic_us(self._clock), debt)


def _raise_if_limited(name: str, wait_s: float) -> None:
    if wait_s > 0:
        raise rate_limited(name, wait_s, _CAUSES.get(name, ""))
