"""A small HTTP/1.1 server for fakes: fast, and able to fail (late, silent, or closed in the middle)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, cast

import httptools

REASONS: Final = {200: "OK", 201: "Created", 204: "No Content", 302: "Found", 400: "Bad Request", 404: "Not Found"}


@dataclass(frozen=True, slots=True)
class FakeRequest:
    """A request. `headers`: names in lower case. `target`: path and query."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class FakeResponse:
    """A response, sent after `delay_s`."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0

    def as_bytes(self) -> bytes:
        """Return the response as HTTP/1.1."""
        fields = {"content-length": str(len(self.body)), **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"HTTP/1.1 {self.status} {REASONS.get(self.status, 'Status')}\r\n{lines}\r\n".encode() + self.body


class ServerFault(Enum):
    """A failure of the server instead of a response."""

    HANG = "the request is read, and no response is sent"
    DROP = "the connection is closed without a response"
    HALF = "the connection is closed within a response"


Handler = Callable[[FakeRequest], FakeResponse | ServerFault]


class Http1Server:
    """Serves `handler` on loopback. `connections`: number of connections so far."""

    def __init__(self, handler: Handler, tls: ssl.SSLContext | None = None) -> None:
        self._handler = handler
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Transport] = set()
        self.connections = 0

    @property
    def port(self) -> int:
        """Port that the server listens on."""
        if self._server is None:
            raise RuntimeError("the server is not started")
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """Base URL of the server."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """Number of open connections."""
        return len(self._open)

    async def start(self, port: int = 0) -> None:
        """Listen on loopback; port 0 takes a free one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _HttpConnection(self), "127.0.0.1", port, ssl=self._tls)

    async def close(self) -> None:
        """Stop listening and abort all connections."""
        if self._server is not None:
            self._server.close()
            for transport in list(self._open):
                transport.abort()
            await self._server.wait_closed()
            self._server = None

    def drop_all(self) -> None:
        """Close all connections, as a restarting server does."""
        for transport in list(self._open):
            transport.close()


class _HttpConnection(asyncio.Protocol):
    """One connection: parses requests and answers them in order."""

    def __init__(self, server: Http1Server) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._target = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class is not a subclass of it
        self._server.connections += 1
        self._server._open.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._server._open.discard(self._transport)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._close()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        request = FakeRequest(method, self._target.decode("latin-1"), self._headers, bytes(self._body))
        self._target, self._headers, self._body = b"", {}, bytearray()
        answer = self._server._handler(request)
        if isinstance(answer, FakeResponse) and answer.delay_s:
            asyncio.get_running_loop().call_later(answer.delay_s, self._write, answer.as_bytes())
        elif isinstance(answer, FakeResponse):
            self._write(answer.as_bytes())
        elif answer is ServerFault.HALF:
            self._write(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{")
            self._close()
        elif answer is ServerFault.DROP:
            self._close()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
