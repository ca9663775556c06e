"""Connections of the stream port: the state that SSE, long poll and posted frames share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from starlette.types import Send

from gregor.core.close_codes import CloseCode
from gregor.store.contract.access import TerminalClose
from gregor_gateway.connection.connection import DeviceConnection
from gregor_gateway.context import GatewayContext
from gregor_gateway.protocol.server_frames import close_frame
from gregor_gateway.sessions.device_rates import retry_reason
from gregor_gateway.sessions.terminal_closes import TerminalCloses

from .stream_auth import JoinRefused, StreamRequest


class StreamConnections:
    """The open streams and polls, and the memory of their terminal closes."""

    def __init__(self, context: GatewayContext) -> None:
        self.context = context
        self.terminal_closes = TerminalCloses(context.store, context.clock)
        self.connections: set[DeviceConnection] = set()

    async def note(self, stream_request: StreamRequest, code: int | None, connection: DeviceConnection) -> None:
        """Remember the close code of a stream or poll, if any. Call it before the code is sent to the client."""
        if code is not None:
            caller = stream_request.authenticated.caller
            close = TerminalClose(code, caller.uid, caller.device, connection.name)
            await self.terminal_closes.note(stream_request.credential, close)

    def refuse_join(self, refused: JoinRefused) -> bytes:
        """Count a refused join by its limit, and return the close for it."""
        self.context.metrics.limits_reached.labels(refused.limit).inc()
        return close_frame(CloseCode.RATE_LIMITED, retry_reason(refused.wait_s, self.context.jitter))

    @contextmanager
    def holding(self, connection: DeviceConnection) -> Iterator[None]:
        """Count a connection while it is served, and end it afterwards."""
        self.connections.add(connection)
        try:
            yield
        finally:
            self.connections.discard(connection)
            connection.end()


async def send_json(send: Send, status: int, body: bytes, more_headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """Send a complete JSON response, and wait until the client has read a large one."""
    headers = [
        *more_headers,
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    # The server waits here until the client has read all but the last 16 KiB, and has its own copy.
    del body
    await send({"type": "http.response.body", "body": b""})
