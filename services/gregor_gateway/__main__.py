"""The gateway process (`python -m gregor_gateway`): serves devices on two ports until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import structlog

from gregor.auth.device_tokens import TokenVerifier
from gregor.clock import SystemClock
from gregor.config.live_settings import LiveSettings
from gregor.metrics.event_loop import measure_event_loop
from gregor.redis.clients import client_of, pubsub_of
from gregor.store.redis.store import open_store
from gregor.web.process import Shutdown, report_ready, run, tune_garbage_collector
from gregor.web.process_metrics import publish_process

from .context import GatewayContext, build
from .drain import Drain
from .fanout.removed_keys import RemovedKeyChecker
from .runtime.sockets import BACKLOG, listen_for_devices
from .transports.admin_port import AdminServer
from .transports.http_app import StreamServer
from .transports.websocket import WebSocketServer

log = structlog.get_logger(__name__)


def main() -> None:
    """Run a gateway."""
    run("gateway", serve)


async def serve(live: LiveSettings) -> None:
    """Open the store and pub/sub, serve, and close them."""
    settings = live.current
    async with AsyncExitStack() as stack:
        store = await open_store(
            live.redis_url,
            settings.limits,
            settings.namespace,
            partitions=settings.partitions,
            token_life_us=round(settings.token_max_age_s * 1_000_000),
            service="gateway",
            clock_offset_s=settings.clock_offset_s,
        )
        stack.push_async_callback(store.close)
        client = client_of(live.redis_url)
        stack.push_async_callback(client.close)
        await client.open()
        pubsub = pubsub_of(live.redis_url, client, namespace=settings.namespace)
        stack.push_async_callback(pubsub.close)
        await pubsub.open()
        clock = SystemClock(settings.clock_offset_s)
        tokens = TokenVerifier(settings)
        live.on_change(("token_secret", "token_jwks"), tokens.use_secrets)
        await tokens.load(clock.now_us())
        context = build(settings, store, pubsub, tokens, clock)
        publish_process(context.metrics, live, store, context.readiness)
        stack.push_async_callback(context.tracer.close)
        stack.push_async_callback(context.background.close)
        await context.registry.open(settings.categories, clock.now_us())
        stack.push_async_callback(context.registry.close)
        await context.webhooks.start()
        stack.push_async_callback(context.webhooks.close)
        await pubsub.subscribe(store.reset_channel, context.reset_all, sharded=False)
        await serve_with(context)


async def serve_with(context: GatewayContext) -> None:
    """Serve until SIGTERM or SIGINT; then drain."""
    settings, loop = context.settings, asyncio.get_running_loop()
    sockets = WebSocketServer(context)
    streams = StreamServer(context)
    listening = listen_for_devices(settings)
    drain = Drain(context, lambda: [*sockets.connections, *streams.connections])
    shutdown = Shutdown(context.readiness, settings.pre_drain_seconds, drain.close_now)
    shutdown.on_signals()
    context.readiness.expect("categories", lambda: context.registry.is_read)
    context.readiness.expect("webhooks", lambda: context.webhooks.is_read)
    await context.readiness.check()
    tune_garbage_collector()
    context.background.start(context.readiness.watch())
    context.background.start(measure_event_loop(context.metrics.event_loop_lag))
    context.background.start(context.timers.run())
    await context.presence.join()
    context.presence.start()
    RemovedKeyChecker(context.hub, context.authenticator, context.timers, context.background).watch()
    servers = [await loop.create_server(sockets, sock=listening[0], backlog=BACKLOG)]
    if settings.admin_port is not None:
        servers.append(await loop.create_server(AdminServer(context), sock=listening[2]))
    serving = asyncio.create_task(streams.serve(listening[1]))
    report_ready(gateway=settings.gateway_port, streams=settings.stream_port)
    await shutdown.wait_until_drain()
    await drain.run(settings.drain_seconds)
    for server in servers:
        server.close()
    streams.stop()
    await serving
    log.info("service.stopped")


if __name__ == "__main__":
    main()
