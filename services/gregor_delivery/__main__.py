"""Entry point of the delivery service: `python -m gregor_delivery`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Final

import structlog

from gregor.auth.unsubscribe_links import mail_links
from gregor.clock import SystemClock
from gregor.clock_guard import ClockGuard
from gregor.config.live_settings import LiveSettings
from gregor.config.settings import Settings
from gregor.core.notify.intents import EMAIL, PUSH_CHANNELS, WEBHOOK
from gregor.core.notify.ledger import mail_budget, push_budget
from gregor.core.rate_limit import RateLimiter
from gregor.metrics.event_loop import measure_event_loop
from gregor.metrics.process import Metrics
from gregor.redis.tracking import KeyTracker, ServerKeyTracker
from gregor.registries.categories import CategoryRegistry
from gregor.registries.webhooks import WebhookEditor, WebhookRegistry
from gregor.store.contract.store import Store, Unavailable
from gregor.store.redis.delivery.queue_reader import open_queue_reader
from gregor.store.redis.store import RedisStore, open_store
from gregor.tracing.exporter import open_tracer
from gregor.web.process import ProbeServer, Shutdown, report_ready, run, tune_garbage_collector
from gregor.web.process_metrics import publish_process
from gregor.web.readiness import Readiness

from .attempt import DeliveryContext
from .channels.registry import CREDENTIALS, channels, mail_host
from .channels.smtp.channel import mail_deadline_s
from .channels.smtp.pool import CONNECTIONS
from .decide.decision import Decider
from .decide.mail import MailDecider
from .decide.push import PushDecider
from .decide.webhook import WebhookDecider
from .metrics import DeliveryMetrics
from .throttle.breaker import channel_breaker
from .throttle.paced_users import waiting_pace
from .throttle.web_push_origins import WebPushOrigins
from .worker import MAX_IN_FLIGHT, Worker

log = structlog.get_logger(__name__)

MAILS_IN_FLIGHT: Final = CONNECTIONS
"""Concurrent mails of one process: one for each connection to the relay.

