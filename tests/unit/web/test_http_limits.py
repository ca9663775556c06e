"""The HTTP servers bound what a client may cost before it has said anything: in bytes, in time, in silence."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from gregor.web.http_limits import HEAD_S, MOST_HEAD_BYTES, SILENCE_S, LimitedHttpProtocol
from gregor.web.serving import EmbeddedServer, make_server
from tests.support.wait import wait_until

HEAD = b"GET /quick HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /quick HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"


@dataclass
class Site:
    """A server of an application that echoes; `/early` answers without reading, `/half` begins and waits."""

    server: EmbeddedServer
    port: int = 0

    async def dial(self, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        await wait_until(lambda: self.connections, "the connection")
        return reader, writer

    async def said(self, data: bytes) -> bytes:
        """All that comes until the server closes."""
        reader, writer = await self.dial(data)
        async with asyncio.timeout(10):
            heard = await reader.read()
        writer.close()
        return heard

    @property
    def connections(self) -> list[LimitedHttpProtocol]:
        return [each for each in self.server.server_state.connections if isinstance(each, LimitedHttpProtocol)]

    def look(self, later_s: float) -> None:
        """What the server would do so much later, if nothing came."""
        for connection in self.connections:
            connection.look(asyncio.get_running_loop().time() + later_s)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body, more = b"", scope["path"] != "/early"
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    if scope["path"] == "/half":
        await send(start)
    while more:
        event = await receive()
        body += event.get("body", b"")
        more = event["type"] == "http.request" and event["more_body"]
    if scope["path"] != "/half":
        await send(start)
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def serving(application: ASGIApp) -> AsyncIterator[Site]:
    server = make_server(application, "127.0.0.1", 0, 1, has_lifespan=False)
    listening = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield Site(server, listening.getsockname()[1])
    finally:
        server.should_exit = True
        await task
        listening.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with serving(echo) as site:
        yield site


def refusal(heard: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = heard.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"x: " + b"a" * (MOST_HEAD_BYTES + 300_000),
        HEAD + b"x: y\r\n" * (MOST_HEAD_BYTES // 4) + b"\r\n",
        b"GET /" + b"a" * MOST_HEAD_BYTES + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=["never ends", "many", "target"],
)
async def test_a_head_that_is_too_large_is_refused_before_it_is_whole(site: Site, data: bytes) -> None:
    status, document = refusal(await site.said(data))

    assert (status, document["status"], document["code"]) == (431, 431, "invalid")


async def test_a_large_body_is_no_head(site: Site) -> None:
    size = 4 * MOST_HEAD_BYTES
    post = b"POST /quick HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
    reader, writer = await site.dial((post + b"a" * size) * 3 + HEAD + b"Connection: close\r\n\r\n")
    async with asyncio.timeout(10):
        heard = await reader.read()
    writer.close()

    assert heard.count(b"200 OK") == 4


@pytest.mark.parametrize("data", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", HEAD + b"Host: b\r\n\r\n"])
async def test_what_is_no_request_is_a_problem(site: Site, data: bytes) -> None:
    assert refusal(await site.said(data))[0] == 400


async def test_unknown_method_is_501(site: Site) -> None:
    assert refusal(await site.said(b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 501
    assert refusal(await site.said(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS\r\n\r\n"))[0] == 400


async def test_who_says_nothing_or_half_a_head_is_sent_away_in_time(site: Site) -> None:
    silent, silent_writer = await site.dial(b"")
    half, half_writer = await site.dial(HEAD)
    await wait_until(lambda: [each for each in site.connections if each._head_bytes], "the half")

    site.look(HEAD_S - 1)
    assert not any(each.transport.is_closing() for each in site.connections)
    site.look(HEAD_S + 1)

    async with asyncio.timeout(10):
        assert await silent.read() == b""
        assert refusal(await half.read())[0] == 408
    silent_writer.close()
    half_writer.close()


async def test_a_body_that_stands_still_is_given_up(site: Site) -> None:
    reader, writer = await site.dial(POST + b"half")
    await wait_until(lambda: [each for each in site.connections if each.cycle], "the request")

    site.look(SILENCE_S - 1)
    assert not any(each.transport.is_closing() for each in site.connections)
    site.look(SILENCE_S + 1)

    async with asyncio.timeout(10):
        assert refusal(await reader.read())[0] == 408
    writer.close()


@pytest.mark.parametrize("path", [b"/early", b"/half"])
async def test_an_answer_that_is_out_is_not_spoiled_by_another(site: Site, path: bytes) -> None:
    reader, writer = await site.dial(POST.replace(b"/quick", path) + b"half")
    async with asyncio.timeout(10):
        heard = await reader.readuntil(b"\r\n\r\n")
        site.look(SILENCE_S + 1)
        with contextlib.suppress(ConnectionError):
            heard += await reader.read()
    writer.close()

    assert heard.count(b"HTTP/1.1") == 1


async def test_who_waits_for_an_answer_or_between_requests_is_let_be(site: Site) -> None:
    reader, writer = await site.dial(HEAD + b"\r\n")
    async with asyncio.timeout(10):
        await reader.readuntil(b"ok")
        site.look(1_000)
        writer.write(HEAD + b"Connection: close\r\n\r\n")
        heard = await reader.read()
    writer.close()

    assert heard.endswith(b"ok")


async def test_who_is_answered_without_end_is_missed_though_more_was_asked(caplog: pytest.LogCaptureFixture) -> None:
    is_over = asyncio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        leaving = asyncio.create_task(_until_gone(receive))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not leaving.done():
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.sleep(0)
        is_over.set()

    async with serving(endless) as site:
        reader, writer = await site.dial((HEAD + b"\r\n") * 2)
        await reader.readuntil(b"x")
        writer.transport.abort()
        await wait_until(is_over.is_set, "the answer is given up")

    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
