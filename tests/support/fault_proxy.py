"""A TCP proxy that changes, delays or holds back what a server sends, with or without TLS towards the client."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

Change = Callable[[bytes], Awaitable[bytes]]
"""Returns what to send instead of these bytes of the server; it may wait."""


async def unchanged(data: bytes) -> bytes:
    return data


class FaultProxy:
    """Forwards connections to the host and port of `upstream`; each read of the server passes through `change`."""

    def __init__(self, upstream: str, change: Change = unchanged, certificate: str | None = None) -> None:
        self._upstream = urlsplit(upstream)
        self.change = change
        self._tls = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate)
        self._running: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    @property
    def url(self) -> str:
        """The URL of the upstream with the address of this proxy."""
        scheme = self._upstream.scheme + ("s" if self._tls else "")
        return f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            upstream = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._forward(reader, upstream[1], unchanged))
                    group.create_task(self._forward(upstream[0], writer, self.change))
            finally:
                upstream[1].close()
                await upstream[1].wait_closed()
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._running.discard(task)
            writer.close()

    @staticmethod
    async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Change) -> None:
        while data := await reader.read(65_536):
            writer.write(await change(data))
            await writer.drain()
        with suppress(OSError):
            writer.close()
