"""The long-lived objects that the handlers of a scheduler process share."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from gregor.clock import Clock
from gregor.core.limits import Limits
from gregor.registries.categories import CategoryRegistry
from gregor.registries.webhooks import WebhookRegistry
from gregor.store.audience import AudienceReader
from gregor.store.contract.store import Store
from gregor.store.delayed_senders import SenderKeys
from gregor.telemetry import LimitedLog, failure_log
from gregor.tracing.tracer import TRACING_OFF, Tracer

from .aggregators import Aggregators
from .delivery_publisher import DeliveryPublisher
from .metrics import SchedulerMetrics
from .unpublished_events import UnpublishedEvents


@dataclass(frozen=True, slots=True)
class SchedulerContext:
    """Everything that a handler of due work may use."""

    store: Store
    publisher: DeliveryPublisher
    clock: Clock
    limits: Limits
    categories: CategoryRegistry
    webhooks: WebhookRegistry
    metrics: SchedulerMetrics
    aggregators: Aggregators
    tracer: Tracer = TRACING_OFF
    aggregation_log: LimitedLog = field(default_factory=failure_log)
    delayed_log: LimitedLog = field(default_factory=failure_log)
    unpublished: UnpublishedEvents = field(default_factory=UnpublishedEvents)
    audiences: AudienceReader = field(init=False)
    sender_keys: SenderKeys = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "audiences", AudienceReader(self.store.devices))
        object.__setattr__(self, "sender_keys", SenderKeys(self.store.access, self.clock.monotonic))

    def epoch_seed(self) -> bytes:
        """Return three random bytes: the name of the user's epoch, if the next commit starts one."""
        return random.randbytes(3)
