"""A gateway that sends scripted frames: for cases that a real gateway produces only in failures."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

UNCHANGED = {"system": "gregor", "sync": "full", "cursor": "abcdef-1", "digest": "0" * 64, "body": {"create": {}}}


class ScriptedConnection:
    """One connection that a device made."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket
        self.headers = socket.request.headers if socket.request else {}
        self.ended = asyncio.Event()

    async def receive(self, member: str) -> Any:
        """The next frame with that member; other frames are skipped."""
        while member not in (frame := json.loads(await asyncio.wait_for(self._socket.recv(), 5))):
            pass
        return frame

    async def send(self, *frames: dict[str, Any]) -> None:
        for frame in frames:
            await self._socket.send(json.dumps(frame))

    async def send_text(self, text: str) -> None:
        """Send a message that need not be JSON."""
        await self._socket.send(text)

    async def send_fragments(self, *parts: str) -> None:
        """Send one message in several WebSocket frames."""
        await self._socket.send(parts)

    async def ping(self) -> None:
        """Send a WebSocket ping and wait for the pong."""
        await (await self._socket.ping("x" * 100))

    async def close(self, code: int, reason: str = "") -> None:
        await self._socket.close(code, reason)

    async def accept_hello(self, **sync: Any) -> dict[str, Any]:
        """Receive the hello, answer it with an empty copy (or `sync`), and return the hello."""
        hello: dict[str, Any] = (await self.receive("hello"))["hello"]
        await self.send({"welcome": {"uncounted": []}}, UNCHANGED | sync)
        return hello


class ScriptedGateway:
    """Accepts devices; `next_connection` returns each connection."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[ScriptedConnection] = asyncio.Queue()
        self.url = ""

    async def next_connection(self) -> ScriptedConnection:
        return await asyncio.wait_for(self.connections.get(), 5)

    async def _serve(self, socket: ServerConnection) -> None:
        connection = ScriptedConnection(socket)
        self.connections.put_nowait(connection)
        with suppress(ConnectionClosed):
            await socket.wait_closed()
        connection.ended.set()


@asynccontextmanager
async def scripted_gateway() -> AsyncIterator[ScriptedGateway]:
    gateway = ScriptedGateway()
    server: Server
    async with serve(gateway._serve, "127.0.0.1", 0, subprotocols=["gregor.v1"], ping_interval=None) as server:  # type: ignore[list-item]
        gateway.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield gateway
