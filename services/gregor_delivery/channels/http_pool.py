"""Many requests at once over HTTP/1.1: to FCM, and to hosts that others named (browsers, backends).

httpcore's own pool, and so httpx, looks at all of its connections for each request that begins and each that ends: with
100 of them that is most of the time. So here a connection is taken and put back by hand; it carries one at a time.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpcore

KEPT_S: Final = 30.0
"""How long a connection is kept idle."""
MOST_ANSWER_BYTES: Final = 16_384
"""Of an answer's body; a longer one costs its connection."""
_HANDED_OVER: Final = "http11.send_request_headers.started"


@dataclass(slots=True)
class HttpExchange:
    """How far one request came. ``retry_after``: the header's value. ``body``: what was read of it."""

    is_handed_over: bool = False
    status: int | None = None
    retry_after: str | None = None
    body: bytes = b""

    async def trace(self, event: str, _: Mapping[str, Any]) -> None:
        """What httpcore tells of its steps."""
        self.is_handed_over = self.is_handed_over or event == _HANDED_OVER


class HttpPool:
    """Up to ``size`` requests at once. Redirects are not followed, and nothing is repeated."""

    def __init__(
        self,
        size: int,
        context: ssl.SSLContext | None = None,
        backend: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        """``context``: whom to trust, else who the system does. ``backend``: may judge where a connection leads."""
        self._size, self._backend = size, backend
        self._context = context or ssl.create_default_context()
        self._free = asyncio.Semaphore(size)
        self._idle: list[tuple[httpcore.Origin, httpcore.AsyncHTTPConnection]] = []  # the one put back last is last
        self._in_flight = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def post(self, url: str, headers: list[tuple[str, str]], content: bytes, exchange: HttpExchange) -> None:
        """Send once, and tell ``exchange`` what became of it, also where this raises or is cancelled.

        Raises what httpcore and the backend do. Cancelled, it closes its own connection, and no other.
        """
        origin = httpcore.URL(url).origin
        self._in_flight += 1
        self._quiet.clear()
        try:
            async with self._free:
                connection = await self._take(origin)
                try:
                    await _exchange(connection, url, headers, content, exchange)
                finally:
                    await self._put(origin, connection)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._quiet.set()

    async def close(self) -> None:
        """Let the requests in flight end, then close all connections."""
        await self._quiet.wait()
        while self._idle:
            await self._idle.pop()[1].aclose()

    async def _take(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection:
        """The connection that was used last, so that no more stay open than are needed; else a new one."""
        for at in range(len(self._idle) - 1, -1, -1):
            if self._idle[at][0] == origin:
                connection = self._idle.pop(at)[1]
                if not connection.has_expired():
                    return connection
                await connection.aclose()
                return await self._take(origin)
        return httpcore.AsyncHTTPConnection(
            origin, ssl_context=self._context, keepalive_expiry=KEPT_S, network_backend=self._backend
        )

    async def _put(self, origin: httpcore.Origin, connection: httpcore.AsyncHTTPConnection) -> None:
        """Keep it, if its answer was read to the end; else httpcore has closed it."""
        if connection.is_idle():
            self._idle.append((origin, connection))
        if self._idle and (len(self._idle) > self._size or self._idle[0][1].has_expired()):
            await self._idle.pop(0)[1].aclose()


async def _exchange(
    connection: httpcore.AsyncHTTPConnection,
    url: str,
    headers: list[tuple[str, str]],
    content: bytes,
    exchange: HttpExchange,
) -> None:
    asked = connection.stream("POST", url, headers=headers, content=content, extensions={"trace": exchange.trace})
    async with asked as answer:
        retry_after = next((value for name, value in answer.headers if name.lower() == b"retry-after"), b"")
        exchange.status, exchange.retry_after = answer.status, retry_after.decode("latin-1") or None
        async for chunk in answer.aiter_stream():
            exchange.body += chunk
            if len(exchange.body) > MOST_ANSWER_BYTES:
                break
