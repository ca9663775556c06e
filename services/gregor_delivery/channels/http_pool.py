"""HTTP/1.1 connection pool for concurrent requests: to FCM, Web Push services and webhook endpoints.

The pool of httpcore (and httpx) scans all connections whenever a request starts or ends; with 100 connections that
takes most of the CPU time. This pool takes and returns connections directly, one request per connection.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import httpcore

from gregor.net.outgoing.bounded_streams import BoundedBackend, ResponseLimitExceeded
from gregor.net.outgoing.tls import outgoing_context

from .in_flight import InFlight

CONNECTIONS: Final = 100
"""Concurrent requests of a channel: with responses after 100 ms, a thousand a second."""
KEPT_S: Final = 30.0
"""How long an idle connection is kept."""
MAX_RESPONSE_BYTES: Final = 16_384
"""Limit of a response body; a longer one closes its connection. `bounded_streams` limits the whole response."""
_SENT_EVENT: Final = "http11.send_request_headers.started"


@dataclass(slots=True)
class HttpExchange:
    """Progress of one request. `was_sent`: its headers were written. `body`: the part of the response that was read."""

    was_sent: bool = False
    status: int | None = None
    retry_after: str | None = None
    body: bytes = b""

    async def trace(self, event: str, _: Mapping[str, Any]) -> None:
        """Receive a trace event of httpcore."""
        self.was_sent = self.was_sent or event == _SENT_EVENT


class HttpPool:
    """Up to `size` concurrent requests. Redirects are not followed, and failed requests not repeated."""

    def __init__(
        self,
        size: int,
        context: ssl.SSLContext | None = None,
        backend: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        """`context`: trusted authorities, by default the system's. `backend`: may reject destinations."""
        self._size, self._backend = size, BoundedBackend(backend or httpcore.AnyIOBackend())
        self._context = context or outgoing_context()
        self._free = asyncio.Semaphore(size)
        self._idle: list[tuple[httpcore.Origin, httpcore.AsyncHTTPConnection]] = []  # most recently used last
        self._in_flight = InFlight()

    async def post(self, url: str, headers: list[tuple[str, str]], content: bytes, exchange: HttpExchange) -> None:
        """Send one request and update `exchange`, even if this raises or is cancelled.

        Raises the exceptions of httpcore and of the backend, and `ResponseLimitExceeded` if a response is too long
        before its status. A cancelled request closes its own connection.
        """
        origin = httpcore.URL(url).origin
        with self._in_flight:
            async with self._free:
                connection = await self._acquire(origin)
                try:
                    await _exchange(connection, url, headers, content, exchange)
                finally:
                    await self._release(origin, connection)

    async def close(self) -> None:
        """Wait for the requests in flight, then close all connections."""
        await self._in_flight.drain()
        while self._idle:
            await self._idle.pop()[1].aclose()

    async def _acquire(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection:
        """Return the idle connection used last, which lets surplus ones expire; else a new one."""
        for at in range(len(self._idle) - 1, -1, -1):
            if self._idle[at][0] == origin:
                connection = self._idle.pop(at)[1]
                if not connection.has_expired():
                    return connection
                await connection.aclose()
                return await self._acquire(origin)
        return httpcore.AsyncHTTPConnection(
            origin, ssl_context=self._context, keepalive_expiry=KEPT_S, network_backend=self._backend
        )

    async def _release(self, origin: httpcore.Origin, connection: httpcore.AsyncHTTPConnection) -> None:
        """Keep the connection if exactly its response was read. If less was read, httpcore has closed it."""
        if connection.is_idle():
            if _has_unread_bytes(connection):
                await connection.aclose()
            else:
                self._idle.append((origin, connection))
        if self._idle and (len(self._idle) > self._size or self._idle[0][1].has_expired()):
            await self._idle.pop(0)[1].aclose()


def _has_unread_bytes(connection: httpcore.AsyncHTTPConnection) -> bool:
    """Return whether bytes after the response were read, such as a body after 204.

    httpcore would parse them as the response to the next request. It has no public method for this.
    """
    http = connection._connection
    return isinstance(http, httpcore.AsyncHTTP11Connection) and bool(http._h11_state.trailing_data[0])


async def _exchange(
    connection: httpcore.AsyncHTTPConnection,
    url: str,
    headers: list[tuple[str, str]],
    content: bytes,
    exchange: HttpExchange,
) -> None:
    response_context = connection.stream(
        "POST", url, headers=headers, content=content, extensions={"trace": exchange.trace}
    )
    async with response_context as response:
        retry_after = next((value for name, value in response.headers if name.lower() == b"retry-after"), b"")
        exchange.status, exchange.retry_after = response.status, retry_after.decode("latin-1") or None
        # The status is known: a body that is too long, or in too many chunks, only closes the connection.
        with suppress(ResponseLimitExceeded):
            async for chunk in response.aiter_stream():
                exchange.body += chunk
                if len(exchange.body) > MAX_RESPONSE_BYTES:
                    break
