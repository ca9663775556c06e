"""Responses of hostile receivers: how much of one is read, and what other tasks of the process wait for it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpcore
import pytest
from anyio.abc import ByteStream, SocketAttribute
from httpcore._backends.anyio import AnyIOStream

from gregor.net.outgoing.bounded_streams import (
    MAX_HANDSHAKE_WORK,
    MAX_RESPONSE_WORK,
    MAX_TLS_WORK,
    READ_BYTES,
    READ_WORK,
    ResponseLimitExceeded,
)
from gregor.net.outgoing.handshakes import HANDSHAKE_READ_BYTES, HOST_THREADS
from gregor_delivery.channels.http_pool import MAX_RESPONSE_BYTES, HttpExchange, HttpPool
from tests.support.certificates import write_certificate
from tests.support.wait import wait_until

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


class TlsReceiver(ByteStream):
    """The encrypted side of a receiver with TLS: each read returns as many of its bytes as the client asks for.

    `reads`: the bytes of each read. `flood`: bytes that a receiver without TLS sends without end instead.
    """

    def __init__(self, context: ssl.SSLContext, response: bytes, flood: bytes = b"") -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._response, self._flood = response, cycle(flood)
        self.reads: list[int] = []
        self._sockets = socket.socketpair()  # httpcore closes a kept connection whose socket is readable

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        data = bytes(islice(self._flood, max_bytes)) or self._out.read(max_bytes)
        assert data, "the receiver has nothing to send"
        self.reads.append(len(data))
        await asyncio.sleep(0)
        return data

    async def send(self, item: bytes) -> None:
        self._in.write(item)
        with suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
            request = self._tls.read()
            if request.endswith(b"{}"):
                self._tls.write(self._response)

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        for each in self._sockets:
            each.close()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {SocketAttribute.raw_socket: lambda: self._sockets[0]}


class TlsBackend(httpcore.AnyIOBackend):
    """Connects to one receiver, as to any other."""

    def __init__(self, receiver: TlsReceiver) -> None:
        self._receiver = receiver

    async def connect_tcp(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        return AnyIOStream(self._receiver)


class NewReceivers(httpcore.AnyIOBackend):
    """Connects to a new receiver each time, which answers 204."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    async def connect_tcp(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        return AnyIOStream(TlsReceiver(self._context, b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"))


async def call(pool: HttpPool, host: str) -> HttpExchange:
    exchange = HttpExchange()
    await pool.post(f"https://{host}/", [("Host", host)], b"{}", exchange)
    return exchange


@dataclass
class TlsHarness:
    """Contexts of a receiver and its client."""

    server: ssl.SSLContext
    client: ssl.SSLContext

    def show_chain(self, directory: Path, length: int) -> None:
        """Let the receiver show a chain of so many certificates, with 0.4 KB each."""
        pem = (directory / "certificate.pem").read_text()
        chain = directory / "chain.pem"
        chain.write_text(pem + pem[pem.index("-----BEGIN CERTIFICATE") :] * (length - 1))
        self.server.load_cert_chain(chain)

    async def ask(self, receiver: TlsReceiver, requests: int = 1) -> HttpExchange:
        pool = HttpPool(1, self.client, TlsBackend(receiver))
        try:
            for _ in range(requests):
                exchange = HttpExchange()
                await pool.post("https://127.0.0.1/", [("Host", "receiver")], b"{}", exchange)
        finally:
            await pool.close()
        return exchange


