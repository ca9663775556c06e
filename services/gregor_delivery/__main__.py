"""Entry point of the delivery service: `python -m gregor_delivery`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Final

import structlog

from gregor.clock import SystemClock
from gregor.config.settings import Settings
from gregor.core.notify.intents import EMAIL, PUSH_CHANNELS, WEBHOOK
from gregor.core.notify.ledger import mail_budget, push_budget
from gregor.core.rate_limit import RateLimiter
from gregor.registries.categories import CategoryRegistry
from gregor.registries.webhooks import WebhookEditor, WebhookRegistry
from gregor.store.contract.store import Store
from gregor.store.redis.delivery.queue_reader import open_queue_reader
from gregor.store.redis.store import open_store
from gregor.telemetry import Metrics
from gregor.web.process import ProbeServer, on_stop_signal, run, tune_garbage_collector
from gregor.web.readiness import Readiness

from .attempt import DeliveryContext
from .channels.registry import channels, mail_host, mail_links
from .channels.smtp.channel import mail_deadline_s
from .channels.smtp.pool import CONNECTIONS
from .decide.decision import Decider
from .decide.mail import MailDecider
from .decide.push import PushDecider
from .decide.webhook import WebhookDecider
from .metrics import DeliveryMetrics
from .throttle.breaker import channel_breaker
from .throttle.web_push_origins import WebPushOrigins
from .worker import MAX_IN_FLIGHT, Worker

log = structlog.get_logger(__name__)

MAILS_IN_FLIGHT: Final = 4 * CONNECTIONS
"""Concurrent mails of one process: few, because each waits for one of the relay connections while its deadline runs."""


def main() -> None:
    """Run a delivery process."""
    run("delivery", serve, has_queue=True)


async def serve(settings: Settings) -> None:
    """Open stores and channels, deliver until SIGTERM or SIGINT, drain the attempts in flight, and close."""
    async with AsyncExitStack() as stack:
        store = await open_store(
            settings.redis_url, settings.limits, settings.namespace, partitions=settings.partitions
        )
        stack.push_async_callback(store.close)
        process_metrics = Metrics()
        deciders = await _deciders(stack, settings, store, process_metrics)
        metrics, clock = DeliveryMetrics(process_metrics.registry), SystemClock(settings.clock_offset_s)
        workers = []
        for name, channel in channels(settings, clock).items():
            if channel is None:
                log.warning("delivery.no_credentials", channel=name)
            else:
                await channel.open()
                stack.push_async_callback(channel.close)
            queue = await open_queue_reader(settings.queue, settings.namespace, name)
            stack.push_async_callback(queue.close)
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
            )
            workers.append(Worker(context, queue, MAILS_IN_FLIGHT if name == EMAIL else MAX_IN_FLIGHT))
        await serve_with(settings, Readiness(store, process_metrics), process_metrics, workers)


async def _deciders(stack: AsyncExitStack, settings: Settings, store: Store, metrics: Metrics) -> dict[str, Decider]:
    """Return the decider of each channel, over registries that follow their stored versions."""
    failures, clock = metrics.render_failures, SystemClock(settings.clock_offset_s)
    registry = CategoryRegistry(store, count_failure=lambda field: failures.labels(field).inc())
    await registry.open()
    stack.push_async_callback(registry.close)
    webhooks = WebhookRegistry(store)
    await webhooks.start()
    stack.push_async_callback(webhooks.close)
    pushes, mails = push_budget(settings.user_pushes_per_hour), mail_budget(settings.user_mails_per_hour)
    origins = WebPushOrigins(settings.webpush_hosts, clock)
    return {
        **dict.fromkeys(PUSH_CHANNELS, PushDecider(store, registry, origins, pushes)),
        EMAIL: MailDecider(store, registry, mail_links(settings), mail_host(settings), mails),
        WEBHOOK: WebhookDecider(webhooks, WebhookEditor(store.webhooks), clock),
    }


async def serve_with(settings: Settings, readiness: Readiness, metrics: Metrics, workers: Sequence[Worker]) -> None:
    """Run `workers` and the admin port until the process is stopped; the caller closes what it opened."""
    await readiness.check()
    tune_garbage_collector()
    probes = ProbeServer(settings, readiness, metrics, settings.delivery_port)
    stopping = asyncio.Event()
    on_stop_signal(stopping.set)
    watching = asyncio.create_task(readiness.watch())
    working = [asyncio.create_task(worker.run()) for worker in workers]
    for task in working:
        task.add_done_callback(lambda _: stopping.set())  # a worker that ends by itself is a bug: stop the process
    probes.start()
    log.info("service.ready", probes=settings.delivery_port)
    await stopping.wait()
    log.info("service.draining")
    readiness.draining = True
    for worker in workers:
        worker.stop()
    with suppress(TimeoutError):
        async with asyncio.timeout(settings.drain_seconds):
            await asyncio.gather(*working)
    watching.cancel()
    await asyncio.gather(watching, *working, return_exceptions=True)
    await probes.close()
    log.info("service.stopped")


if __name__ == "__main__":
    main()
