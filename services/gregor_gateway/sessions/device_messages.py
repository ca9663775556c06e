"""Messages from devices: the same validation, plan and commit as at ingest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from gregor.auth.device_tokens import Caller
from gregor.clock import Clock
from gregor.core.errors import Problem
from gregor.core.items.sync import View
from gregor.core.limits import Limits
from gregor.core.messages.cost import text_weight
from gregor.core.messages.model import Sender, UserReset
from gregor.core.messages.parse import parse_message
from gregor.core.rate_limit import message_buckets, rate_limited, until_repeat
from gregor.metrics.process import Metrics
from gregor.registries.categories import CategoryRegistry
from gregor.store.contract.store import Store, Unavailable
from gregor.submission import Submitted, Submitter
from gregor.tracing import names
from gregor.tracing.tracer import NOT_SAMPLED, TRACING_OFF, SpanKind, Tracer

PAUSE_BYTES: Final = 16_384
"""Longest message without a pause between decoding and parsing. For 256 KiB, each of them takes up to 0.08 s."""


class DeviceMessages:
    """Commits the messages of devices, from all transports."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        limits: Limits,
        metrics: Metrics,
        registry: CategoryRegistry,
        tracer: Tracer = TRACING_OFF,
    ) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._tracer = tracer
        self._messages = metrics.messages
        self._limits_reached = metrics.limits_reached.labels("messages")
        # A device cannot reset its user: a spread is never needed.
        self._submitter = Submitter(store, registry, clock, limits, metrics, reset_spread_s=0)

    async def commit(self, caller: Caller, read: Callable[[], Mapping[str, Any]], size_bytes: int) -> Submitted:
        """Commit a message of a device. ``read`` decodes it; it is called when the rate limit allows the message.

        Raises ``Problem``, or ``Unavailable`` if it is unknown whether the message was committed.
        """
        try:
            done = await self._commit(caller, read, size_bytes)
        except Problem as problem:
            self._messages.labels(problem.code).inc()
            raise
        return done

    async def _commit(self, caller: Caller, read: Callable[[], Mapping[str, Any]], size_bytes: int) -> Submitted:
        limits = self._limits
        taken = text_weight(size_bytes)
        await self._take(caller, taken)
        if size_bytes > limits.message_bytes:
            raise Problem("message_too_large", f"A message may have {limits.message_bytes} bytes at most.")
        document = read()
        if size_bytes > PAUSE_BYTES:
            await asyncio.sleep(0)
        message = parse_message(dict(document), limits)
        if message.device not in (None, caller.device):
            raise Problem("forbidden", "The message names another device than the token.")
        if isinstance(message.content, UserReset):
            raise Problem("forbidden", "A device cannot reset its user (flush); it can send resync.")
        weight = self._submitter.weight(message, is_device=True)
        if weight > taken:
            await self._take(caller, weight - taken, taken=taken)
        view = View(caller.device, caller.category_filter)
        sender = Sender(caller.device, caller.category_filter, caller.systems, max(1, caller.iat_us))
        span = self._tracer.start(names.SEND_MESSAGE, SpanKind.SERVER)
        if span is not None:
            span.attributes[names.TRANSPORT] = "device"
        with span or NOT_SAMPLED:
            charge = partial(self._charge, caller)
            return await self._submitter.submit(
                caller.uid, message, document, sender, view, issued_us=caller.iat_us, span=span, charge=charge
            )

    async def _take(self, caller: Caller, weight: int = 1, *, taken: int = 0) -> None:
        """Take from the buckets of the device and of its user. ``taken``: what the message took from them before.

        A message that weighs more than a full bucket needs a full bucket. The bucket then owes the rest.
        """
        buckets = message_buckets(caller.uid, caller.device, self._limits)
        # Negative after a part above the burst: the message must not wait for the debt that it left itself.
        count = min(weight, *(bucket.burst - taken for bucket in buckets))
        debt = weight - count
        left = await self._store.access.take_all(caller.uid, buckets, count, self._clock.now_us(), debt)
        if left.wait_s > 0:
            self._limits_reached.inc()
            raise rate_limited("messages", until_repeat(left, buckets, taken).wait_s)

    async def _charge(self, caller: Caller, weight: int) -> None:
        """Take further units for a message that is executed: its buckets can go into debt."""
        buckets = message_buckets(caller.uid, caller.device, self._limits)
        # The message may be committed already: if this charge fails, the device must not send it again.
        with suppress(Unavailable):
            await self._store.access.charge_all(caller.uid, buckets, weight, self._clock.now_us())
