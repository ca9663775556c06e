"""The ASGI application: middleware around hot and ordinary routes, and its startup and shutdown."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Never

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gregor.auth.device_tokens import TokenVerifier
from gregor.auth.unsubscribe_links import PATH
from gregor.auth.vapid import public_key_of
from gregor.clock import Clock
from gregor.config.live_settings import LiveSettings
from gregor.config.settings import Settings
from gregor.core.errors import Problem
from gregor.jobs.kinds import JOB_KINDS, JobTools, job_steps
from gregor.jobs.runner import JobRunner
from gregor.metrics.event_loop import measure_event_loop
from gregor.metrics.process import Metrics
from gregor.metrics.reading import by_label
from gregor.net.client_address import ClientAddresses
from gregor.net.connection_limits import ConnectionLimiter
from gregor.net.origins import Origins
from gregor.net.request_queue import RequestQueue
from gregor.redis.pubsub import PubSub
from gregor.registries.categories import CategoryRegistry
from gregor.registries.webhooks import WebhookRegistry
from gregor.store.contract.store import Store
from gregor.submission import Submitter
from gregor.tracing.exporter import open_tracer
from gregor.web.http_admission import QUEUED, AnonymousLimit, HttpAdmission, Queued, count_forwarded, overload_refusal
from gregor.web.middleware import HttpMiddleware, allowed_methods
from gregor.web.probes import check_no_page
from gregor.web.problems import HttpProblem
from gregor.web.process import report_ready
from gregor.web.process_metrics import publish_process
from gregor.web.readiness import Readiness

from .audit import AuditTrail
from .auth.authorizer import Authorizer
from .auth.rules import DeviceAccess, access_rule
from .context import IngestContext
from .problems import query_problem
from .rate_limits import CallerRateLimiter
from .routes.admin import audit, jobs, keys, tickets, upgrade, users, webhooks
from .routes.admin import categories as category_routes
from .routes.delivery import contact, dead_letters, deliveries, suppressions, unsubscribe
from .routes.delivery.unsubscriber import Unsubscriber
from .routes.messages import batch, broadcast, delayed, messages
from .routes.site import client_files, demo, pages, probes
from .routes.users import devices, push, reads
from .schemas import openapi

_ADMITTED: Final = Queued(1, 0.0, is_verified=False)


class IngestApp(FastAPI):
    """FastAPI inside the HTTP middleware, with a shortcut to the hot routes."""

    def __init__(self, context: IngestContext, *, is_admin_port: bool = False, **options: Any) -> None:
        super().__init__(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, **options)
        self.state.context = context
        self.is_admin_port = is_admin_port
        self.state.has_public_metrics = is_admin_port or context.settings.metrics_public
        self._queue = context.admission.queue
        origins, dispatch = Origins(context.settings.origins), self._dispatch
        self._middleware = HttpMiddleware(
            count_forwarded(dispatch, context.admission, context.clock),
            origins,
            context.metrics,
            self.methods_at,
            context.readiness,
            AnonymousLimit(context.admission, context.clock),
            any_origin_prefixes=(PATH, client_files.PATH),
        )
        self._fastapi: ASGIApp = super().__call__
        self._document: dict[str, Any] | None = None
        self._document_json: bytes | None = None
        self.hot_routes: tuple[Route, ...] = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if self._queue is not None and (queued := scope.get(QUEUED)) is not None:
            self._queue.leave(queued.units, queued.arrived_s, time.monotonic(), is_verified=queued.is_verified)
        await self._middleware(scope, receive, send)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call a hot route directly: FastAPI's layers around a route cost as much as the message."""
        if not scope.get(QUEUED, _ADMITTED).units:
            raise overload_refusal()
        if self.is_admin_port and scope["type"] == "http":
            check_no_page(scope)
        if scope["type"] == "http" and scope["method"] == "POST":
            for route in self.hot_routes:
                if (match := route.path_regex.match(scope["path"])) is not None:
                    scope["path_params"] = match.groupdict()
                    await route.app(scope, receive, send)
                    return
        await self._fastapi(scope, receive, send)

    def methods_at(self, path: str) -> list[str]:
        """Return the allowed methods of a path."""
        return allowed_methods(self.routes, path)

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document of the served routes; built once."""
        if self._document is None:
            paths = {route.path for route in self.routes if isinstance(route, Route)}
            self._document = openapi.build_document(self, paths)
        return self._document

    def openapi_json(self) -> bytes:
        """Return the OpenAPI document as JSON; built once."""
        if self._document_json is None:
            self._document_json = msgspec.json.encode(self.openapi())
        return self._document_json


def create_app(
    live: LiveSettings, store: Store, clock: Clock, tokens: TokenVerifier, feed: PubSub | None = None
) -> IngestApp:
    """Build the application of one process. It connects to nothing before startup.

    Raises ``ValueError`` if a file of the settings cannot be used.
    """
    metrics = Metrics()
    settings = live.current
    categories = CategoryRegistry(store, feed, count_failure=lambda field: metrics.render_failures.labels(field).inc())
    addresses = ClientAddresses(settings.trusted_proxies)
    authorizer = Authorizer(store, tokens, clock, addresses, metrics, settings)
    context = IngestContext(
        settings=settings,
        live_settings=live,
        limits=settings.limits,
        store=store,
        clock=clock,
        admission=_admission(settings, addresses, metrics, authorizer),
        authorizer=authorizer,
        audit=AuditTrail(store, clock, authorizer),
        rate_limiter=CallerRateLimiter(store, clock, settings.limits, metrics),
        submitter=Submitter(store, categories, clock, settings.limits, metrics, round(settings.flush_spread_s)),
        unsubscriber=Unsubscriber(store.contacts, clock),
        metrics=metrics,
        readiness=Readiness(store, metrics, feed),
        categories=categories,
        webhooks=WebhookRegistry(store, feed),
        jobs=JobRunner(store.jobs, clock, job_steps(JobTools(store, clock, settings.limits)), metrics.count_job),
        tracer=open_tracer(settings.trace_url, settings.trace_sample, "ingest", metrics.registry),
        webpush_key=None if settings.vapid_key_file is None else public_key_of(settings.vapid_key_file),
    )
    publish_process(metrics, live, store, context.readiness)
    metrics.expect_jobs(JOB_KINDS)
    metrics.replications.read_from(lambda: by_label(store.replication.outcomes))
    app = IngestApp(context, lifespan=_lifespan)
    app.hot_routes = _hot_routes(context)
    # The hot routes are also ordinary ones, for the methods of their paths (405, OPTIONS).
    app.router.routes[:] = [*app.hot_routes, *_ordinary_routes(settings)]
    _match_without_backtracking(app.router.routes)
    app.exception_handlers.update(
        {HTTPException: _on_routing_error, RequestValidationError: _on_invalid_parameter, Exception: _on_error}
    )
    return app


def _admission(
    settings: Settings, addresses: ClientAddresses, metrics: Metrics, authorizer: Authorizer
) -> HttpAdmission:
    """Build the limits of connections, and the queue that refuses requests if it is turned on."""
    # A request that is refused without the application passes no middleware, which counts the others.
    queue = RequestQueue(settings.max_queue_delay_s, metrics.requests.labels("none", "other", "503").inc)
    metrics.overload_refusals.read_from(lambda: {(): queue.refusals})
    return HttpAdmission(
        ConnectionLimiter(settings.connection_limits),
        addresses,
        metrics.refuse_connection,
        settings.proxy_protocol_http,
        queue if settings.max_queue_delay_s else None,
        authorizer.verified_key,
    )


def create_admin_app(app: IngestApp) -> FastAPI:
    """Build the application of the admin port (setting ADMIN_PORT): probes and metrics."""
    admin = IngestApp(app.state.context, is_admin_port=True)
    admin.router.routes[:] = [*probes.router.routes, *probes.metrics_router.routes]
    admin.exception_handlers.update(app.exception_handlers)
    return admin


# --- Routes


def _hot_routes(context: IngestContext) -> tuple[Route, ...]:
    return (
        Route(messages.PATH, messages.SendMessage(context), methods=["POST"], include_in_schema=False),
        Route(batch.PATH, batch.SendMessages(context), methods=["POST"], include_in_schema=False),
    )


def _match_without_backtracking(routes: Iterable[BaseRoute]) -> None:
    """Make the patterns of parameters possessive: those of Starlette backtrack over a long segment at each route."""
    for route in routes:
        if isinstance(route, Route):
            route.path_regex = re.compile(route.path_regex.pattern.replace("[^/]+)", "[^/]++)"))


def _ordinary_routes(settings: Settings) -> list[BaseRoute]:
    guarded: list[BaseRoute] = []
    notifications = (contact, deliveries, dead_letters, suppressions, webhooks)
    for module in (
        reads,
        devices,
        *notifications,
        tickets,
        users,
        broadcast,
        jobs,
        upgrade,
        keys,
        audit,
        category_routes,
        delayed,
    ):
        guarded += module.router.routes
    # A process on the internet may serve devices only: the other routes then do not exist (404).
    if settings.ingest_audience == "devices":
        guarded = [route for route in guarded if _is_for_devices(route)]
    open_routes = [*push.router.routes, *unsubscribe.router.routes, *pages.router.routes, *client_files.router.routes]
    # Devices know their calls, so a port for devices does not describe the API.
    if settings.api_docs and settings.ingest_audience == "all":
        open_routes += pages.docs_router.routes
    if settings.demo is not None:
        open_routes += demo.router.routes
    # With an admin port, probes and metrics are only there: the public port must not show them.
    if settings.admin_port is None:
        open_routes += [*probes.router.routes, *probes.metrics_router.routes]
    return guarded + open_routes


def _is_for_devices(route: BaseRoute) -> bool:
    if not isinstance(route, Route) or not route.methods:
        return False
    return access_rule(next(iter(route.methods)), route.path).device_access is not DeviceAccess.NOTHING


# --- Startup and shutdown


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    context: IngestContext = app.state.context
    # The first check runs before requests are accepted, so a load balancer never sees a false "not ready".
    await context.categories.open(context.settings.categories, context.clock.now_us())
    await context.webhooks.start()
    context.readiness.expect("categories", lambda: context.categories.is_read)
    context.readiness.expect("webhooks", lambda: context.webhooks.is_read)
    await context.readiness.check()
    watches = (context.readiness.watch(), context.authorizer.watch_keys())
    watching = asyncio.gather(*watches, measure_event_loop(context.metrics.event_loop_lag))
    report_ready(ingest=context.settings.ingest_port)
    try:
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await context.tracer.close()
        await context.jobs.close()
        await context.webhooks.close()
        await context.categories.close()


# --- Errors of FastAPI, as problems


async def _on_routing_error(request: Request, error: Exception) -> Never:
    """Turn the router's error for an unknown path or method into a problem."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status != 405:
        raise Problem("not_found", probes.not_found_text(request)) from None
    methods = ", ".join(request.app.methods_at(request.scope["path"]))
    headers = ((b"allow", methods.encode()),)
    raise HttpProblem("method_not_allowed", f"This path allows {methods}.", headers=headers) from None


async def _on_invalid_parameter(_request: Request, error: Exception) -> Never:
    """Turn FastAPI's error for a query parameter into a problem."""
    found = error.errors() if isinstance(error, RequestValidationError) else []
    raise query_problem(found) from None


async def _on_error(_request: Request, error: Exception) -> Never:
    """Pass every other error on to the middleware, which responds."""
    try:
        raise error
    finally:
        # Otherwise the error, its traceback and this frame form a reference cycle, which keeps the body of the request.
        del error
