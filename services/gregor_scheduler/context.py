"""What the acts of one process work with, made once at the start."""

from __future__ import annotations

import random
from dataclasses import dataclass

from gregor.clock import Clock
from gregor.core.limits import Limits
from gregor.registries.categories import CategoryRegistry
from gregor.registries.webhooks import WebhookRegistry
from gregor.store.contract.store import Store

from .aggregators import Aggregators
from .delivery_publisher import HandOver
from .metrics import Figures


@dataclass(frozen=True, slots=True)
class Parts:
    """Settings and the things built of them."""

    store: Store
    handover: HandOver
    clock: Clock
    limits: Limits
    registry: CategoryRegistry
    webhooks: WebhookRegistry
    figures: Figures
    aggregators: Aggregators

    def epoch_seed(self) -> bytes:
        """Three random bytes: the name of an epoch, should a commit make one."""
        return random.randbytes(3)