A further mail would wait for a connection while it is claimed for as long as a mail that the relay may have accepted.
In the stream, another process can take it."""

SERVER_TIME_S: Final = 4.0
"""Pause between two readings of the clock of Redis."""


def main() -> None:
    """Run a delivery process."""
    run("delivery", serve, has_queue=True)


async def serve(live: LiveSettings) -> None:
    """Open stores and channels, deliver until SIGTERM or SIGINT, drain the attempts in flight, and close."""
    settings = live.current
    async with AsyncExitStack() as stack:
        store = await open_store(
            live.redis_url,
            settings.limits,
            settings.namespace,
            partitions=settings.partitions,
            service="delivery",
            clock_offset_s=settings.clock_offset_s,
        )
        stack.push_async_callback(store.close)
        process_metrics = Metrics()
        readiness = Readiness(store, process_metrics)
        publish_process(process_metrics, live, store, readiness)
        deciders = await _deciders(stack, live, store, process_metrics, readiness)
        tracer = open_tracer(settings.trace_url, settings.trace_sample, "delivery", process_metrics.registry)
        stack.push_async_callback(tracer.close)
        metrics, clock = DeliveryMetrics(process_metrics.registry), SystemClock(settings.clock_offset_s)
        guard = _follow_clock(stack, store, settings.clock_offset_s, readiness, metrics)
        queue_tracker = ServerKeyTracker(live.queue_url)
        stack.push_async_callback(queue_tracker.close)
        workers = []
        for name, channel in channels(settings, clock).items():
            context = DeliveryContext(
                name,
                channel,
                store,
                deciders[name],
                clock,
                metrics,
                channel_breaker(name),
                settings.delivery_deadline_s,
                mail_deadline_s(settings.smtp_timeout_s) if name == EMAIL else None,
                rate_limiter=RateLimiter(settings.delivery_rates.get(name)),
                waiting_pace=waiting_pace(settings.user_delivery_rate, name),
                tracer=tracer,
            )
            workers.append(await _open_worker(stack, live, context, queue_tracker, guard.may_claim))
        await serve_with(settings, readiness, process_metrics, workers)


async def _open_worker(
    stack: AsyncExitStack,
    live: LiveSettings,
    context: DeliveryContext,
    tracker: KeyTracker,
    may_claim: Callable[[], bool],
) -> Worker:
    """Open the channel and the queue of a worker. The channel is replaced when its credentials change."""
    name = context.name
    queue = await open_queue_reader(live.queue_url, live.current.namespace, name, tracker)
    stack.push_async_callback(queue.close)
    worker = Worker(context, queue, MAILS_IN_FLIGHT if name == EMAIL else MAX_IN_FLIGHT, may_claim)
    if context.channel is None:
        log.warning("delivery.no_credentials", channel=name)
    else:
        live.on_change(CREDENTIALS.get(name, ()), lambda settings: use_credentials(worker, name, settings))
        await context.channel.open()
        stack.push_async_callback(worker.close_channel)
    return worker


def _follow_clock(
    stack: AsyncExitStack, store: RedisStore, shift_s: float, readiness: Readiness, metrics: DeliveryMetrics
) -> ClockGuard:
    """Publish whether the clock of this process is right, and read that of Redis until the stack is closed."""
    guard = ClockGuard(lambda: store.deployment.server_time, SystemClock(shift_s), shift_s)
    readiness.require("clock", guard.may_claim)
    metrics.clock_refused.read_from(lambda: {(): not guard.may_claim()})
    stack.callback(asyncio.create_task(_follow_server_time(store)).cancel)
    return guard


async def _follow_server_time(store: RedisStore) -> None:
    """Read the clock of Redis until cancelled."""
    while True:
        # The reading ages by the monotonic clock, which stops while the host is suspended.
        try:
            with suppress(Unavailable):
                await store.deployment.read_server_time()
        except Exception:  # for example, the password of Redis changed: a later reading may succeed
            log.exception("delivery.server_time_failed")
        await asyncio.sleep(SERVER_TIME_S)


async def use_credentials(worker: Worker, name: str, settings: Settings) -> None:
    """Replace the channel of a worker. Raises ``ValueError`` if the new credentials cannot be used."""
    channel = channels(settings, SystemClock(settings.clock_offset_s))[name]
    if channel is not None:
        await channel.open()
        worker.replace_channel(channel)


async def _deciders(
    stack: AsyncExitStack, live: LiveSettings, store: Store, metrics: Metrics, readiness: Readiness
) -> dict[str, Decider]:
    """Return the decider of each channel, over registries that follow their stored versions."""
    settings = live.current
    failures, clock = metrics.render_failures, SystemClock(settings.clock_offset_s)
    registry = CategoryRegistry(store, count_failure=lambda field: failures.labels(field).inc())
    await registry.open(settings.categories, applies_file=False)
    stack.push_async_callback(registry.close)
    webhooks = WebhookRegistry(store)
    await webhooks.start()
    stack.push_async_callback(webhooks.close)
    readiness.expect("categories", lambda: registry.is_read)
    readiness.expect("webhooks", lambda: webhooks.is_read)
    pushes, mails = push_budget(settings.user_pushes_per_hour), mail_budget(settings.user_mails_per_hour)
    origins, links = WebPushOrigins(settings.webpush_hosts, clock), mail_links(settings)
    if links is not None:
        live.on_change(("link_secret", "token_secret"), links.use_secrets)
    return {
        **dict.fromkeys(PUSH_CHANNELS, PushDecider(store, registry, origins, pushes, clock)),
        EMAIL: MailDecider(store, registry, links, mail_host(settings), mails, clock),
        WEBHOOK: WebhookDecider(webhooks, WebhookEditor(store.webhooks), clock),
    }


async def serve_with(settings: Settings, readiness: Readiness, metrics: Metrics, workers: Sequence[Worker]) -> None:
    """Run `workers` and the admin port until the process is stopped; the caller closes what it opened."""
    await readiness.check()
    tune_garbage_collector()
    probes = ProbeServer(settings, readiness, metrics, "delivery_port")
    shutdown = Shutdown(readiness, settings.pre_drain_seconds)
    shutdown.on_signals()
    watching = asyncio.gather(readiness.watch(), measure_event_loop(metrics.event_loop_lag))
    working = [asyncio.create_task(worker.run()) for worker in workers]
    for task in working:
        task.add_done_callback(lambda _: shutdown.fail())  # a worker that ends by itself is a bug: stop the process
    probes.start()
    report_ready(probes=settings.delivery_port)
    await shutdown.wait_until_drain()
    for worker in workers:
        worker.stop()
    # Not `gather`: if one worker has failed, the others still finish what they send.
    await shutdown.drain(asyncio.wait(working), settings.drain_seconds)
    for task in working:
        task.cancel()
    watching.cancel()
    _, *ended = await asyncio.gather(watching, *working, return_exceptions=True)
    await probes.close()
    if failures := [each for each in ended if isinstance(each, Exception)]:
        raise failures[0]
    log.info("service.stopped")


if __name__ == "__main__":
    main()
