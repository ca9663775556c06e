"""The application: routes behind the gate, behind the front."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Never

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gregor.auth.device_tokens import TokenVerifier
from gregor.auth.unsubscribe_links import PATH
from gregor.auth.vapid import public_key_of
from gregor.clock import Clock
from gregor.config.settings import Settings
from gregor.core.errors import Problem
from gregor.net.origins import Origins
from gregor.redis.pubsub import PubSub
from gregor.registries.categories import CategoryRegistry
from gregor.registries.webhooks import WebhookRegistry
from gregor.store.contract.store import Store
from gregor.submission import Submitter
from gregor.telemetry import Metrics
from gregor.web.middleware import HttpMiddleware, methods_at
from gregor.web.readiness import Readiness

from .auth import Authorizer, DeviceAccess, access_rule
from .context import IngestContext
from .problems import query_problem
from .routes.admin import admin, keys, tickets, webhooks
from .routes.admin import categories as category_routes
from .routes.delivery import contact, dead_letters, deliveries, suppressions, unsubscribe
from .routes.messages import batch, delayed, messages
from .routes.site import pages, probes
from .routes.users import devices, push, reads
from .schemas import openapi

log = structlog.get_logger(__name__)


class IngestApp(FastAPI):
    """FastAPI behind the front, which sees every request first and every answer last."""

    def __init__(self, context: IngestContext, **options: Any) -> None:
        super().__init__(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, **options)
        self.state.context = context
        origins = Origins(context.settings.origins)
        self._front = HttpMiddleware(self._dispatch, origins, context.metrics, self.methods_at, anywhere=PATH)
        self._ordinary: ASGIApp = super().__call__
        self._document: dict[str, Any] | None = None
        self.hot: tuple[Route, ...] = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of the server."""
        await self._front(scope, receive, send)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lead messages straight to their route: what FastAPI puts around a route costs as much as the message."""
        if scope["type"] == "http" and scope["method"] == "POST":
            for route in self.hot:
                if (match := route.path_regex.match(scope["path"])) is not None:
                    scope["path_params"] = match.groupdict()
                    await route.app(scope, receive, send)
                    return
        await self._ordinary(scope, receive, send)

    def methods_at(self, path: str) -> list[str]:
        """What a path takes."""
        return methods_at(self.routes, path)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, made once."""
        if self._document is None:
            paths = {route.path for route in self.routes if isinstance(route, Route)}
            self._document = openapi.document_of(self, paths)
        return self._document


def create_app(
    settings: Settings, store: Store, clock: Clock, tokens: TokenVerifier, feed: PubSub | None = None
) -> IngestApp:
    """The application of one process. Nothing connects before it is started. ValueError: a file cannot be used."""
    metrics = Metrics()
    limits = settings.limits
    authorizer = Authorizer(store, tokens, clock, limits)
    categories = CategoryRegistry(store, feed, count_failure=lambda field: metrics.render_failures.labels(field).inc())
    key = None if settings.vapid_key_file is None else public_key_of(settings.vapid_key_file)
    readiness, hooks = Readiness(store, metrics, feed), WebhookRegistry(store, feed)
    submitter = Submitter(store, categories, clock, limits, metrics, round(settings.flush_spread_s))
    context = IngestContext(
        settings, limits, store, clock, authorizer, submitter, metrics, readiness, categories, hooks, key
    )
    app = IngestApp(context, lifespan=_lifespan)
    app.hot = _hot_routes(context)
    app.router.routes[:] = [*app.hot, *_ordinary_routes(settings)]
    app.exception_handlers.update({HTTPException: _on_http, RequestValidationError: _on_invalid, Exception: _on_any})
    return app


def create_admin_app(app: IngestApp) -> FastAPI:
    """The application of the port of the setting ADMIN_PORT: probes and figures."""
    figures = IngestApp(app.state.context)
    figures.router.routes[:] = [*probes.router.routes, *probes.figures.routes]
    figures.exception_handlers.update(app.exception_handlers)
    return figures


def _hot_routes(context: IngestContext) -> tuple[Route, ...]:
    return (
        Route(messages.PATH, messages.SendMessage(context), methods=["POST"], include_in_schema=False),
        Route(batch.PATH, batch.SendMessages(context), methods=["POST"], include_in_schema=False),
    )


def _ordinary_routes(settings: Settings) -> list[BaseRoute]:
    guarded: list[BaseRoute] = []
    told = (contact, deliveries, dead_letters, suppressions, webhooks)
    sections = (reads, devices, *told, tickets, admin, keys, category_routes, delayed)
    for part in sections:
        guarded += part.router.routes
    if settings.ingest_audience == "devices":
        guarded = [route for route in guarded if _is_for_devices(route)]
    open_routes = [*push.router.routes, *probes.router.routes, *unsubscribe.router.routes, *pages.router.routes]
    if settings.admin_port is None:
        open_routes += probes.figures.routes
    return guarded + open_routes


def _is_for_devices(route: BaseRoute) -> bool:
    if not isinstance(route, Route) or not route.methods:
        return False
    return access_rule(next(iter(route.methods)), route.path).device_access is not DeviceAccess.NOTHING


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    context: IngestContext = app.state.context
    await context.readiness.check()
    await context.categories.open()
    await context.webhooks.start()
    watching = asyncio.create_task(context.readiness.watch())
    log.info("Ready.", ingest=context.settings.ingest_port)
    try:
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await context.webhooks.close()
        await context.categories.close()


async def _on_http(request: Request, error: Exception) -> Never:
    """What the router refuses: a path or a method that is not there."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status != 405:
        raise Problem("not_found", "There is nothing at this path.") from None
    methods = ", ".join(request.app.methods_at(request.scope["path"]))
    request.scope["gregor.refusal_headers"] = [(b"allow", methods.encode())]
    raise Problem("method_not_allowed", f"This path takes {methods}.") from None


async def _on_invalid(_request: Request, error: Exception) -> Never:
    """What FastAPI finds wrong with a parameter."""
    found = error.errors() if isinstance(error, RequestValidationError) else []
    raise query_problem(found) from None


async def _on_any(_request: Request, error: Exception) -> Never:
    """Everything else goes on to the front, which answers it."""
    raise error
