"""What SSE, long poll and posted frames of one process share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Send

from gregor.store.contract.access import TerminalClose
from gregor_gateway.connection.connection import DeviceConnection
from gregor_gateway.context import GatewayContext
from gregor_gateway.sessions.terminal_closes import TerminalCloses

from .stream_auth import StreamRequest


class StreamConnections:
    """The connections of the stream port."""

    def __init__(self, context: GatewayContext) -> None:
        self.context = context
        self.terminal_closes = TerminalCloses(context.store, context.clock)
        self.connections: set[DeviceConnection] = set()

    async def note(self, stream_request: StreamRequest, code: int | None, connection: DeviceConnection) -> None:
        """A stream or poll ended, with this close code if it was closed. To be called before its client is told."""
        if code is not None:
            caller = stream_request.admitted.caller
            close = TerminalClose(code, caller.uid, caller.device, connection.name)
            await self.terminal_closes.note(stream_request.credential, close)

    @contextmanager
    def holding(self, connection: DeviceConnection) -> Iterator[None]:
        """Count a connection while it is served; it is over afterwards."""
        self.connections.add(connection)
        try:
            yield
        finally:
            self.connections.discard(connection)
            connection.end()


async def send_json(send: Send, status: int, body: bytes) -> None:
    """One whole answer of JSON."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
