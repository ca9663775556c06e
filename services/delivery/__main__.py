"""The process: `python -m services.delivery`. Settings, stores, channels, probes, until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Final

import structlog
import uvloop

from gregor.clock import SystemClock
from gregor.core.intents import EMAIL, PUSH_CHANNELS, WEBHOOK
from gregor.registry import Registry
from gregor.settings import Settings, SettingsError, load_settings, masked
from gregor.store.contract import Store, Unavailable
from gregor.store.link import LinkDown
from gregor.store.redis import open_store
from gregor.store.redis_queue import open_queue
from gregor.telemetry import Metrics, set_up_logging
from gregor.web.probes import probes_app
from gregor.web.readiness import Readiness
from gregor.web.serving import Server, listen, server_of
from gregor.webhook_registry import WebhookEditor, WebhookRegistry

from .attempt import Trade
from .breaker import Breaker
from .channels.smtp_pool import CONNECTIONS
from .figures import Figures
from .look import Looker
from .mail_look import MailLooker
from .pace import Pace
from .providers import channels, mail_host, mail_links
from .push_look import PushLooker
from .webhook_look import WebhookLooker
from .worker import MOST_IN_FLIGHT, Worker

log = structlog.get_logger(__name__)

MAILS_IN_FLIGHT: Final = 4 * CONNECTIONS
"""Of one process: few, since each waits for one of the connections to the relay while its time runs."""


def main() -> None:
    """Run a delivery process; exit status 1 with one line on stderr where it cannot start."""
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        sys.exit(f"gregor delivery: {error}")
    set_up_logging("delivery", settings.log_level, settings.log_format)
    for chatty in ("httpx", "httpcore", "hpack", "h2"):
        logging.getLogger(chatty).setLevel(logging.WARNING)  # their lines hold URLs, and those hold tokens
    try:
        uvloop.run(serve(settings))
    except (LinkDown, Unavailable) as error:
        places = " or ".join(sorted({masked(settings.redis_url), masked(settings.queue)}))
        sys.exit(f"gregor delivery: Redis cannot be used at {places}: {error}")
    except ValueError as error:
        sys.exit(f"gregor delivery: {error}")
    except OSError as error:
        sys.exit(f"gregor delivery: {error.strerror or error}")


async def serve(settings: Settings) -> None:
    """Open what is needed, tell what is to be told until SIGTERM or SIGINT, finish what was begun, and close."""
    async with AsyncExitStack() as stack:
        store = await open_store(settings.redis_url, settings.limits, settings.namespace)
        stack.push_async_callback(store.close)
        metrics = Metrics()
        lookers, clock = await _lookers(stack, settings, store, metrics), SystemClock(settings.clock_offset_s)
        figures, deadline_s = Figures(metrics.registry), settings.delivery_deadline_s
        workers = []
        for name, channel in channels(settings, clock).items():
            if channel is None:
                log.warning("A provider has no credentials: nothing is sent by it.", channel=name)
            else:
                await channel.open()
                stack.push_async_callback(channel.close)
            queue = await open_queue(settings.queue, settings.namespace, name)
            stack.push_async_callback(queue.close)
            pace, breaker = Pace(settings.delivery_rates.get(name)), Breaker(None) if name == WEBHOOK else Breaker()
            trade = Trade(name, channel, store, lookers[name], clock, figures, breaker, deadline_s, pace)
            workers.append(Worker(trade, queue, MAILS_IN_FLIGHT if name == EMAIL else MOST_IN_FLIGHT))
        await serve_with(settings, Readiness(store, metrics), metrics, workers)


async def _lookers(stack: AsyncExitStack, settings: Settings, store: Store, metrics: Metrics) -> dict[str, Looker]:
    """Who decides for each channel, with what they keep up with."""
    failures, clock = metrics.render_failures, SystemClock(settings.clock_offset_s)
    registry = Registry(store, failed=lambda field: failures.labels(field).inc())
    await registry.open()
    stack.push_async_callback(registry.close)
    webhooks = WebhookRegistry(store)
    await webhooks.follow()
    stack.push_async_callback(webhooks.close)
    return {
        **dict.fromkeys(PUSH_CHANNELS, PushLooker(store, registry)),
        EMAIL: MailLooker(store, registry, mail_links(settings), mail_host(settings)),
        WEBHOOK: WebhookLooker(webhooks, WebhookEditor(store.webhooks), clock),
    }


async def serve_with(settings: Settings, readiness: Readiness, metrics: Metrics, workers: Sequence[Worker]) -> None:
    """``serve`` with what somebody else closes."""
    await readiness.check()
    servers = _servers(settings, readiness, metrics)
    sockets = [listen(settings.host, server.config.port) for server in servers]
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    watching = asyncio.create_task(readiness.watch())
    working = [asyncio.create_task(worker.run()) for worker in workers]
    for task in working:
        task.add_done_callback(lambda _: told.set())  # a worker that ends by itself is a bug: the process goes with it
    serving = [
        asyncio.create_task(server.serve(sockets=[socket])) for server, socket in zip(servers, sockets, strict=True)
    ]
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
    for server in servers:
        server.should_exit = True
    await asyncio.gather(watching, *working, *serving, return_exceptions=True)
    for listening in sockets:
        listening.close()
    log.info("Stopped.")


def _servers(settings: Settings, readiness: Readiness, metrics: Metrics) -> list[Server]:
    """The ports: the probes, and where the setting ADMIN_PORT is set the figures on that."""
    has_admin = settings.admin_port is not None
    probes = probes_app(readiness, metrics, has_figures=not has_admin)
    servers = [server_of(probes, settings.host, settings.delivery_port, 1.0)]
    if settings.admin_port is not None:
        servers.append(server_of(probes_app(readiness, metrics), settings.host, settings.admin_port, 1.0))
    return servers


if __name__ == "__main__":
    main()
