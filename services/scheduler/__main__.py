"""The process: `python -m services.scheduler`. Settings, stores, probes, the drain, until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack, suppress
from typing import Final

import structlog
import uvloop

from gregor.clock import SystemClock
from gregor.registry import Registry
from gregor.settings import Settings, SettingsError, load_settings, masked
from gregor.store.contract import Store, Unavailable
from gregor.store.link import LinkDown
from gregor.store.redis import open_store
from gregor.telemetry import Metrics, set_up_logging
from gregor.web.probes import probes_app
from gregor.web.readiness import Readiness
from gregor.web.serving import Server, listen, server_of
from gregor.webhook_registry import WebhookRegistry

from .acts import Acts
from .aggregators import installed
from .allowance import Allowance
from .drain import Drain
from .figures import Figures
from .handover import HandOver, streams_of
from .parts import Parts
from .worker import Host, redis_settings

log = structlog.get_logger(__name__)

COLLECT_BURST: Final = 50


def main() -> None:
    """Run a scheduler; exit status 1 with one line on stderr where it cannot start."""
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        sys.exit(f"gregor scheduler: {error}")
    set_up_logging("scheduler", settings.log_level, settings.log_format)
    logging.getLogger("arq").setLevel(logging.WARNING)  # a line for each tick says nothing
    try:
        uvloop.run(serve(settings))
    except (LinkDown, Unavailable) as error:
        places = " or ".join(sorted({masked(settings.redis_url), masked(settings.queue)}))
        sys.exit(f"gregor scheduler: Redis cannot be used at {places}: {error}")
    except OSError as error:
        sys.exit(f"gregor scheduler: {error.strerror or error}")


async def serve(settings: Settings) -> None:
    """Open what is needed, do what is due until SIGTERM or SIGINT, finish what was begun, and close."""
    async with AsyncExitStack() as stack:
        store = await open_store(settings.redis_url, settings.limits, settings.namespace)
        stack.push_async_callback(store.close)
        metrics = Metrics()
        failures = metrics.render_failures
        registry = Registry(store, failed=lambda field: failures.labels(field).inc())
        await registry.open()
        stack.push_async_callback(registry.close)
        clock, figures = SystemClock(settings.clock_offset_s), Figures(metrics.registry)
        handover = HandOver(streams_of(settings), clock.monotonic)
        stack.push_async_callback(handover.close)
        await handover.open()
        webhooks = WebhookRegistry(store)
        await webhooks.follow()
        stack.push_async_callback(webhooks.close)
        parts = Parts(store, handover, clock, settings.limits, registry, webhooks, figures, installed())
        collecting = Allowance(settings.collect_rate, COLLECT_BURST)
        lease_us = round(settings.lease_s * 1e6)
        drain = Drain(store.agenda, Acts(parts, collecting), clock, figures, lease_us)
        queue = f"{settings.namespace}:scheduler:{socket.gethostname()}:{settings.scheduler_port}"
        host = Host(redis_settings(settings.queue), drain, queue, clock.monotonic)
        await serve_with(settings, store, metrics, drain, host)


async def serve_with(settings: Settings, store: Store, metrics: Metrics, drain: Drain, host: Host) -> None:
    """``serve`` with what somebody else closes."""
    readiness = Readiness(store, metrics)
    await readiness.check()
    servers = _servers(settings, readiness, metrics)
    sockets = [listen(settings.host, server.config.port) for server in servers]
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    working = [asyncio.create_task(host.run()), asyncio.create_task(readiness.watch())]
    serving = [
        asyncio.create_task(server.serve(sockets=[socket])) for server, socket in zip(servers, sockets, strict=True)
    ]
    log.info("Ready.", probes=settings.scheduler_port)
    await told.wait()
    log.info("Told to stop: what was begun is finished.")
    readiness.draining = True
    with suppress(TimeoutError):
        async with asyncio.timeout(settings.drain_seconds):
            await drain.stop()
    for task in working:
        task.cancel()
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*working, *serving, return_exceptions=True)
    for listening in sockets:
        listening.close()
    log.info("Stopped.")


def _servers(settings: Settings, readiness: Readiness, metrics: Metrics) -> list[Server]:
    """The ports: the probes, and where the setting ADMIN_PORT is set the figures on that."""
    has_admin = settings.admin_port is not None
    probes = probes_app(readiness, metrics, has_figures=not has_admin)
    servers = [server_of(probes, settings.host, settings.scheduler_port, 1.0)]
    if settings.admin_port is not None:
        servers.append(server_of(probes_app(readiness, metrics), settings.host, settings.admin_port, 1.0))
    return servers


if __name__ == "__main__":
    main()
