"""Probes of the gateway: liveness, readiness and metrics, on the gateway port, the stream port and the admin port."""

from __future__ import annotations

from typing import Final

from gregor.core.errors import Problem
from gregor.metrics.process import METRICS_CONTENT_TYPE
from gregor.net.client_address import IpAddress
from gregor.net.public_addresses import is_internal
from gregor.net.web_pages import is_of_page
from gregor.web.probes import METRICS_HIDDEN, PAGES_REFUSED, PROBE_PATHS, on_admin_port
from gregor_gateway.context import GatewayContext
from gregor_gateway.protocol.server_frames import encode

from .http1 import RequestHead, problem_response, response

CONNECT_PATH: Final = "/v1/connect"
STREAM_PATHS: Final = ("/v1/stream", "/v1/poll", "/v1/frames")
JSON: Final = "application/json"


def probe(context: GatewayContext, path: str, *, is_admin: bool = False) -> tuple[int, bytes, str] | None:
    """Return status, body and media type of a probe; ``None`` if the path is not a probe of this port.

    If there is an admin port, only that one has probes and metrics.
    """
    if not is_admin and context.settings.admin_port is not None:
        return None
    if path == "/healthz":
        return 200, b'{"alive":true}', JSON
    if path == "/readyz":
        return (200 if context.readiness.is_ready else 503), encode(context.readiness.document()), JSON
    if path == "/metrics":
        return 200, context.metrics.exposition(), METRICS_CONTENT_TYPE
    return None


def probe_response(
    context: GatewayContext, request: RequestHead, *, peer: IpAddress | None = None, is_admin: bool = False
) -> bytes:
    """Return the response to a request that is not a WebSocket upgrade: a probe, or a problem.

    ``peer``: the address that decides whether the request may see metrics on a public port.
    """
    identity, is_head = request.request_id, request.method == "HEAD"
    is_guarded = request.path == "/metrics" and not is_admin and not context.settings.metrics_public
    if (is_admin or is_guarded) and is_of_page(request.headers):
        return problem_response(identity, Problem("forbidden", PAGES_REFUSED), is_head=is_head)
    is_hidden = is_guarded and not is_internal(peer, request.headers, context.client_addresses)
    if is_hidden and context.settings.admin_port is None:
        return problem_response(identity, Problem("not_found", METRICS_HIDDEN), is_head=is_head)
    # After the checks, because collecting the metrics takes milliseconds.
    found = probe(context, request.path, is_admin=is_admin)
    if found is None and request.path != CONNECT_PATH:
        return problem_response(identity, not_found(context, request.path), is_head=is_head)
    if found is None or request.method not in ("GET", "HEAD"):
        allow = {"Allow": "GET" if found is None else "GET, HEAD"}
        problem = Problem("method_not_allowed", f"{request.path} supports only {allow['Allow']}.")
        return problem_response(identity, problem, allow, is_head=is_head)
    status, body, media_type = found
    return response(status, body, media_type, is_head=is_head)


def not_found(context: GatewayContext, path: str) -> Problem:
    """Return the problem for an unknown path; it names the other port if the path exists there."""
    detail = f"Unknown path {path[:100]}."
    if path in STREAM_PATHS:
        detail = f"{path} is served on the stream port (GREGOR_STREAM_PORT)."
    elif path == CONNECT_PATH:
        detail = f"{path} is served on the gateway port (GREGOR_GATEWAY_PORT)."
    elif path in PROBE_PATHS and context.settings.admin_port is not None:
        detail = on_admin_port(path)
    return Problem("not_found", detail)
