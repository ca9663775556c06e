"""The process: `python -m services.ingest`. Reads settings, opens the store, serves until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import structlog
import uvicorn
import uvloop
from starlette.types import ASGIApp

from gregor.category_files import apply_first
from gregor.clock import SystemClock
from gregor.core.errors import Problem
from gregor.settings import Settings, SettingsError, load_settings, masked
from gregor.store.contract import Store, Unavailable
from gregor.store.link import LinkDown
from gregor.store.redis import open_store
from gregor.telemetry import set_up_logging
from gregor.tokens import Tokens

from .app import Application, create_app, create_figures

log = structlog.get_logger(__name__)

KEEP_ALIVE_S = 75
"""Longer than balancers keep an idle connection (60 s): they close first, and no request meets a closing socket."""


class Server(uvicorn.Server):
    """uvicorn without its own handling of signals: after a graceful stop the process ends with status 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to ``serve``."""
        yield


def main() -> None:
    """Run ingest; exit status 1 with one line on stderr where it cannot start."""
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        sys.exit(f"gregor ingest: {error}")
    set_up_logging("ingest", settings.log_level, settings.log_format)
    try:
        uvloop.run(serve(settings))
    except Problem as problem:
        sys.exit(f"gregor ingest: GREGOR_CATEGORIES: {problem.detail}")
    except (LinkDown, Unavailable) as error:
        sys.exit(f"gregor ingest: Redis cannot be used at {masked(settings.redis_url)}: {error}")
    except ValueError as error:
        sys.exit(f"gregor ingest: {error}")
    except OSError as error:
        sys.exit(f"gregor ingest: {error.strerror or error}")


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT: readiness goes red, requests under way are answered, then it ends."""
    store = await open_store(
        settings.redis_url,
        settings.limits,
        settings.namespace,
        token_life_us=round(settings.token_max_age_s * 1_000_000),
    )
    try:
        await serve_with(settings, store)
    finally:
        await store.close()


async def serve_with(settings: Settings, store: Store) -> None:
    """``serve`` with a store that somebody else closes."""
    clock = SystemClock(settings.clock_offset_s)
    if settings.categories is not None:
        await apply_first(store.categories, Path(settings.categories), clock.now_us())
    tokens = Tokens(settings)
    await tokens.load(clock.now_us())
    app = create_app(settings, store, clock, tokens)
    servers = [_server(settings, app, settings.ingest_port)]
    if settings.admin_port is not None:
        servers.append(_server(settings, create_figures(app), settings.admin_port, lifespan="off"))
    sockets = [_listen(settings.host, server.config.port) for server in servers]
    _stop_on_signals(app, servers)
    try:
        await asyncio.gather(*(server.serve(sockets=[socket]) for server, socket in zip(servers, sockets, strict=True)))
    finally:
        for listening in sockets:
            listening.close()
    log.info("Stopped.")


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; ``OSError`` that names host and port where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2_048)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {reason}") from error


def _server(settings: Settings, app: ASGIApp, port: int, lifespan: str = "on") -> Server:
    return Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=port,
            http="httptools",
            ws="none",
            lifespan="on" if lifespan == "on" else "off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=round(settings.drain_seconds),
        )
    )


def _stop_on_signals(app: Application, servers: list[Server]) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if app.state.parts.readiness.draining:
            # Told twice: whoever waits is not willing to wait longer.
            for server in servers:
                server.force_exit = True
        log.info("Told to stop: requests under way are answered.")
        app.state.parts.readiness.draining = True
        for server in servers:
            server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


if __name__ == "__main__":
    main()
