"""The probe application of services without public HTTP (http.md, "Probes")."""

from __future__ import annotations

from typing import Final

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gregor.core.errors import Problem
from gregor.metrics.process import METRICS_CONTENT_TYPE, Metrics
from gregor.net.client_address import ClientAddresses, parse_address
from gregor.net.public_addresses import is_internal
from gregor.net.web_pages import is_of_page
from gregor.telemetry import request_id

from .middleware import SECURITY_HEADERS
from .problems import PROBLEM_JSON
from .readiness import Readiness
from .request import JSON

_HEADERS = {name.decode(): value.decode() for name, value in SECURITY_HEADERS}


PROBE_PATHS: Final = ("/healthz", "/readyz", "/metrics")
METRICS_HIDDEN: Final = (
    "Metrics are shown only to clients with an internal address that come without a proxy. "
    "Set GREGOR_ADMIN_PORT and scrape that port, or set GREGOR_METRICS_PUBLIC=true."
)


PAGES_REFUSED: Final = (
    "Probes and metrics are not for web pages. In a browser, open this port by an IP address or a name without dots."
)


def on_admin_port(path: str) -> str:
    """Return the text for a probe that a public port does not have. It reveals no port to the internet."""
    return f"{path} is served on the admin port (GREGOR_ADMIN_PORT)."


def check_no_page(scope: Scope) -> None:
    """Check that a request is not of a web page (``net.web_pages``). Raises ``forbidden``."""
    if is_of_page({name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}):
        raise Problem("forbidden", PAGES_REFUSED)


def check_internal(scope: Scope, proxies: ClientAddresses) -> None:
    """Check that a request for metrics comes from the operator's network, and not from a page that a person opened.

    ``proxies``: the trusted proxies. Raises ``not_found`` or ``forbidden``.
    """
    check_no_page(scope)
    peer = scope.get("client")
    names = (name.decode("latin-1") for name, _ in scope["headers"])
    if not is_internal(parse_address(peer[0]) if peer else None, names, proxies):
        raise Problem("not_found", METRICS_HIDDEN)


class WithoutPages:
    """Middleware of an admin port that refuses the requests of web pages."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        app = self._app
        if scope["type"] == "http":
            try:
                check_no_page(scope)
            except Problem as problem:
                app = _problem_response(problem)
        await app(scope, receive, send)


def _problem_response(problem: Problem) -> Response:
    body = msgspec.json.encode(problem.document(request_id()))
    return Response(body, problem.status, _HEADERS, PROBLEM_JSON.decode())


def probes_app(
    readiness: Readiness, metrics: Metrics, *, with_metrics: bool = True, proxies: ClientAddresses | None = None
) -> Starlette:
    """Return an application with ``/healthz``, ``/readyz`` and, if ``with_metrics``, ``/metrics``.

    ``proxies``: the trusted proxies, if only internal clients may read the metrics; ``None`` if everybody may.
    """

    async def health(_request: Request) -> Response:
        return Response(b'{"alive":true}', media_type=JSON, headers=_HEADERS)

    async def ready(_request: Request) -> Response:
        body = msgspec.json.encode(readiness.document())
        return Response(body, 200 if readiness.is_ready else 503, _HEADERS, JSON)

    async def exposition(request: Request) -> Response:
        try:
            if proxies is not None:
                check_internal(request.scope, proxies)
        except Problem as problem:
            return _problem_response(problem)
        return Response(metrics.exposition(), headers={**_HEADERS, "Content-Type": METRICS_CONTENT_TYPE})

    routes = [Route("/healthz", health), Route("/readyz", ready)]
    return Starlette(routes=[*routes, Route("/metrics", exposition)] if with_metrics else routes)
