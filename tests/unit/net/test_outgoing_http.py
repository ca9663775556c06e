"""HTTP clients: cookies of a hostile server, and places of cancelled requests."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from gregor.blocking_http import blocking_client
from gregor.dev.fakes.http1 import FakeRequest, FakeResponse, Http1Server, ServerFault
from gregor.net.outgoing.http_clients import async_client
from tests.support.wait import wait_until

HEADERS = {"Set-Cookie": "a=1", "Set-Cookie2": "b=1; Version=1"}


@pytest.mark.parametrize("is_blocking", [False, True], ids=["asyncio", "blocking"])
async def test_clients_keep_no_cookies(is_blocking: bool) -> None:
    requests: list[FakeRequest] = []

    def answer(request: FakeRequest) -> FakeResponse:
        requests.append(request)
        return FakeResponse(200, headers=HEADERS)

    server = Http1Server(answer)
    await server.start()
    if is_blocking:
        with blocking_client() as http:
            for _ in range(2):
                await asyncio.to_thread(http.get, server.url)
    else:
        async with async_client() as client:
            for _ in range(2):
                await client.get(server.url)
    await server.close()

    assert ["cookie" in request.headers for request in requests] == [False, False]


async def test_cookies_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser takes quadratic time: 0.56 s for one header of 90 KB."""
    parsed: list[object] = []
    monkeypatch.setattr("http.cookiejar.parse_ns_headers", parsed.append)
    monkeypatch.setattr("http.cookiejar.split_header_words", parsed.append)
    server = Http1Server(lambda _: FakeResponse(200, headers=HEADERS))
    await server.start()
    async with async_client() as client:
        response = await client.get(server.url)
    await server.close()

    assert (response.status_code, parsed) == (200, [])


async def test_request_that_is_cancelled_when_it_gets_a_connection_keeps_no_place() -> None:
    answers: list[FakeResponse | ServerFault] = [ServerFault.HANG, FakeResponse(200)]
    server = Http1Server(lambda _: answers[0])
    await server.start()
    async with async_client(limits=httpx.Limits(max_connections=1), timeout=httpx.Timeout(20, pool=2)) as client:
        sent = asyncio.create_task(client.get(server.url))
        await wait_until(lambda: server.connections == 1, "the only place is in use")
        waiting = asyncio.create_task(client.get(server.url))
        transport: Any = client._transport
        await wait_until(lambda: len(transport._pool._requests) == 2, "the other request waits for the place")
        second = transport._pool._requests[1]
        sent.cancel()
        while second.connection is None:
            await asyncio.sleep(0)  # sees the new connection in the iteration in which the pool assigns it
        waiting.cancel()
        await asyncio.wait({sent, waiting})
        del answers[0]

        response = await client.get(server.url)
    await server.close()

    assert (response.status_code, server.connections) == (200, 2)
