"""A client that occupies a port with request heads that it never completes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

from tests.support.wait import wait_until


class UnfinishedRequests:
    """Keeps a number of half-open request heads at a port. Opens a new one as soon as the server closes one."""

    def __init__(self, port: int, count: int) -> None:
        self._port = port
        self._count = count
        self._held: set[int] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Return after all of them are open."""
        self._tasks = [asyncio.create_task(self._hold(number)) for number in range(self._count)]
        await wait_until(lambda: len(self._held) == self._count, "the unfinished requests")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def _hold(self, number: int) -> None:
        while True:
            with contextlib.suppress(ConnectionError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    writer.write(b"GET /readyz HTTP/1.1\r\nHost: ")
                    self._held.add(number)
                    await reader.read()
                finally:
                    writer.close()
