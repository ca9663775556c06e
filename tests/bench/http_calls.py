"""HTTP calls that need little CPU: keep-alive connections, with one call at a time on each."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from dataclasses import dataclass
from typing import Final, cast

from tests.bench.sockets import address as address_of

ANSWER_S: Final = 20.0
"""Time after which a call without a response fails."""
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: (\d+)")
_RETRY_AFTER = re.compile(rb"(?i)\r\nretry-after: (\d+)")


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. ``retry_after_s``: None without the header."""

    status: int
    body: bytes
    retry_after_s: int | None = None

    @property
    def document(self) -> dict[str, object]:
        """The body as JSON."""
        found: dict[str, object] = json.loads(self.body)
        return found


class CallConnection(asyncio.Protocol):
    """One connection. ``answer`` is the future of the current call."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Answer] | None = None
        self.is_open = True
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # that of uvloop is not a subclass

    def data_received(self, data: bytes) -> None:
        """Complete the call if its response is complete."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or len(body) < (int(length[1]) if length else 0) or self.answer is None:
            return
        self._received = b""
        wait = _RETRY_AFTER.search(head)
        answer = Answer(int(head[9:12]), body, int(wait[1]) if wait else None)
        if b"\r\nconnection: close" in head.lower():
            self.close()
        if not self.answer.done():
            self.answer.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the call."""
        self.is_open = False
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionError("the connection ended without a response"))

    def send(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a request; the future gets its response, or ``ConnectionError``."""
        self.answer = asyncio.get_running_loop().create_future()
        assert self._transport is not None
        self._transport.write(request)
        return self.answer

    def close(self) -> None:
        """Close the connection."""
        self.is_open = False
        if self._transport is not None:
            self._transport.close()


class HttpCalls:
    """Calls of one server, as many at a time as are asked for."""

    def __init__(self, url: str, key: str, tls: ssl.SSLContext | None = None, address: str | None = None) -> None:
        self._place = address_of(url)
        self._fields = f"Host: bench\r\nAuthorization: Bearer {key}\r\n"
        self._tls = tls if url.startswith("https:") else None
        self._address = address
        self._idle: list[CallConnection] = []

    async def call(self, method: str, path: str, body: bytes = b"") -> Answer:
        """Return the response. Raises ``OSError`` if the connection ends before it, or after ``ANSWER_S``."""
        connection = await self._connection()
        length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        request = f"{method} {path} HTTP/1.1\r\n{self._fields}{length}\r\n".encode() + body
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await connection.send(request)
        except OSError:
            connection.close()
            raise
        self._idle.append(connection)
        return answer

    def close(self) -> None:
        """Close all connections."""
        for connection in self._idle:
            connection.close()

    async def _connection(self) -> CallConnection:
        while self._idle:
            if (connection := self._idle.pop()).is_open:
                return connection
        local = None if self._address is None else (self._address, 0)
        _, made = await asyncio.get_running_loop().create_connection(
            CallConnection, *self._place, ssl=self._tls, local_addr=local
        )
        return made
