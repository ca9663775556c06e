"""What SSE, long poll and posted frames of one process share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Send

from gregor.store.contract.access import TerminalClose
from gregor_gateway.connection.connection import Connection
from gregor_gateway.context import Parts
from gregor_gateway.sessions.terminal_closes import Finals

from .stream_auth import Opening


class Streaming:
    """The connections of the stream port."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.finals = Finals(parts.store, parts.clock)
        self.connections: set[Connection] = set()

    async def note(self, opening: Opening, code: int | None, connection: Connection) -> None:
        """A stream or poll ended, with this close code if it was closed. To be called before its client is told."""
        if code is not None:
            caller = opening.admitted.caller
            close = TerminalClose(code, caller.uid, caller.device, connection.name)
            await self.finals.note(opening.credential, close)

    @contextmanager
    def holding(self, connection: Connection) -> Iterator[None]:
        """Count a connection while it is served; it is over afterwards."""
        self.connections.add(connection)
        try:
            yield
        finally:
            self.connections.discard(connection)
            connection.ended()


async def send_json(send: Send, status: int, body: bytes) -> None:
    """One whole answer of JSON."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
