"""The ingest process (``python -m gregor_ingest``): reads the settings, opens the store, serves until a signal."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog

from gregor.auth.device_tokens import TokenVerifier
from gregor.clock import SystemClock
from gregor.config.live_settings import LiveSettings
from gregor.config.settings import Settings
from gregor.registries.category_files import apply_initial_file
from gregor.store.contract.store import Store, Unavailable
from gregor.store.redis.store import open_store
from gregor.web.counted_http import counted_http
from gregor.web.http_admission import HttpAdmission
from gregor.web.process import Shutdown, run, tune_garbage_collector
from gregor.web.serving import EmbeddedServer, accepting, listen_all, make_server

from .app import IngestApp, create_admin_app, create_app

log = structlog.get_logger(__name__)


def main() -> None:
    """Run ingest."""
    run("ingest", serve)


async def serve(live: LiveSettings) -> None:
    """Serve until SIGTERM or SIGINT. Then readiness fails, and later requests in progress are completed."""
    settings = live.current
    store = await open_store(
        live.redis_url,
        settings.limits,
        settings.namespace,
        partitions=settings.partitions,
        token_life_us=round(settings.token_max_age_s * 1_000_000),
        replicas=settings.replicas,
        replication_timeout_s=settings.replication_timeout_s,
        service="ingest",
        clock_offset_s=settings.clock_offset_s,
    )
    tune_garbage_collector()
    try:
        await serve_with(live, store)
    finally:
        await store.close()


async def serve_with(live: LiveSettings, store: Store) -> None:
    """Serve with a store that the caller closes."""
    settings = live.current
    clock = SystemClock(settings.clock_offset_s)
    if settings.categories is not None:
        # A bad file ends the process here, with one line. If the shard is unreachable, the registry applies it later.
        with suppress(Unavailable):
            await apply_initial_file(store.categories, Path(settings.categories), clock.now_us())
    tokens = TokenVerifier(settings)
    live.on_change(("token_secret", "token_jwks"), tokens.use_secrets)
    await tokens.load(clock.now_us())
    app = create_app(live, store, clock, tokens)
    if settings.api_docs:
        # Building it takes 150 ms: the first stranger that asks for it must not stop the event loop for so long.
        app.openapi_json()
    servers = _make_servers(app, settings)
    sockets = listen_all(settings, "ingest_port")
    shutdown = Shutdown(app.state.context.readiness, settings.pre_drain_seconds, partial(_end_requests, servers))
    shutdown.on_signals()
    stopping = asyncio.create_task(_stop_servers(shutdown, servers))
    try:
        await asyncio.gather(
            *(server.serve(sockets=accepting(socket)) for server, socket in zip(servers, sockets, strict=True))
        )
    finally:
        stopping.cancel()
        for listening in sockets:
            listening.close()
    log.info("service.stopped")


def _make_servers(app: IngestApp, settings: Settings) -> list[EmbeddedServer]:
    """Return the server of the public port, and that of the admin port if it is set."""
    admission: HttpAdmission = app.state.context.admission
    protocol = counted_http(admission)
    servers = [make_server(app, settings.host, settings.ingest_port, settings.drain_seconds, protocol=protocol)]
    if settings.admin_port is not None:
        admin_app = create_admin_app(app)
        servers.append(
            make_server(
                admin_app,
                settings.admin_address,
                settings.admin_port,
                settings.drain_seconds,
                has_lifespan=False,
                protocol=counted_http(admission.for_probes()),
            )
        )
    return servers


async def _stop_servers(shutdown: Shutdown, servers: Sequence[EmbeddedServer]) -> None:
    """Stop listening when the process must drain; the servers then complete the requests in progress."""
    await shutdown.wait_until_drain()
    for server in servers:
        server.should_exit = True


def _end_requests(servers: Sequence[EmbeddedServer]) -> None:
    """Do not wait for requests in progress."""
    for server in servers:
        server.force_exit = True


if __name__ == "__main__":
    main()
