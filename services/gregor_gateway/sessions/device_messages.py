"""A device's own messages: the same rules, plan and commit as at ingest (protocol.md, "Gateway")."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gregor.auth.device_tokens import Caller
from gregor.clock import Clock
from gregor.core.errors import Problem
from gregor.core.items.sync import View
from gregor.core.limits import Limits
from gregor.core.messages.delayed import check_kept, delayed
from gregor.core.messages.encode import encode_receipt
from gregor.core.messages.model import External, Flush, Sender
from gregor.core.messages.parse import parse_message
from gregor.core.messages.plan import plan
from gregor.core.rate_limit import messages_bucket
from gregor.registries.categories import CategoryRegistry
from gregor.store.contract.store import Store
from gregor.telemetry import Metrics


@dataclass(frozen=True, slots=True)
class Committed:
    """What a message did: the seq that tells of it, and the receipt as JSON."""

    seq: int
    receipt: bytes


class Inbox:
    """Where all transports bring messages of devices."""

    def __init__(
        self, store: Store, clock: Clock, limits: Limits, metrics: Metrics, registry: CategoryRegistry
    ) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._messages = metrics.messages
        self._registry = registry

    async def commit(self, caller: Caller, document: Mapping[str, Any], size_bytes: int) -> Committed:
        """Commit a message of this device. ``Problem``, or ``Unavailable``: nothing is known to be done."""
        try:
            done = await self._commit(caller, document, size_bytes)
        except Problem as problem:
            self._messages.labels(problem.code).inc()
            raise
        return done

    async def _commit(self, caller: Caller, document: Mapping[str, Any], size_bytes: int) -> Committed:
        limits = self._limits
        await self._take(caller)
        if size_bytes > limits.message_bytes:
            raise Problem("message_too_large", f"A message has at most {limits.message_bytes} bytes.")
        message = parse_message(dict(document), limits)
        if message.device not in (None, caller.device):
            raise Problem("forbidden", "The token is of another device.")
        if isinstance(message.content, Flush):
            raise Problem("forbidden", "A device may not flush; it may resync.")
        sender = Sender(caller.device, caller.cats)
        entries = self._registry.current
        now_us = max(self._clock.now_us(), message.not_before_us or 0)
        commit = plan(message, sender, now_us, secrets.token_bytes(3), limits, entries)
        if message.not_before_us is not None:
            kept = delayed(document, message, sender, secrets.token_hex(16))
            waits = await self._store.agenda.delay(caller.uid, kept.id, kept.encode(), message.not_before_us)
            check_kept(waits, kept, limits)
            self._messages.labels("delayed").inc()
            return Committed(0, kept.receipt(message.not_before_us))
        receipt = await self._store.users.commit(caller.uid, commit)
        self._messages.labels("unchanged" if receipt.is_unchanged else "effect").inc()
        is_external = isinstance(message.content, External)
        return Committed(receipt.seq, encode_receipt(receipt, View(caller.device, caller.cats), is_external))

    async def _take(self, caller: Caller) -> None:
        limits = self._limits
        bucket = messages_bucket(caller.uid, caller.device)
        now_us = self._clock.now_us()
        wait_s = await self._store.access.take(bucket, limits.device_rate, limits.device_burst, 1, now_us)
        if wait_s > 0:
            raise Problem("rate_limited", f"Too many at once; wait {wait_s:.1f} s.", retry_after_s=wait_s)
