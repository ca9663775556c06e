"""A port with nothing but the probes (protocol.md, "Ports"): for services that serve nobody else over HTTP."""

from __future__ import annotations

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gregor.telemetry import METRICS_CONTENT_TYPE, Metrics

from .readiness import Readiness
from .request import JSON

_NO_STORE = {"Cache-Control": "no-store"}


def probes_app(readiness: Readiness, metrics: Metrics, *, has_figures: bool = True) -> Starlette:
    """``/healthz`` and ``/readyz``; with ``has_figures`` also ``/metrics`` (else they are on the port ADMIN_PORT)."""

    async def health(_request: Request) -> Response:
        return Response(b'{"alive":true}', media_type=JSON, headers=_NO_STORE)

    async def ready(_request: Request) -> Response:
        body = msgspec.json.encode(readiness.document())
        return Response(body, 200 if readiness.is_ready else 503, _NO_STORE, JSON)

    async def figures(_request: Request) -> Response:
        return Response(metrics.exposition(), headers={"Content-Type": METRICS_CONTENT_TYPE})

    routes = [Route("/healthz", health), Route("/readyz", ready)]
    return Starlette(routes=[*routes, Route("/metrics", figures)] if has_figures else routes)
