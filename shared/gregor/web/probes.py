"""The probe application of services without public HTTP (http.md, "Probes")."""

from __future__ import annotations

from typing import Final

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from gregor.core.errors import Problem
from gregor.metrics.process import METRICS_CONTENT_TYPE, Metrics
from gregor.net.client_address import ClientAddresses, parse_address
from gregor.net.public_addresses import is_internal
from gregor.telemetry import request_id

from .middleware import SECURITY_HEADERS
from .problems import PROBLEM_JSON
from .readiness import Readiness
from .request import JSON

_NO_STORE = {"Cache-Control": "no-store", **{name.decode(): value.decode() for name, value in SECURITY_HEADERS}}


METRICS_HIDDEN: Final = (
    "Metrics are shown only to clients with an internal address that come without a proxy. "
    "Set GREGOR_ADMIN_PORT and scrape that port, or set GREGOR_METRICS_PUBLIC=true."
)


def check_internal(scope: Scope, proxies: ClientAddresses) -> None:
    """Check that a request for metrics comes from the operator's network. Raises ``not_found``.

    ``proxies``: the trusted proxies.
    """
    peer = scope.get("client")
    names = (name.decode("latin-1") for name, _ in scope["headers"])
    if not is_internal(parse_address(peer[0]) if peer else None, names, proxies):
        raise Problem("not_found", METRICS_HIDDEN)


def probes_app(
    readiness: Readiness, metrics: Metrics, *, with_metrics: bool = True, proxies: ClientAddresses | None = None
) -> Starlette:
    """Return an application with ``/healthz``, ``/readyz`` and, if ``with_metrics``, ``/metrics``.

    ``proxies``: the trusted proxies, if only internal clients may read the metrics; ``None`` if everybody may.
    """

    async def health(_request: Request) -> Response:
        return Response(b'{"alive":true}', media_type=JSON, headers=_NO_STORE)

    async def ready(_request: Request) -> Response:
        body = msgspec.json.encode(readiness.document())
        return Response(body, 200 if readiness.is_ready else 503, _NO_STORE, JSON)

    async def exposition(request: Request) -> Response:
        try:
            if proxies is not None:
                check_internal(request.scope, proxies)
        except Problem as problem:
            body = msgspec.json.encode(problem.document(request_id()))
            return Response(body, problem.status, _NO_STORE, PROBLEM_JSON.decode())
        return Response(metrics.exposition(), headers={**_NO_STORE, "Content-Type": METRICS_CONTENT_TYPE})

    routes = [Route("/healthz", health), Route("/readyz", ready)]
    return Starlette(routes=[*routes, Route("/metrics", exposition)] if with_metrics else routes)
