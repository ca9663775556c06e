"""Health probes and metrics: for load balancers, supervisors and Prometheus. They need no token."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from gregor.metrics.process import METRICS_CONTENT_TYPE
from gregor.web.probes import PROBE_PATHS, check_internal, on_admin_port
from gregor_ingest.guarded_route import Context, OpenRoute
from gregor_ingest.responses import json_content, json_response
from gregor_ingest.schemas.responses import AliveResponse, ReadyResponse

router: Final = APIRouter(route_class=OpenRoute, tags=["probes"])
metrics_router: Final = APIRouter(route_class=OpenRoute, tags=["probes"])

_READY: Final = {"ready": True, "checks": {"redis": "ok", "probe": "ok", "draining": False}}
_NOT_READY: Final = {"ready": False, "checks": {"redis": "down", "probe": "ok", "draining": False}}


@router.get(
    "/healthz",
    operation_id="health",
    summary="Liveness probe",
    responses={200: {"description": "The process runs.", "content": json_content(AliveResponse, {"alive": True})}},
    response_class=Response,
)
async def health() -> Response:
    """Return 200 while the process runs; nothing else is checked."""
    return json_response(AliveResponse(True))


@router.get(
    "/readyz",
    operation_id="ready",
    summary="Readiness probe",
    responses={
        200: {"description": "The process is ready.", "content": json_content(ReadyResponse, _READY)},
        503: {
            "description": "The process is not ready: route requests to another one.",
            "content": json_content(ReadyResponse, _NOT_READY),
        },
    },
    response_class=Response,
)
async def ready(context: Context) -> Response:
    """Return 503 after three failed checks of the store in a row, and during shutdown."""
    document = context.readiness.document()
    return json_response(document, 200 if document["ready"] else 503)


@metrics_router.get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics",
    responses={
        200: {
            "description": "Metrics in the Prometheus text format.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    },
    response_class=Response,
)
async def metrics(context: Context, request: Request) -> Response:
    """Return counters and histograms of this process. No label names a user."""
    if not request.app.state.has_public_metrics:
        check_internal(request.scope, context.admission.addresses)
    return Response(context.metrics.exposition(), headers={"Content-Type": METRICS_CONTENT_TYPE})


def not_found_text(request: Request) -> str:
    """Return the text for a path that this port does not have; it names only what is served."""
    path = request.scope["path"]
    if request.app.is_admin_port:
        return f"There is nothing at this path; the admin port has only {', '.join(PROBE_PATHS)}."
    if path in PROBE_PATHS:
        return on_admin_port(path)
    has_docs = request.app.methods_at("/")
    return f"There is nothing at this path{'; / has links to the documentation' if has_docs else ''}."
