"""Responses of hostile receivers: how much of one is read, and what other tasks of the process wait for it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import httpcore
import pytest

from gregor_delivery.channels.bounded_streams import MAX_RESPONSE_WORK, READ_BYTES, READ_WORK, ResponseLimitExceeded
from gregor_delivery.channels.http_pool import MAX_RESPONSE_BYTES, HttpExchange, HttpPool

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BEFORE_STATUS = {
    "continue": b"HTTP/1.1 100 \r\n\r\n" * 30_000,
    "early hints": (b"HTTP/1.1 103 \r\n" + b"a: b\r\n" * 90 + b"\r\n") * 1_000,
    "headers": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + b"a: b\r\n" * 15_000 + b"\r\n",
    "header": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\na: " + b"b" * 90_000 + b"\r\n\r\n",
}
AFTER_STATUS = {
    "chunks": CHUNKED + b"1\r\na\r\n" * 16_000 + b"0\r\n\r\n",
    "trailers": CHUNKED + b"0\r\n" + b"a: b\r\n" * 15_000 + b"\r\n",
    "body": b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + b"a" * 900_000,
}


@dataclass
class Receiver(httpcore.AsyncNetworkBackend, httpcore.AsyncNetworkStream):
    """A receiver whose response has arrived: no read waits, as in a TLS stream with decrypted bytes.

    `shares`: the bytes that were read in each turn of the event loop. `part`: the longest part that one read returns.
    """

    response: bytes
    part: int = 65_536
    shares: list[int] = field(default_factory=lambda: [0])
    connections: int = 0
    _rest: bytes = b""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.connections += 1
        return self

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return self

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        length = min(max_bytes, self.part)
        data, self._rest = self._rest[:length], self._rest[length:]
        self.shares[-1] += len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._rest = self.response

    async def aclose(self) -> None:
        self._rest = b""

    def get_extra_info(self, info: str) -> Any:
        return None

    async def count_turns(self) -> None:
        """Begin a share in each turn of the event loop, as a timer of another task would run in each."""
        while True:
            await asyncio.sleep(0)
            self.shares.append(0)


async def ask(receiver: Receiver, pool: HttpPool | None = None, url: str = "http://receiver/") -> HttpExchange:
    """Send a request to the receiver; updates its `shares`."""
    exchange, turns = HttpExchange(), asyncio.create_task(receiver.count_turns())
    try:
        await (pool or HttpPool(1, backend=receiver)).post(url, [("Host", "receiver")], b"{}", exchange)
    finally:
        turns.cancel()
    return exchange


@pytest.mark.parametrize("url", ["http://receiver/", "https://receiver/"])
@pytest.mark.parametrize("kind", list(BEFORE_STATUS))
async def test_long_response_before_its_status_fails_and_other_tasks_run_between_its_parts(kind: str, url: str) -> None:
    receiver = Receiver(BEFORE_STATUS[kind])

    with pytest.raises(ResponseLimitExceeded):
        await ask(receiver, url=url)

    assert max(receiver.shares) <= READ_BYTES
    assert sum(receiver.shares) <= MAX_RESPONSE_WORK


@pytest.mark.parametrize("kind", list(AFTER_STATUS))
async def test_long_response_after_its_status_is_left_and_its_connection_closed(kind: str) -> None:
    receiver = Receiver(AFTER_STATUS[kind])
    pool = HttpPool(1, backend=receiver)

    exchange = await ask(receiver, pool)

    assert exchange.status == 200
    assert max(receiver.shares) <= READ_BYTES
    assert sum(receiver.shares) <= MAX_RESPONSE_WORK
    await ask(receiver, pool)
    assert receiver.connections == 2


@pytest.mark.parametrize("kind", ["continue", "early hints", "headers"])
async def test_response_of_short_lines_ends_after_few_of_them(kind: str) -> None:
    receiver = Receiver(BEFORE_STATUS[kind])

    with pytest.raises(ResponseLimitExceeded):
        await ask(receiver)

    assert sum(receiver.shares) <= MAX_RESPONSE_WORK / 16


async def test_few_of_many_chunks_are_read() -> None:
    receiver = Receiver(AFTER_STATUS["chunks"])

    exchange = await ask(receiver)

    assert (exchange.status, len(exchange.body) < 300) == (200, True)


async def test_response_in_single_bytes_ends_after_few_reads() -> None:
    receiver = Receiver(b"HTTP/1.1 200 OK\r\na: " + b"b" * 90_000, part=1)

    with pytest.raises(ResponseLimitExceeded):
        await ask(receiver)

    assert sum(receiver.shares) <= MAX_RESPONSE_WORK / READ_WORK


async def test_longest_response_of_a_provider_is_read_and_its_connection_kept() -> None:
    head = b"HTTP/1.1 400 Bad Request\r\n" + b"".join(b"X-%d: %s\r\n" % (at, b"v" * 60) for at in range(40))
    body = (b'{"error":"' + b"x" * 150 + b'"}\n') * 60
    body += b"y" * (MAX_RESPONSE_BYTES - len(body))
    receiver = Receiver(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    pool = HttpPool(1, backend=receiver)

    for _ in range(3):
        exchange = await ask(receiver, pool)

        assert (exchange.status, exchange.body) == (400, body)
    assert receiver.connections == 1


async def test_status_with_a_body_of_many_short_lines_is_read() -> None:
    body = b"1\n" * 450
    receiver = Receiver(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + body)

    assert (await ask(receiver)).status == 200
