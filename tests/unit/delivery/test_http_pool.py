"""The pool of HTTP connections: kept while they are good, one request at a time, none of them by another's fault."""

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
class World:
    """A server with what it answers first, and a pool of two connections."""

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
async def world() -> AsyncIterator[World]:
    world = World()
    await world.server.start()
    yield world
    await world.pool.close()
    await world.server.close()


async def test_connection_is_reused(world: World) -> None:
    found = [await world.post() for _ in range(5)]

    assert {(each.status, each.retry_after, each.body) for each in found} == {(200, "7", b"taken")}
    assert world.server.connections == 1


async def test_concurrency_limit(world: World) -> None:
    world.answers.extend([ServerFault.HANG] * 2)
    hanging = [asyncio.create_task(world.post()) for _ in range(2)]
    await wait_until(lambda: world.asked == 2, "both hang")
    waiting = asyncio.create_task(world.post())
    await asyncio.wait({waiting}, timeout=0.2)
    assert not waiting.done() and world.server.connections == 2

    for each in hanging:
        each.cancel()
    assert (await waiting).status == 200
    assert world.asked == 3


async def test_cancelled_request_closes_its_connection(world: World) -> None:
    await asyncio.gather(world.post(), world.post())
    world.answers.append(ServerFault.HANG)
    hanging = asyncio.create_task(world.post())
    await wait_until(lambda: world.asked == 3, "it hangs")
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)

    assert (await world.post()).status == 200
    assert world.server.connections == 2
    await asyncio.gather(world.post(), world.post())
    assert world.server.connections == 3


async def test_sent_request_is_reported_without_response(world: World) -> None:
    world.answers.append(ServerFault.DROP)
    exchange, nobody = HttpExchange(), HttpExchange()

    with pytest.raises(httpcore.RemoteProtocolError):
        await world.pool.post(world.server.url, [], b"", exchange)
    with pytest.raises(httpcore.ConnectError):
        await world.pool.post("http://127.0.0.1:1/", [], b"", nobody)

    assert (exchange.was_sent, exchange.status) == (True, None)
    assert not nobody.was_sent


async def test_closed_connection_is_not_reused(world: World) -> None:
    await world.post()
    world.server.drop_all()
    await wait_until(lambda: world.server.open == 0, "it is closed")

    assert (await world.post()).status == 200
    assert world.server.connections == 2


async def test_long_response_closes_the_connection(world: World) -> None:
    world.answers.append(FakeResponse(200, b"x" * (40 * MAX_RESPONSE_BYTES)))

    exchange = await world.post()

    assert exchange.status == 200
    assert MAX_RESPONSE_BYTES < len(exchange.body) < 20 * MAX_RESPONSE_BYTES
    await world.post()
    assert world.server.connections == 2


async def test_idle_connections_are_bounded(world: World) -> None:
    others = [Http1Server(lambda _: FakeResponse()) for _ in range(4)]
    for other in others:
        await other.start()
        await world.post(other)

    await wait_until(lambda: sum(other.open for other in others) == 2, "as many are kept as there are places")
    for other in others:
        await other.close()


async def test_close_waits_for_requests_in_flight(world: World) -> None:
    world.answers.append(FakeResponse(200, delay_s=0.3))
    sending = asyncio.create_task(world.post())
    await wait_until(lambda: world.asked == 1, "it is under way")

    await world.pool.close()

    assert sending.done() and sending.result().status == 200
    await wait_until(lambda: world.server.open == 0, "no connection is left")
