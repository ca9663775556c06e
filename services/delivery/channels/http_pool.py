"""Many requests at once to one provider: a pool of httpx clients that have one connection each.

One client with many connections looks at all of them for each request it sends and each it ends: with 100 connections
that is two thirds of the time. So each client here has one connection, for one request at a time.
"""

from __future__ import annotations

import asyncio
from typing import Final

import httpx

KEPT_S: Final = 60.0
"""How long a connection is kept idle: shorter than providers keep it, so that none is used just as it closes."""


class HttpPool:
    """Up to `size` connections; the one used last is used next, so that no more stay open than are needed."""

    def __init__(self, size: int) -> None:
        self._context = httpx.create_ssl_context()
        self._free = asyncio.Semaphore(size)
        self._idle: list[httpx.AsyncClient] = []
        self._all: list[httpx.AsyncClient] = []

    async def post(
        self, url: str, content: bytes, headers: dict[str, str], *, wait_s: float, connect_s: float
    ) -> httpx.Response:
        """Send once. httpx.PoolTimeout after `wait_s` without a free connection, ConnectTimeout after `connect_s`.

        May be cancelled: the connection of this one request is closed, and no other.
        """
        client = await self._take(wait_s)
        try:
            return await client.post(
                url, content=content, headers=headers, timeout=httpx.Timeout(None, connect=connect_s)
            )
        finally:
            self._idle.append(client)
            self._free.release()

    async def close(self) -> None:
        """Close all connections."""
        for client in self._all:
            await client.aclose()

    async def _take(self, wait_s: float) -> httpx.AsyncClient:
        if self._free.locked():
            try:
                async with asyncio.timeout(wait_s):
                    await self._free.acquire()
            except TimeoutError:
                raise httpx.PoolTimeout("no connection is free") from None
        else:
            await self._free.acquire()
        if self._idle:
            return self._idle.pop()
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEPT_S)
        client = httpx.AsyncClient(
            verify=self._context, limits=limits, follow_redirects=False, headers={"user-agent": "gregor"}
        )
        self._all.append(client)
        return client