@pytest.fixture
def tls(tmp_path: Path) -> TlsHarness:
    certificate = write_certificate(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    return TlsHarness(server, ssl.create_default_context(cafile=str(certificate)))


async def test_session_tickets_before_a_response_are_bounded_and_read_in_parts(tls: TlsHarness) -> None:
    tls.server.num_tickets = 3_000
    receiver = TlsReceiver(tls.server, b"HTTP/1.1 204 No Content\r\n\r\n")

    with pytest.raises(ResponseLimitExceeded):
        await tls.ask(receiver)

    assert max(receiver.reads[1:]) <= READ_BYTES  # the first is of the handshake
    assert sum(receiver.reads) <= 2 * MAX_TLS_WORK  # those of the handshake, and those of the response


async def test_endless_handshake_is_bounded_and_read_in_parts(tls: TlsHarness) -> None:
    # OpenSSL skips each HelloRequest during a handshake: here, 4,096 in a record.
    receiver = TlsReceiver(tls.server, b"", b"\x16\x03\x03\x40\x00" + b"\x00" * 16_384)

    with pytest.raises(ResponseLimitExceeded):
        async with asyncio.timeout(30):
            await tls.ask(receiver)

    assert max(receiver.reads) <= HANDSHAKE_READ_BYTES
    assert sum(receiver.reads) <= MAX_HANDSHAKE_WORK


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_long_certificate_chain_and_the_longest_responses_are_read(
    version: ssl.TLSVersion, tls: TlsHarness, tmp_path: Path
) -> None:
    tls.show_chain(tmp_path, 30)
    tls.server.maximum_version = version
    head = b"HTTP/1.1 200 OK\r\nX: " + b"v" * 30_000 + b"\r\nContent-Length: %d\r\n\r\n" % MAX_RESPONSE_BYTES
    receiver = TlsReceiver(tls.server, head + b"y" * MAX_RESPONSE_BYTES)

    exchange = await tls.ask(receiver, requests=5)

    assert (exchange.status, len(exchange.body)) == (200, MAX_RESPONSE_BYTES)
    assert sum(receiver.reads) > 5 * (30_000 + MAX_RESPONSE_BYTES) + 10_000


async def test_longer_certificate_chain_is_refused_before_openssl_parses_it(tls: TlsHarness, tmp_path: Path) -> None:
    tls.show_chain(tmp_path, 50)
    receiver = TlsReceiver(tls.server, b"")

    with pytest.raises(ResponseLimitExceeded):
        await tls.ask(receiver)

    assert sum(receiver.reads) <= MAX_HANDSHAKE_WORK


async def test_handshake_runs_in_a_thread_while_the_event_loop_goes_on(tls: TlsHarness) -> None:
    threads: list[int] = []

    class Recorder(ssl.SSLObject):
        def do_handshake(self) -> None:
            threads.append(threading.get_ident())
            super().do_handshake()

    tls.client.sslobject_class = Recorder

    exchange = await tls.ask(TlsReceiver(tls.server, b"HTTP/1.1 204 No Content\r\n\r\n"))

    assert exchange.status == 204
    # The first step sends, and processes no bytes of the server.
    assert threads[1:] and threading.get_ident() not in threads[1:]


async def test_handshakes_of_a_host_occupy_one_thread_even_if_cancelled(tls: TlsHarness) -> None:
    pool = HttpPool(HOST_THREADS + 4, tls.client, NewReceivers(tls.server))
    await call(pool, "127.0.0.1")  # Proven hosts have more than one thread.
    slow: list[ssl.SSLObject] = []
    may_end = threading.Event()

    class Slow(ssl.SSLObject):
        def do_handshake(self) -> None:
            if threading.current_thread() is not threading.main_thread() and self.server_hostname == "127.0.0.1":
                slow.append(self)
                may_end.wait(30)
            super().do_handshake()

    tls.client.sslobject_class = Slow
    calls = [asyncio.create_task(call(pool, "127.0.0.1")) for _ in range(HOST_THREADS + 2)]
    try:
        await wait_until(lambda: len(slow) == HOST_THREADS, "handshakes in threads")
        for each in calls:
            each.cancel()
        await asyncio.wait(calls)
        calls.append(asyncio.create_task(call(pool, "127.0.0.1")))
        with pytest.raises(httpcore.ConnectError, match="mismatch"):  # the handshake of another host ends
            await call(pool, "localhost")
        assert len(slow) == HOST_THREADS
    finally:
        may_end.set()
    assert (await calls[-1]).status == 204
    await pool.close()


async def test_failed_handshake_is_a_connect_error_and_closes_the_connection(tls: TlsHarness) -> None:
    receiver = TlsReceiver(tls.server, b"")

    with pytest.raises(httpcore.ConnectError, match="certificate verify failed"):
        await TlsHarness(tls.server, ssl.create_default_context()).ask(receiver)

    assert receiver.extra_attributes[SocketAttribute.raw_socket]().fileno() == -1
