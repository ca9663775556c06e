"""The process: `python -m gregor_delivery`. Settings, stores, channels, probes, until it is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Final

import structlog

from gregor.clock import SystemClock
from gregor.config.settings import Settings
from gregor.core.notify.intents import EMAIL, PUSH_CHANNELS, WEBHOOK
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
from .channels.smtp.pool import CONNECTIONS
from .decide.decision import Decider
from .decide.mail import MailDecider
from .decide.push import PushDecider
from .decide.webhook import WebhookDecider
from .metrics import DeliveryMetrics
from .throttle.breaker import Breaker
from .throttle.pace import Pace
from .worker import MOST_IN_FLIGHT, Worker

log = structlog.get_logger(__name__)

MAILS_IN_FLIGHT: Final = 4 * CONNECTIONS
"""Of one process: few, since each waits for one of the connections to the relay while its time runs."""


def main() -> None:
    """Run a delivery process."""
    run("delivery", serve, has_queue=True)


async def serve(settings: Settings) -> None:
    """Open what is needed, tell what is to be told until SIGTERM or SIGINT, finish what was begun, and close."""
    async with AsyncExitStack() as stack:
        store = await open_store(settings.redis_url, settings.limits, settings.namespace)
        stack.push_async_callback(store.close)
        metrics = Metrics()
        lookers, clock = await _lookers(stack, settings, store, metrics), SystemClock(settings.clock_offset_s)
        figures, deadline_s = DeliveryMetrics(metrics.registry), settings.delivery_deadline_s
        workers = []
        for name, channel in channels(settings, clock).items():
            if channel is None:
                log.warning("A provider has no credentials: nothing is sent by it.", channel=name)
            else:
                await channel.open()
                stack.push_async_callback(channel.close)
            queue = await open_queue_reader(settings.queue, settings.namespace, name)
            stack.push_async_callback(queue.close)
            pace, breaker = Pace(settings.delivery_rates.get(name)), Breaker(None) if name == WEBHOOK else Breaker()
            trade = DeliveryContext(name, channel, store, lookers[name], clock, figures, breaker, deadline_s, pace)
            workers.append(Worker(trade, queue, MAILS_IN_FLIGHT if name == EMAIL else MOST_IN_FLIGHT))
        await serve_with(settings, Readiness(store, metrics), metrics, workers)


async def _lookers(stack: AsyncExitStack, settings: Settings, store: Store, metrics: Metrics) -> dict[str, Decider]:
    """Who decides for each channel, with what they keep up with."""
    failures, clock = metrics.render_failures, SystemClock(settings.clock_offset_s)
    registry = CategoryRegistry(store, count_failure=lambda field: failures.labels(field).inc())
    await registry.open()
    stack.push_async_callback(registry.close)
    webhooks = WebhookRegistry(store)
    await webhooks.start()
    stack.push_async_callback(webhooks.close)
    return {
        **dict.fromkeys(PUSH_CHANNELS, PushDecider(store, registry)),
        EMAIL: MailDecider(store, registry, mail_links(settings), mail_host(settings)),
        WEBHOOK: WebhookDecider(webhooks, WebhookEditor(store.webhooks), clock),
    }


async def serve_with(settings: Settings, readiness: Readiness, metrics: Metrics, workers: Sequence[Worker]) -> None:
    """``serve`` with what somebody else closes."""
    await readiness.check()
    tune_garbage_collector()
    probes = ProbeServer(settings, readiness, metrics, settings.delivery_port)
    told = asyncio.Event()
    on_stop_signal(told.set)
    watching = asyncio.create_task(readiness.watch())
    working = [asyncio.create_task(worker.run()) for worker in workers]
    for task in working:
        task.add_done_callback(lambda _: told.set())  # a worker that ends by itself is a bug: the process goes with it
    probes.start()
    log.info("Ready.", probes=settings.delivery_port)
    await told.wait()
    log.info("Told to stop: what was begun is finished.")
    readiness.draining = True
    for worker in workers:
        worker.stop()
    with suppress(TimeoutError):
        async with asyncio.timeout(settings.drain_seconds):
            await asyncio.gather(*working)
    watching.cancel()
    await asyncio.gather(watching, *working, return_exceptions=True)
    await probes.close()
    log.info("Stopped.")


if __name__ == "__main__":
    main()
