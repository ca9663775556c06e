"""The probe application of services without public HTTP (http.md, "Probes")."""

from __future__ import annotations

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gregor.telemetry import METRICS_CONTENT_TYPE, Metrics

from .middleware import SECURITY_HEADERS
from .readiness import Readiness
from .request import JSON

_NO_STORE = {"Cache-Control": "no-store", **{name.decode(): value.decode() for name, value in SECURITY_HEADERS}}


def probes_app(readiness: Readiness, metrics: Metrics, *, with_metrics: bool = True) -> Starlette:
    """Return an application with ``/healthz``, ``/readyz`` and, if ``with_metrics``, ``/metrics``."""

    async def health(_request: Request) -> Response:
        return Response(b'{"alive":true}', media_type=JSON, headers=_NO_STORE)

    async def ready(_request: Request) -> Response:
        body = msgspec.json.encode(readiness.document())
        return Response(body, 200 if readiness.is_ready else 503, _NO_STORE, JSON)

    async def exposition(_request: Request) -> Response:
        return Response(metrics.exposition(), headers={**_NO_STORE, "Content-Type": METRICS_CONTENT_TYPE})

    routes = [Route("/healthz", health), Route("/readyz", ready)]
    return Starlette(routes=[*routes, Route("/metrics", exposition)] if with_metrics else routes)
