"""The process: `python -m services.gateway`. Settings, store and feed, two ports, until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from contextlib import AsyncExitStack

import structlog
import uvloop

from gregor.clock import SystemClock
from gregor.core.errors import Problem
from gregor.feed import Feed
from gregor.settings import Settings, SettingsError, load_settings, masked
from gregor.store.contract import Unavailable
from gregor.store.link import Link
from gregor.store.redis import open_store
from gregor.store.wire import LinkDown
from gregor.telemetry import set_up_logging
from gregor.tokens import Tokens

from .drain import Drain
from .figures import Figures
from .listening import BACKLOG, listen
from .parts import Parts, build
from .streams import StreamServer
from .websocket import WebSocketServer

log = structlog.get_logger(__name__)


def main() -> None:
    """Run a gateway; exit status 1 with one line on stderr where it cannot start."""
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        sys.exit(f"gregor gateway: {error}")
    set_up_logging("gateway", settings.log_level, settings.log_format)
    try:
        uvloop.run(serve(settings))
    except Problem as problem:
        sys.exit(f"gregor gateway: GREGOR_CATEGORIES: {problem.detail}")
    except (LinkDown, Unavailable) as error:
        sys.exit(f"gregor gateway: Redis cannot be used at {masked(settings.redis_url)}: {error}")
    except OSError as error:
        sys.exit(f"gregor gateway: cannot listen on {settings.host}: {error.strerror or error}")


async def serve(settings: Settings) -> None:
    """Open store and feed, serve, and close them."""
    async with AsyncExitStack() as stack:
        store = await open_store(
            settings.redis_url,
            settings.limits,
            settings.namespace,
            token_life_us=round(settings.token_max_age_s * 1_000_000),
        )
        stack.push_async_callback(store.close)
        link = Link(settings.redis_url)
        stack.push_async_callback(link.close)
        await link.open()
        feed = Feed(settings.redis_url, link, namespace=settings.namespace)
        stack.push_async_callback(feed.close)
        await feed.open()
        clock = SystemClock(settings.clock_offset_s)
        tokens = Tokens(settings)
        await tokens.load(clock.now_us())
        parts = build(settings, store, feed, tokens, clock)
        stack.push_async_callback(parts.background.close)
        await parts.registry.open(settings.categories, clock.now_us())
        stack.push_async_callback(parts.registry.close)
        await parts.webhooks.follow()
        stack.push_async_callback(parts.webhooks.close)
        await feed.subscribe(store.flush_channel, parts.flush_of_all, sharded=False)
        await serve_with(parts)


async def serve_with(parts: Parts) -> None:
    """Serve until SIGTERM or SIGINT; then drain."""
    settings, loop = parts.settings, asyncio.get_running_loop()
    sockets = WebSocketServer(parts)
    streams = StreamServer(parts)
    listening = [listen(settings.host, settings.gateway_port), listen(settings.host, settings.stream_port)]
    if settings.admin_port is not None:
        listening.append(listen(settings.host, settings.admin_port))
    drain = Drain(parts, lambda: [*sockets.connections, *streams.connections])
    stopping = _stop_on_signals(drain)
    await parts.readiness.check()
    _calm_collector()
    parts.background.start(parts.readiness.watch())
    parts.background.start(parts.wheel.run())
    parts.presence.begin()
    servers = [await loop.create_server(sockets, sock=listening[0], backlog=BACKLOG)]
    if settings.admin_port is not None:
        servers.append(await loop.create_server(lambda: Figures(parts), sock=listening[2]))
    serving = asyncio.create_task(streams.serve(listening[1]))
    log.info("Ready.", gateway=settings.gateway_port, streams=settings.stream_port)
    await stopping.wait()
    log.info("Told to stop: devices are sent elsewhere.")
    await drain.run(settings.drain_seconds)
    for server in servers:
        server.close()
    streams.stop()
    await serving
    log.info("Stopped.")


def _calm_collector() -> None:
    """Look for cycles seldom: connections make none, and a look at those of 10,000 devices holds all of them up."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _stop_on_signals(drain: Drain) -> asyncio.Event:
    """The event of the first signal; the second one hurries."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        if told.is_set():
            drain.hurry()
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    return told


if __name__ == "__main__":
    main()
