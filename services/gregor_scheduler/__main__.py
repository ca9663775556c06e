"""The process: `python -m gregor_scheduler`. Settings, stores, probes, the drain, until it is told to stop."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack, suppress
from typing import Final

import structlog

from gregor.clock import SystemClock
from gregor.config.settings import Settings
from gregor.core.rate_limit import RateLimiter
from gregor.registries.categories import CategoryRegistry
from gregor.registries.webhooks import WebhookRegistry
from gregor.store.contract.store import Store
from gregor.store.redis.store import open_store
from gregor.telemetry import Metrics
from gregor.web.process import ProbeServer, on_stop_signal, run
from gregor.web.readiness import Readiness

from .aggregators import installed
from .arq_worker import Host, redis_settings
from .context import Parts
from .delivery_publisher import HandOver, streams_of
from .due_loop import Drain
from .handlers.dispatch import Acts
from .metrics import Figures

log = structlog.get_logger(__name__)

COLLECT_BURST: Final = 50


def main() -> None:
    """Run a scheduler."""
    run("scheduler", serve, has_queue=True)


async def serve(settings: Settings) -> None:
    """Open what is needed, do what is due until SIGTERM or SIGINT, finish what was begun, and close."""
    async with AsyncExitStack() as stack:
        store = await open_store(settings.redis_url, settings.limits, settings.namespace)
        stack.push_async_callback(store.close)
        metrics = Metrics()
        failures = metrics.render_failures
        registry = CategoryRegistry(store, count_failure=lambda field: failures.labels(field).inc())
        await registry.open()
        stack.push_async_callback(registry.close)
        clock, figures = SystemClock(settings.clock_offset_s), Figures(metrics.registry)
        handover = HandOver(streams_of(settings), clock.monotonic)
        stack.push_async_callback(handover.close)
        await handover.open()
        webhooks = WebhookRegistry(store)
        await webhooks.start()
        stack.push_async_callback(webhooks.close)
        parts = Parts(store, handover, clock, settings.limits, registry, webhooks, figures, installed())
        collecting = RateLimiter(settings.collect_rate, COLLECT_BURST)
        lease_us = round(settings.lease_s * 1e6)
        drain = Drain(store.agenda, Acts(parts, collecting), clock, figures, lease_us)
        queue = f"{settings.namespace}:scheduler:{socket.gethostname()}:{settings.scheduler_port}"
        host = Host(redis_settings(settings.queue), drain, queue, clock.monotonic)
        await serve_with(settings, store, metrics, drain, host)


async def serve_with(settings: Settings, store: Store, metrics: Metrics, drain: Drain, host: Host) -> None:
    """``serve`` with what somebody else closes."""
    readiness = Readiness(store, metrics)
    await readiness.check()
    probes = ProbeServer(settings, readiness, metrics, settings.scheduler_port)
    told = asyncio.Event()
    on_stop_signal(told.set)
    working = [asyncio.create_task(host.run()), asyncio.create_task(readiness.watch())]
    probes.start()
    log.info("Ready.", probes=settings.scheduler_port)
    await told.wait()
    log.info("Told to stop: what was begun is finished.")
    readiness.draining = True
    with suppress(TimeoutError):
        async with asyncio.timeout(settings.drain_seconds):
            await drain.stop()
    for task in working:
        task.cancel()
    await asyncio.gather(*working, return_exceptions=True)
    await probes.close()
    log.info("Stopped.")


if __name__ == "__main__":
    main()
