"""A gateway that says what a test tells it to: for what a real one does only on bad days."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

UNCHANGED = {"system": "gregor", "sync": "full", "cursor": "abcdef-1", "digest": "0" * 64, "body": {"create": {}}}


class Visit:
    """One connection that a device made."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket
        self.headers = socket.request.headers if socket.request else {}
        self.ended = asyncio.Event()

    async def hears(self, member: str) -> Any:
        """The next frame with that member; others are passed over."""
        while member not in (frame := json.loads(await asyncio.wait_for(self._socket.recv(), 5))):
            pass
        return frame

    async def says(self, *frames: dict[str, Any]) -> None:
        for frame in frames:
            await self._socket.send(json.dumps(frame))

    async def closes(self, code: int, reason: str = "") -> None:
        await self._socket.close(code, reason)

    async def greets(self, **sync: Any) -> dict[str, Any]:
        """Take the hello, answer it with an empty copy (or `sync`); the hello."""
        hello: dict[str, Any] = (await self.hears("hello"))["hello"]
        await self.says({"welcome": {"uncounted": []}}, UNCHANGED | sync)
        return hello


class ScriptedGateway:
    """Where devices connect; each waits in `next_visit`."""

    def __init__(self) -> None:
        self.visits: asyncio.Queue[Visit] = asyncio.Queue()
        self.url = ""

    async def next_visit(self) -> Visit:
        return await asyncio.wait_for(self.visits.get(), 5)

    async def _serve(self, socket: ServerConnection) -> None:
        visit = Visit(socket)
        self.visits.put_nowait(visit)
        with suppress(ConnectionClosed):
            await socket.wait_closed()
        visit.ended.set()


@asynccontextmanager
async def scripted_gateway() -> AsyncIterator[ScriptedGateway]:
    gateway = ScriptedGateway()
    server: Server
    async with serve(gateway._serve, "127.0.0.1", 0, subprotocols=["gregor.v1"], ping_interval=None) as server:  # type: ignore[list-item]
        gateway.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield gateway
