"""HTTP clients: cookies of a hostile server."""

from __future__ import annotations

import asyncio

import pytest

from gregor.blocking_http import blocking_client
from gregor.dev.fakes.http1 import FakeRequest, FakeResponse, Http1Server
from gregor.net.outgoing.http_clients import async_client

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
