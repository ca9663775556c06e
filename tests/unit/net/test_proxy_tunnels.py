"""HTTPS requests through a forward proxy: failed tunnels, and connections that are kept."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self

import httpx
import pytest

from gregor.blocking_http import blocking_client
from gregor.dev.fakes.http1 import FakeRequest, FakeResponse, Http1Server
from gregor.net.outgoing.http_clients import async_client, bounded_client
from tests.support.certificates import write_certificate
from tests.support.wait import wait_until

CONNECTIONS = 2
LIMITS = httpx.Limits(max_connections=CONNECTIONS)
TIMEOUT = httpx.Timeout(20, pool=2)


class ForwardProxy:
    """Answers CONNECT with 200. Then it is a tunnel to `port`, silent, or closes the connection."""

    def __init__(self, port: int, tls: ssl.SSLContext | None) -> None:
        self.mode: Literal["tunnel", "silent", "close"] = "tunnel"
        self.connects, self.open = 0, 0
        self._port, self._tls = port, tls
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            self.connects += 1
            if self.mode == "tunnel":
                target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._port)
                await asyncio.gather(_copy(reader, target_writer), _copy(target_reader, writer))
            elif self.mode == "silent":
                await _copy(reader, None)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            if writer is not None:
                writer.write(data)
    if writer is not None:
        writer.close()


class TunnelHarness:
    """A server with TLS, and a proxy in front of it."""

    def __init__(self, server: Http1Server, proxy: ForwardProxy, trust: ssl.SSLContext) -> None:
        self.server, self.proxy, self._trust = server, proxy, trust

    def options(self) -> dict[str, Any]:
        """Return the options of a client that uses the proxy."""
        context = self._trust if self.proxy.url.startswith("https") else None
        return {"proxy": httpx.Proxy(self.proxy.url, ssl_context=context), "limits": LIMITS, "timeout": TIMEOUT}


@pytest.fixture(params=["http", "https"])
async def harness(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[TunnelHarness]:
    certificate = write_certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    def answer(_: FakeRequest) -> FakeResponse:
        return FakeResponse(200, b"taken")

    server = Http1Server(answer, tls)
    await server.start()
    async with ForwardProxy(server.port, tls if request.param == "https" else None) as proxy:
        yield TunnelHarness(server, proxy, ssl.create_default_context(cafile=certificate))
    await server.close()


ASYNCIO_CLIENTS = pytest.mark.parametrize("make", [async_client, bounded_client], ids=["asyncio", "bounded"])


@ASYNCIO_CLIENTS
@pytest.mark.parametrize("mode", ["close", "silent"])
async def test_failed_tunnels_keep_no_places(
    harness: TunnelHarness, make: Callable[..., httpx.AsyncClient], mode: Literal["close", "silent"]
) -> None:
    async with make(**harness.options()) as client:
        harness.proxy.mode = mode
        for _ in range(CONNECTIONS + 1):
            with pytest.raises((httpx.ConnectError, httpx.ConnectTimeout)):
                await client.get(harness.server.url, timeout=httpx.Timeout(2, connect=0.1))
        await wait_until(lambda: harness.proxy.open == 0, "the failed tunnels are closed")
        harness.proxy.mode = "tunnel"

        assert (await client.get(harness.server.url)).content == b"taken"


@ASYNCIO_CLIENTS
async def test_cancelled_tunnels_keep_no_places(harness: TunnelHarness, make: Callable[..., httpx.AsyncClient]) -> None:
    async with make(**harness.options()) as client:
        harness.proxy.mode = "silent"
        for number in range(CONNECTIONS + 1):
            task = asyncio.create_task(client.get(harness.server.url))
            await wait_until(lambda number=number: harness.proxy.connects > number, "TLS has begun")
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
        await wait_until(lambda: harness.proxy.open == 0, "the cancelled tunnels are closed")
        harness.proxy.mode = "tunnel"

        assert (await client.get(harness.server.url)).content == b"taken"


@ASYNCIO_CLIENTS
async def test_request_that_waits_gets_the_place_of_a_failed_tunnel(
    harness: TunnelHarness, make: Callable[..., httpx.AsyncClient]
) -> None:
    async with make(**harness.options()) as client:
        harness.proxy.mode = "silent"
        failing = [asyncio.create_task(client.get(harness.server.url)) for _ in range(CONNECTIONS)]
        await wait_until(lambda: harness.proxy.connects == CONNECTIONS, "all places are in use")
        harness.proxy.mode = "tunnel"
        waiting = asyncio.create_task(client.get(harness.server.url))
        for task in failing:
            task.cancel()

        assert (await waiting).content == b"taken"


@pytest.mark.parametrize("mode", ["close", "silent"])
async def test_failed_tunnels_of_a_blocking_client_keep_no_places(
    harness: TunnelHarness, mode: Literal["close", "silent"]
) -> None:
    with blocking_client(**harness.options()) as client:
        harness.proxy.mode = mode
        for _ in range(CONNECTIONS + 1):
            with pytest.raises((httpx.ConnectError, httpx.ConnectTimeout)):
                await asyncio.to_thread(client.get, harness.server.url, timeout=httpx.Timeout(2, connect=0.1))
        await wait_until(lambda: harness.proxy.open == 0, "the failed tunnels are closed")
        harness.proxy.mode = "tunnel"

        assert (await asyncio.to_thread(client.get, harness.server.url)).content == b"taken"


async def test_kept_tunnel_serves_any_number_of_requests(harness: TunnelHarness) -> None:
    async with bounded_client(**harness.options()) as client:
        for _ in range(800):
            assert (await client.get(harness.server.url)).content == b"taken"

    assert harness.proxy.connects == 1
