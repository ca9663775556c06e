"""What the routes of one process work with, made once at the start."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from gregor.clock import Clock
from gregor.config.settings import Settings
from gregor.core.errors import Problem
from gregor.core.limits import Limits
from gregor.core.messages.model import Receipt
from gregor.registries.categories import CategoryRegistry
from gregor.registries.webhooks import WebhookRegistry
from gregor.store.contract.store import Store
from gregor.telemetry import Metrics
from gregor.web.readiness import Readiness

from .auth import Authorizer


@dataclass(frozen=True, slots=True)
class IngestContext:
    """Settings and the things built of them. ``app.state.context`` of the application."""

    settings: Settings
    limits: Limits
    store: Store
    clock: Clock
    authorizer: Authorizer
    metrics: Metrics
    readiness: Readiness
    registry: CategoryRegistry
    webhooks: WebhookRegistry
    webpush_key: str | None = None
    """The public key of Web Push, as browsers take it; ``None`` where it is not set up."""

    def epoch_seed(self) -> bytes:
        """Three random bytes: the name of an epoch, should a commit make one."""
        return random.randbytes(3)

    def count(self, receipts: Iterable[Receipt | Problem | None]) -> None:
        """Count the messages that were accepted, by their outcome; what is no receipt is not counted."""
        effects = unchanged = 0
        for receipt in receipts:
            if isinstance(receipt, Receipt):
                unchanged += receipt.is_unchanged
                effects += not receipt.is_unchanged
        if effects:
            self.metrics.messages.labels("effect").inc(effects)
        if unchanged:
            self.metrics.messages.labels("unchanged").inc(unchanged)
