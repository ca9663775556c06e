"""The probes as plain answers: whether the process lives, whether it can do its job, and its figures."""

from __future__ import annotations

from typing import Final

from gregor.telemetry import METRICS_CONTENT_TYPE
from gregor_gateway.context import GatewayContext
from gregor_gateway.protocol.server_frames import encode

PATHS: Final = ("/healthz", "/readyz", "/metrics")
JSON: Final = "application/json"


def probe(context: GatewayContext, path: str, *, is_admin: bool = False) -> tuple[int, bytes, str] | None:
    """Status, body and type of a probe; ``None`` where the path is none here. Figures are told on one port only."""
    if path == "/healthz":
        return 200, b'{"alive":true}', JSON
    if path == "/readyz":
        return (200 if context.readiness.is_ready else 503), encode(context.readiness.document()), JSON
    if path == "/metrics" and (is_admin or context.settings.admin_port is None):
        return 200, context.metrics.exposition(), METRICS_CONTENT_TYPE
    return None
