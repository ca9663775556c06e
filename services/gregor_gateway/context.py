"""What the connections of one process work with, made once at the start."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from gregor.auth.device_tokens import TokenVerifier
from gregor.clock import Clock
from gregor.config.settings import Settings
from gregor.core.limits import Limits
from gregor.net.origins import Origins
from gregor.redis.pubsub import PubSub
from gregor.registries.categories import CategoryRegistry
from gregor.registries.webhooks import WebhookRegistry
from gregor.store.contract.store import Store
from gregor.telemetry import Metrics
from gregor.web.readiness import Readiness

from .connection.write_scheduler import Flusher
from .fanout.hub import FlushOfAll, Hub
from .fanout.rendering import Recount, Words
from .fanout.revocation import Standing
from .fanout.sync_reader import Reads
from .protocol.deadlines import Rules
from .runtime.background import Background
from .runtime.timer_wheel import Wheel
from .sessions.authenticator import Admission
from .sessions.device_messages import Inbox
from .sessions.observers import Onlookers
from .sessions.presence import Presence


@dataclass(frozen=True, slots=True)
class Parts:
    """Settings and the things built of them."""

    settings: Settings
    limits: Limits
    store: Store
    clock: Clock
    metrics: Metrics
    origins: Origins
    readiness: Readiness
    background: Background
    wheel: Wheel
    flusher: Flusher
    reads: Reads
    hub: Hub
    presence: Presence
    inbox: Inbox
    admission: Admission
    onlookers: Onlookers
    flush_of_all: FlushOfAll
    registry: CategoryRegistry
    webhooks: WebhookRegistry

    def rules(self, *, pings: bool, welcomes: bool, tells_unchanged: bool) -> Rules:
        """The rules of a transport."""
        return Rules(
            limits=self.limits,
            hello_timeout_s=self.settings.hello_timeout_s,
            ping_interval_s=self.settings.ping_interval_s,
            max_age_s=self.settings.max_age_s,
            queue_bytes=self.settings.queue_bytes,
            pings=pings,
            welcomes=welcomes,
            tells_unchanged=tells_unchanged,
            uncounted=lambda: self.registry.current.uncounted,
        )


def build(settings: Settings, store: Store, feed: PubSub, tokens: TokenVerifier, clock: Clock) -> Parts:
    """Everything, unconnected and not yet at work."""
    limits, metrics, background, wheel = settings.limits, Metrics(), Background(), Wheel(clock)
    registry = CategoryRegistry(store, feed, count_failure=lambda field: metrics.render_failures.labels(field).inc())
    reads = Reads(store, clock, metrics, background, Words(registry))
    standing = Standing(store, clock, wheel, background)
    flusher = Flusher(clock, metrics)
    hub = Hub(store, feed, wheel, flusher, metrics, reads, standing, settings.compare_interval_s)
    Recount(registry, hub)
    admission = Admission(store, tokens, clock)
    gateway = secrets.token_hex(6)
    return Parts(
        settings=settings,
        limits=limits,
        store=store,
        clock=clock,
        metrics=metrics,
        origins=Origins(settings.origins),
        readiness=Readiness(store, metrics, feed),
        background=background,
        wheel=wheel,
        flusher=flusher,
        reads=reads,
        hub=hub,
        presence=Presence(store, clock, wheel, background, gateway),
        inbox=Inbox(store, clock, limits, metrics, registry),
        admission=admission,
        onlookers=Onlookers(admission, wheel, background),
        flush_of_all=FlushOfAll(hub, wheel, reads),
        registry=registry,
        webhooks=WebhookRegistry(store, feed),
    )
