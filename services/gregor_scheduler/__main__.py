"""The process ``python -m gregor_scheduler``: opens stores and probes, runs the due loop until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from typing import Final

import structlog

from gregor.clock import SystemClock
from gregor.clock_guard import ClockGuard
from gregor.config.live_settings import LiveSettings
from gregor.config.settings import Settings
from gregor.core.rate_limit import RateLimiter
from gregor.jobs.audit import AUDIT, OUTCOMES
from gregor.jobs.daily_audit import DailyAudit
from gregor.jobs.kinds import JOB_KINDS, JobTools, job_steps
from gregor.jobs.runner import JobRunner
from gregor.metrics.event_loop import measure_event_loop
from gregor.metrics.process import Metrics
from gregor.registries.categories import CategoryRegistry
from gregor.registries.webhooks import WebhookRegistry
from gregor.store.redis.store import RedisStore, open_store
from gregor.tracing.exporter import open_tracer
from gregor.web.process import ProbeServer, Shutdown, report_ready, run
from gregor.web.process_metrics import publish_process
from gregor.web.readiness import Readiness

from .aggregators import load_aggregators
from .arq_worker import ArqHost
from .context import SchedulerContext
from .delivery_publisher import DeliveryPublisher, queue_connector
from .due_loop import DueLoop
from .handlers.dispatch import DueHandlers
from .handlers.reminder_hold import ReminderHold
from .job_watch import JobWatch
from .metrics import SchedulerMetrics
from .partition_shares import PartitionShares
from .peers import Peers
from .user_shares import UserShares

log = structlog.get_logger(__name__)

CLEANUP_BURST: Final = 50


def main() -> None:
    """Run a scheduler."""
    run("scheduler", serve, has_queue=True)


async def serve(live: LiveSettings) -> None:
    """Open stores and registries, execute due work until SIGTERM or SIGINT, complete it, and close everything."""
    settings = live.current
    async with AsyncExitStack() as stack:
        store = await open_store(
            live.redis_url,
            settings.limits,
            settings.namespace,
            partitions=settings.partitions,
            service="scheduler",
            clock_offset_s=settings.clock_offset_s,
        )
        stack.push_async_callback(store.close)
        metrics = Metrics()
        categories = CategoryRegistry(store, count_failure=lambda field: metrics.render_failures.labels(field).inc())
        await categories.open(settings.categories, applies_file=False)
        stack.push_async_callback(categories.close)
        clock, own_metrics = SystemClock(settings.clock_offset_s), SchedulerMetrics(metrics.registry)
        publisher = _publisher(live, clock, own_metrics)
        stack.push_async_callback(publisher.close)
        await publisher.open()
        webhooks = WebhookRegistry(store)
        await webhooks.start()
        stack.push_async_callback(webhooks.close)
        tracer = open_tracer(settings.trace_url, settings.trace_sample, "scheduler", metrics.registry)
        stack.push_async_callback(tracer.close)
        context = SchedulerContext(
            store, publisher, clock, settings.limits, categories, webhooks, own_metrics, load_aggregators(), tracer
        )
        guard = ClockGuard(lambda: store.deployment.server_time, clock, settings.clock_offset_s)
        due_loop = _due_loop(settings, store, context, guard)
        await _share_partitions(stack, store, due_loop, own_metrics)
        host, readiness = _arq_host(stack, live, context, due_loop, metrics, guard), _readiness(context, metrics, guard)
        publish_process(metrics, live, store, readiness)
        await _run_until_stopped(settings, readiness, metrics, due_loop, host)


def _publisher(live: LiveSettings, clock: SystemClock, metrics: SchedulerMetrics) -> DeliveryPublisher:
    return DeliveryPublisher(
        queue_connector(live),
        clock.monotonic,
        UserShares(live.current.user_delivery_rate),
        metrics.count_above_share,
        metrics.count_postponed,
    )


def _due_loop(settings: Settings, store: RedisStore, context: SchedulerContext, guard: ClockGuard) -> DueLoop:
    clock, metrics, lease_us = context.clock, context.metrics, round(settings.lease_s * 1e6)
    cleanup_limit = RateLimiter(settings.collect_rate, CLEANUP_BURST)
    handlers = DueHandlers(context, cleanup_limit, ReminderHold(store.node_of, clock))
    return DueLoop(store.agenda, handlers, clock, metrics, lease_us, store.due_times(), guard.may_claim)


async def _share_partitions(
    stack: AsyncExitStack, store: RedisStore, due_loop: DueLoop, metrics: SchedulerMetrics
) -> None:
    """Serve the share of this scheduler, and follow the other schedulers until the stack is closed."""
    shares = PartitionShares(store.agenda.partition_count, store.deployment.process)
    peers = Peers(store.deployment.peers, shares, due_loop, metrics)
    await peers.refresh()
    stack.callback(asyncio.create_task(peers.watch()).cancel)


def _arq_host(
    stack: AsyncExitStack,
    live: LiveSettings,
    context: SchedulerContext,
    due_loop: DueLoop,
    metrics: Metrics,
    guard: ClockGuard,
) -> ArqHost:
    """Return the host of arq, and start jobs in its queue until the stack is closed."""
    settings, store, clock = live.current, context.store, context.clock
    tools = JobTools(store, clock, context.limits, metrics.count_job_users)
    metrics.expect_jobs(JOB_KINDS)
    # Prometheus sees the first finding or failure as an increase only if the counter existed before.
    for outcome in OUTCOMES:
        metrics.count_job_users(AUDIT, outcome, 0)
    for prefix in context.aggregators.prefixes:
        context.metrics.aggregator_failures.labels(prefix)
    runner = JobRunner(store.jobs, clock, job_steps(tools), metrics.count_job, may_claim=guard.may_claim)
    stack.push_async_callback(runner.close)
    process = f"{socket.gethostname()}:{settings.scheduler_port}"
    queues = f"{settings.namespace}:scheduler"
    host = ArqHost(live.queue_url, due_loop, queues, process, clock.monotonic, runner.execute)
    daily_audit = DailyAudit(store.jobs, clock, settings.audit_at) if settings.audit_at else None
    watch = JobWatch(store.jobs, runner, clock, JOB_KINDS, host.enqueue, daily_audit)
    stack.callback(asyncio.create_task(watch.run()).cancel)
    context.metrics.queue_available.read_from(lambda: {(): not context.publisher.is_paused})
    context.metrics.arq_ticking.read_from(lambda: {(): host.is_ticking})
    return host


def _readiness(context: SchedulerContext, metrics: Metrics, guard: ClockGuard) -> Readiness:
    readiness = Readiness(context.store, metrics)
    readiness.expect("categories", lambda: context.categories.is_read)
    readiness.expect("webhooks", lambda: context.webhooks.is_read)
    readiness.require("clock", guard.may_claim)
    context.metrics.clock_refused.read_from(lambda: {(): not guard.may_claim()})
    return readiness


async def _run_until_stopped(
    settings: Settings, readiness: Readiness, metrics: Metrics, due_loop: DueLoop, host: ArqHost
) -> None:
    # Ready before the probes start: otherwise the first probe could report a healthy process as not ready.
    await readiness.check()
    probes = ProbeServer(settings, readiness, metrics, "scheduler_port")
    shutdown = Shutdown(readiness, settings.pre_drain_seconds)
    shutdown.on_signals()
    working = (host.run(), readiness.watch(), measure_event_loop(metrics.event_loop_lag))
    tasks = [asyncio.create_task(each) for each in working]
    probes.start()
    report_ready(probes=settings.scheduler_port)
    await shutdown.wait_until_drain()
    await shutdown.drain(due_loop.stop(), settings.drain_seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await probes.close()
    log.info("service.stopped")


if __name__ == "__main__":
    main()
