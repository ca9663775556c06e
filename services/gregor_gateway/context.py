"""The long-lived objects of a gateway process, and how they are built."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from gregor.auth.device_tokens import TokenVerifier
from gregor.clock import Clock
from gregor.config.settings import Settings
from gregor.core.ids import Prefixes
from gregor.core.limits import Limits
from gregor.core.rate_limit import Bucket
from gregor.metrics.reading import by_label
from gregor.net.client_address import ClientAddresses
from gregor.net.connection_limits import ConnectionLimiter
from gregor.net.origins import Origins
from gregor.redis.pubsub import PubSub
from gregor.registries.categories import CategoryRegistry
from gregor.registries.webhooks import WebhookRegistry
from gregor.store.contract.store import Store
from gregor.tracing.exporter import open_tracer
from gregor.tracing.tracer import Tracer
from gregor.web.readiness import Readiness
from gregor_gateway.metrics import GatewayMetrics

from .fanout.hub import CountingWatcher, Hub, ResetAllReceiver
from .fanout.reconciler import Reconciler
from .fanout.rendering import ItemRendering
from .fanout.revocation import RevocationChecker
from .fanout.sync_reader import SyncReader
from .fanout.user_channel import ChannelServices
from .protocol.deadlines import SessionRules
from .runtime.background import BackgroundTasks
from .runtime.handshake_pacer import HandshakePacer
from .runtime.timer_wheel import TimerWheel
from .runtime.write_scheduler import WriteScheduler
from .sessions.authenticator import Authenticator
from .sessions.device_messages import DeviceMessages
from .sessions.device_rates import DeviceRates, JoinRates, device_frame_bucket, frame_bucket, user_join_bucket
from .sessions.displacements import DisplacementLimiter
from .sessions.observers import Observers
from .sessions.presence import Presence
from .sessions.redis_turns import RedisTurns
from .sessions.unread_responses import UnreadResponses


@dataclass(frozen=True, slots=True)
class GatewayContext:
    """Settings and shared objects. Connections hold one reference to it instead of nineteen."""

    settings: Settings
    limits: Limits
    store: Store
    clock: Clock
    metrics: GatewayMetrics
    origins: Origins
    client_addresses: ClientAddresses
    connection_limiter: ConnectionLimiter
    readiness: Readiness
    background: BackgroundTasks
    timers: TimerWheel
    write_scheduler: WriteScheduler
    sync_reader: SyncReader
    hub: Hub
    presence: Presence
    device_messages: DeviceMessages
    authenticator: Authenticator
    observers: Observers
    reset_all: ResetAllReceiver
    registry: CategoryRegistry
    webhooks: WebhookRegistry
    tracer: Tracer
    handshakes: HandshakePacer
    frame_bucket: Bucket
    frame_rates: DeviceRates
    join_rates: JoinRates
    redis_turns: RedisTurns
    unread_responses: UnreadResponses = field(default_factory=UnreadResponses)
    jitter: Callable[[float, float], float] = random.uniform

    def count_refusal(self, limit: str) -> None:
        """Count a connection that a limit refused before authentication."""
        self.metrics.refuse_connection(limit)

    def rules(self, *, pings: bool, welcomes: bool, sends_unchanged: bool) -> SessionRules:
        """Return the session rules of a transport."""
        return SessionRules(
            limits=self.limits,
            hello_timeout_s=self.settings.hello_timeout_s,
            ping_interval_s=self.settings.ping_interval_s,
            max_age_s=self.settings.max_age_s,
            queue_bytes=self.settings.queue_bytes,
            pings=pings,
            welcomes=welcomes,
            sends_unchanged=sends_unchanged,
            uncounted=self._uncounted,
            now_ms=lambda: self.clock.now_us() // 1_000,
        )

    def _uncounted(self, limits: Prefixes) -> tuple[str, ...]:
        return self.registry.current.uncounted_within(limits)


def build(settings: Settings, store: Store, pubsub: PubSub, tokens: TokenVerifier, clock: Clock) -> GatewayContext:
    """Build the context. Nothing is connected or started yet."""
    metrics, background, timers = GatewayMetrics(), BackgroundTasks(), TimerWheel(clock)
    registry = CategoryRegistry(store, pubsub, count_failure=lambda field: metrics.render_failures.labels(field).inc())
    rendering = ItemRendering(registry, clock)
    tracer = open_tracer(settings.trace_url, settings.trace_sample, "gateway", metrics.registry)
    services = _channel_services(settings, store, clock, metrics, timers, background, rendering, tracer)
    hub, handshakes = Hub(store, pubsub, services), HandshakePacer()
    sync_reader = SyncReader(store, clock, metrics, background, rendering)
    authenticator = Authenticator(store, tokens, clock, metrics)
    CountingWatcher(registry, hub)
    _publish_readings(metrics, hub, sync_reader, handshakes, pubsub)
    return GatewayContext(
        settings=settings,
        limits=settings.limits,
        store=store,
        clock=clock,
        metrics=metrics,
        origins=Origins(settings.origins),
        client_addresses=ClientAddresses(settings.trusted_proxies),
        connection_limiter=ConnectionLimiter(settings.connection_limits),
        readiness=Readiness(store, metrics, pubsub),
        background=background,
        timers=timers,
        write_scheduler=services.scheduler,
        sync_reader=sync_reader,
        hub=hub,
        presence=_presence(settings, store, clock, metrics, timers, background),
        device_messages=DeviceMessages(store, clock, settings.limits, metrics, registry, tracer),
        authenticator=authenticator,
        observers=Observers(authenticator, timers, background, settings.limits.devices),
        reset_all=ResetAllReceiver(hub, sync_reader),
        registry=registry,
        webhooks=WebhookRegistry(store, pubsub),
        tracer=tracer,
        handshakes=handshakes,
        frame_bucket=frame_bucket(settings.limits),
        frame_rates=DeviceRates(device_frame_bucket(settings.limits)),
        join_rates=JoinRates(user_join_bucket(settings.limits), lambda: store.gateways.live_count),
        redis_turns=RedisTurns(settings.limits, timers),
    )


def _presence(
    settings: Settings,
    store: Store,
    clock: Clock,
    metrics: GatewayMetrics,
    timers: TimerWheel,
    background: BackgroundTasks,
) -> Presence:
    displacements = DisplacementLimiter(store, clock, settings.limits, metrics)
    return Presence(store, clock, timers, background, metrics.lease_renewals, displacements)


def _channel_services(
    settings: Settings,
    store: Store,
    clock: Clock,
    metrics: GatewayMetrics,
    timers: TimerWheel,
    background: BackgroundTasks,
    rendering: ItemRendering,
    tracer: Tracer,
) -> ChannelServices:
    """Build the objects that all channels of the process share."""
    reconciler = Reconciler(store, timers, background)
    metrics.comparisons.read_from(lambda: by_label(reconciler.results))
    return ChannelServices(
        scheduler=WriteScheduler(clock, metrics),
        timers=timers,
        rendering=rendering,
        reconciliations=reconciler.queue,
        revocation_checks=RevocationChecker(store, clock, timers, background).queue,
        gaps=metrics.gaps,
        compare_interval_s=settings.compare_interval_s,
        tracer=tracer,
    )


def _publish_readings(
    metrics: GatewayMetrics, hub: Hub, sync_reader: SyncReader, handshakes: HandshakePacer, pubsub: PubSub
) -> None:
    """Let each scrape read the numbers that the parts of a gateway keep."""
    metrics.users_connected.read_from(lambda: {(): len(hub.channels)})
    metrics.syncs_waiting.read_from(lambda: {(): sync_reader.waiting})
    metrics.handshakes_waiting.read_from(lambda: {(): len(handshakes)})
    report = pubsub.report
    metrics.probe_seconds.read_from(lambda: by_label({name: each.probe_s for name, each in report().items()}))
    metrics.probe_failures.read_from(lambda: by_label({name: each.probe_failures for name, each in report().items()}))
    metrics.pubsub_reconnections.read_from(
        lambda: by_label({name: each.reconnections for name, each in report().items()})
    )
    metrics.pubsub_channels.read_from(lambda: by_label({name: each.channels for name, each in report().items()}))
