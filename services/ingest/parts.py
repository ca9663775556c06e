"""What the routes of one process work with, made once at the start."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from gregor.clock import Clock
from gregor.core.limits import Limits
from gregor.core.messages import Receipt
from gregor.settings import Settings
from gregor.store.contract import Store
from gregor.telemetry import Metrics

from .auth import Gate
from .readiness import Readiness


@dataclass(frozen=True, slots=True)
class Parts:
    """Settings and the things built of them. ``app.state.parts`` of the application."""

    settings: Settings
    limits: Limits
    store: Store
    clock: Clock
    gate: Gate
    metrics: Metrics
    readiness: Readiness

    def epoch_seed(self) -> bytes:
        """Three random bytes: the name of an epoch, should a commit make one."""
        return secrets.token_bytes(3)

    def count(self, receipt: Receipt) -> None:
        """Count a message that was accepted, by its outcome."""
        self.metrics.messages.labels("unchanged" if receipt.is_unchanged else "effect").inc()
