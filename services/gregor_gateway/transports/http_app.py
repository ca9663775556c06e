"""The stream port: SSE, long poll, posted frames and probes, on FastAPI and uvicorn."""

from __future__ import annotations

import socket
from typing import Any, Final

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gregor.web.counted_http import counted_http
from gregor.web.http_admission import AnonymousLimit, HttpAdmission, count_forwarded
from gregor.web.middleware import HttpMiddleware, allowed_methods
from gregor.web.probes import PROBE_PATHS, check_internal
from gregor.web.problems import HttpProblem
from gregor.web.serving import make_server
from gregor_gateway.connection.connection import DeviceConnection
from gregor_gateway.context import GatewayContext

from .http_connections import StreamConnections
from .long_poll import PollEndpoint
from .post_frames import FramesEndpoint
from .probes import not_found, probe
from .sse import StreamEndpoint

FRAMES: Final = ("/v1/stream", "/v1/poll")
"""Paths whose responses are frames of a session. Their requests take turns, as handshakes of WebSockets do."""
DRAIN_S: Final = 1.0
"""How long requests in flight may take after all streams and polls were closed."""


class StreamApplication(FastAPI):
    """The application of the stream port, behind the HTTP middleware."""

    def __init__(self, streams: StreamConnections) -> None:
        super().__init__(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
        context = streams.context
        admission = http_admission(context)
        self._middleware = HttpMiddleware(
            count_forwarded(self._route, admission, context.clock),
            context.origins,
            context.metrics,
            self.methods_at,
            context.readiness,
            AnonymousLimit(admission, context.clock),
            allow_credentials=True,
        )
        self.state.context = context
        self.router.routes[:] = [
            Route("/v1/stream", StreamEndpoint(streams), methods=["GET"]),
            Route("/v1/poll", PollEndpoint(streams), methods=["GET"]),
            Route("/v1/frames", FramesEndpoint(streams), methods=["POST"]),
            *(Route(path, _probe, methods=["GET"]) for path in PROBE_PATHS),
        ]
        self.exception_handlers.update({HTTPException: _router_problem, Exception: _reraise})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["path"] in FRAMES:
            await self.state.context.handshakes.wait_for_turn()
        await self._middleware(scope, receive, send)

    def methods_at(self, path: str) -> list[str]:
        """Return the methods of a path. Streams and polls do not support ``HEAD``."""
        methods = allowed_methods(self.routes, path)
        return [method for method in methods if method != "HEAD" or path not in FRAMES]

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, send)


class StreamServer:
    """The server of the stream port."""

    def __init__(self, context: GatewayContext) -> None:
        self._streams = StreamConnections(context)
        self.app = StreamApplication(self._streams)
        settings = context.settings
        self._server = make_server(
            self.app,
            settings.host,
            settings.stream_port,
            DRAIN_S,
            has_lifespan=False,
            protocol=counted_http(http_admission(context)),
        )

    @property
    def connections(self) -> set[DeviceConnection]:
        """The open streams and polls."""
        return self._streams.connections

    async def serve(self, listening: socket.socket) -> None:
        """Serve until ``stop`` is called."""
        await self._server.serve(sockets=[listening])

    def stop(self) -> None:
        """Accept no more requests, and end."""
        self._server.should_exit = True


def http_admission(context: GatewayContext) -> HttpAdmission:
    """Return the limits of the stream port: it shares the counts with the WebSocket port."""
    has_proxy_headers = context.settings.proxy_protocol_http
    return HttpAdmission(context.connection_limiter, context.client_addresses, context.count_refusal, has_proxy_headers)


async def _probe(request: Request) -> Response:
    request.scope["gregor.operation"] = "probe"
    context: GatewayContext = request.app.state.context
    if request.url.path == "/metrics" and context.settings.admin_port is None and not context.settings.metrics_public:
        check_internal(request.scope, context.client_addresses)
    found = probe(context, request.url.path)
    if found is None:
        raise not_found(request.app.state.context, request.url.path)
    status, body, media_type = found
    return Response(body, status, media_type=media_type, headers={"Cache-Control": "no-store"})


async def _router_problem(request: Request, error: Exception) -> Any:
    """Turn an error of the router into a problem."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        methods = ", ".join(request.app.methods_at(request.scope["path"]))
        headers = ((b"allow", methods.encode()),)
        raise HttpProblem(
            "method_not_allowed", f"{request.scope['path']} supports {methods}.", headers=headers
        ) from error
    raise not_found(request.app.state.context, request.scope["path"]) from error


async def _reraise(_request: Request, error: Exception) -> Any:
    try:
        raise error
    finally:
        # Otherwise the error, its traceback and this frame form a reference cycle, which keeps the body of the request.
        del error
