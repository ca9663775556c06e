"""The HTTP connection pool: reuse, limits and isolation of requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpcore
import pytest

from gregor.dev.fakes.http1 import FakeRequest, FakeResponse, Http1Server, ServerFault
from gregor_delivery.channels.http_pool import MAX_RESPONSE_BYTES, HttpExchange, HttpPool
from tests.support.wait import wait_until


@dataclass
class PoolHarness:
    """A server with scripted responses, and a pool of two connections."""

    answers: deque[FakeResponse | ServerFault] = field(default_factory=deque)
    asked: int = 0
    server: Http1Server = field(init=False)
    pool: HttpPool = field(default_factory=lambda: HttpPool(2))

    def __post_init__(self) -> None:
        self.server = Http1Server(self._handle)

    async def post(self, to: Http1Server | None = None) -> HttpExchange:
        exchange = HttpExchange()
        await self.pool.post(f"{(to or self.server).url}/push", [("User-Agent", "gregor")], b"{}", exchange)
        return exchange

    def _handle(self, request: FakeRequest) -> FakeResponse | ServerFault:
        self.asked += 1
        return self.answers.popleft() if self.answers else FakeResponse(200, b"taken", {"retry-after": "7"})


@pytest.fixture
async def harness() -> AsyncIterator[PoolHarness]:
    harness = PoolHarness()
    await harness.server.start()
    yield harness
    await harness.pool.close()
    await harness.server.close()


async def test_connection_is_reused(harness: PoolHarness) -> None:
    found = [await harness.post() for _ in range(5)]

    assert {(each.status, each.retry_after, each.body) for each in found} == {(200, "7", b"taken")}
    assert harness.server.connections == 1


async def test_proxies_of_the_environment_are_ignored(harness: PoolHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)

    assert (await harness.post()).status == 200
    assert harness.server.connections == 1


async def test_concurrency_limit(harness: PoolHarness) -> None:
    harness.answers.extend([ServerFault.HANG] * 2)
    hanging = [asyncio.create_task(harness.post()) for _ in range(2)]
    await wait_until(lambda: harness.asked == 2, "both hang")
    waiting = asyncio.create_task(harness.post())
    await asyncio.wait({waiting}, timeout=0.2)
    assert not waiting.done() and harness.server.connections == 2

    for each in hanging:
        each.cancel()
    assert (await waiting).status == 200
    assert harness.asked == 3


async def test_cancelled_request_closes_its_connection(harness: PoolHarness) -> None:
    await asyncio.gather(harness.post(), harness.post())
    harness.answers.append(ServerFault.HANG)
    hanging = asyncio.create_task(harness.post())
    await wait_until(lambda: harness.asked == 3, "it hangs")
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)

    assert (await harness.post()).status == 200
    assert harness.server.connections == 2
    await asyncio.gather(harness.post(), harness.post())
    assert harness.server.connections == 3


async def test_sent_request_is_reported_without_response(harness: PoolHarness) -> None:
    harness.answers.append(ServerFault.DROP)
    exchange, nobody = HttpExchange(), HttpExchange()

    with pytest.raises(httpcore.RemoteProtocolError):
        await harness.pool.post(harness.server.url, [], b"", exchange)
    with pytest.raises(httpcore.ConnectError):
        await harness.pool.post("http://127.0.0.1:1/", [], b"", nobody)

    assert (exchange.was_sent, exchange.status) == (True, None)
    assert not nobody.was_sent


async def test_closed_connection_is_not_reused(harness: PoolHarness) -> None:
    await harness.post()
    harness.server.drop_all()
    await wait_until(lambda: harness.server.open == 0, "it is closed")

    assert (await harness.post()).status == 200
    assert harness.server.connections == 2


@pytest.mark.parametrize(
    "first",
    [
        FakeResponse(204, b"a body, which a 204 cannot have"),
        FakeResponse(200, FakeResponse(410).as_bytes(), {"content-length": "0"}),
    ],
    ids=["body of a 204", "second response"],
)
async def test_bytes_after_a_response_are_not_the_next_response(harness: PoolHarness, first: FakeResponse) -> None:
    harness.answers.append(first)
    await harness.post()

    exchange = await harness.post()

    assert (exchange.status, exchange.body) == (200, b"taken")
    assert harness.server.connections == 2
    await wait_until(lambda: harness.server.open == 1, "the first connection is closed")


async def test_long_response_closes_the_connection(harness: PoolHarness) -> None:
    harness.answers.append(FakeResponse(200, b"x" * (40 * MAX_RESPONSE_BYTES)))

    exchange = await harness.post()

    assert exchange.status == 200
    assert MAX_RESPONSE_BYTES < len(exchange.body) < 20 * MAX_RESPONSE_BYTES
    await harness.post()
    assert harness.server.connections == 2


async def test_idle_connections_are_bounded(harness: PoolHarness) -> None:
    others = [Http1Server(lambda _: FakeResponse()) for _ in range(4)]
    for other in others:
        await other.start()
        await harness.post(other)

    await wait_until(lambda: sum(other.open for other in others) == 2, "as many are kept as there are places")
    for other in others:
        await other.close()


async def test_close_waits_for_requests_in_flight(harness: PoolHarness) -> None:
    harness.answers.append(FakeResponse(200, delay_s=0.3))
    sending = asyncio.create_task(harness.post())
    await wait_until(lambda: harness.asked == 1, "it is under way")

    await harness.pool.close()

    assert sending.done() and sending.result().status == 200
    await wait_until(lambda: harness.server.open == 0, "no connection is left")
