"""Probes and figures: for balancers, supervisors and Prometheus. They need no token."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Response

from gregor.telemetry import METRICS_CONTENT_TYPE
from gregor_ingest.guarded_route import OpenRoute, Context
from gregor_ingest.responses import json_response

router: Final = APIRouter(route_class=OpenRoute, tags=["probes"])
figures: Final = APIRouter(route_class=OpenRoute, tags=["probes"])

_READY: Final = {"ready": True, "checks": {"redis": "ok", "probe": "ok", "draining": False}}
_NOT_READY: Final = {"ready": False, "checks": {"redis": "down", "probe": "ok", "draining": False}}


def _example(value: object) -> dict[str, object]:
    return {"application/json": {"schema": {"type": "object"}, "example": value}}


@router.get(
    "/healthz",
    operation_id="health",
    summary="Is the process alive",
    responses={200: {"description": "It is.", "content": _example({"alive": True})}},
    response_class=Response,
)
async def health() -> Response:
    """The process answers: nothing more is looked at."""
    return json_response({"alive": True}, headers={"Cache-Control": "no-store"})


@router.get(
    "/readyz",
    operation_id="ready",
    summary="Can it do its job now",
    responses={
        200: {"description": "It can.", "content": _example(_READY)},
        503: {"description": "It cannot: send requests elsewhere.", "content": _example(_NOT_READY)},
    },
    response_class=Response,
)
async def ready(context: Context) -> Response:
    """Red after three failures of the store in a row, and while it is shutting down."""
    document = context.readiness.document()
    return json_response(document, 200 if document["ready"] else 503, {"Cache-Control": "no-store"})


@figures.get(
    "/metrics",
    operation_id="metrics",
    summary="Figures for Prometheus",
    responses={200: {"description": "Prometheus text.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
    response_class=Response,
)
async def metrics(context: Context) -> Response:
    """Counters and histograms of this process; no label ever names a user."""
    return Response(context.metrics.exposition(), headers={"Content-Type": METRICS_CONTENT_TYPE})
