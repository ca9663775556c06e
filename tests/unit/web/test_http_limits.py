"""Limits of HTTP connections: heads, bodies, pipelined requests, unread responses; listening sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import struct
import tracemalloc
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gregor.core.ids import MAX_DOTTED_LENGTH, MAX_FILTER_PREFIXES
from gregor.web import http_limits
from gregor.web.http_limits import (
    BODY_GRACE_S,
    BODY_TIMEOUT_S,
    FREE_CHUNKS,
    HEAD_TIMEOUT_S,
    MAX_BETWEEN_BYTES,
    MAX_ESCAPES,
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    MAX_LENGTH_DIGITS,
    MAX_PATH_BYTES,
    MAX_PIPELINED,
    MAX_QUERY_BYTES,
    MAX_QUERY_PARAMETERS,
    MIN_BODY_RATE,
    MIN_CHUNK_BYTES,
    MIN_READ_RATE,
    UNREAD_BODY_S,
    WRITE_TIMEOUT_S,
    LimitedHttpProtocol,
)
from gregor.web.serving import KEEP_ALIVE_S, TCP_USER_TIMEOUT_MS, UNSENT_BYTES, EmbeddedServer, listen, make_server
from tests.support.wait import wait_until

HEAD = b"GET /quick HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"POST /quick HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
EXPECT_100 = CHUNKED.replace(b"Transfer", b"Expect: 100-continue\r\nTransfer")
POST = b"POST /quick HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"


@dataclass
class EchoSite:
    """A running server; `/early` responds before it reads the body, `/half` starts a response and waits."""

    server: EmbeddedServer
    port: int = 0

    async def dial(self, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        await wait_until(lambda: self.connections, "the connection")
        return reader, writer

    async def response_to(self, data: bytes) -> bytes:
        """Return everything that the server sends until it closes."""
        reader, writer = await self.dial(b"")
        writer.write(data)
        async with asyncio.timeout(10):
            received = await reader.read()
        writer.close()
        return received

    @property
    def connections(self) -> list[LimitedHttpProtocol]:
        return [each for each in self.server.server_state.connections if isinstance(each, LimitedHttpProtocol)]

    def check_timeouts(self, later_s: float) -> None:
        """Check the timeouts as if this much time had passed."""
        for connection in self.connections:
            connection.check_timeout(asyncio.get_running_loop().time() + later_s)


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
async def serving(
    application: ASGIApp,
    protocol: type[LimitedHttpProtocol] = LimitedHttpProtocol,
    listening: socket.socket | None = None,
) -> AsyncIterator[EchoSite]:
    server = make_server(application, "127.0.0.1", 0, 1, has_lifespan=False, protocol=protocol)
    listening = listening or socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield EchoSite(server, listening.getsockname()[1])
    finally:
        server.should_exit = True
        await task
        listening.close()


@pytest.fixture
async def site() -> AsyncIterator[EchoSite]:
    async with serving(echo) as site:
        yield site


def rejection(received: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"x: " + b"a" * (MAX_HEAD_BYTES + 300_000),
        HEAD + b"x: y\r\n" * (MAX_HEAD_BYTES // 4) + b"\r\n",
        b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=["never ends", "many", "target"],
)
async def test_oversized_head_is_rejected_early(site: EchoSite, data: bytes) -> None:
    status, document = rejection(await site.response_to(data))

    assert (status, document["status"], document["code"]) == (431, 431, "invalid")


@pytest.mark.parametrize(
    "target",
    [
        b"/" + b"a" * MAX_PATH_BYTES,
        b"/?" + b"a" * (MAX_QUERY_BYTES + 1),
        b"/?" + b"a&" * MAX_QUERY_PARAMETERS,
        b"/%61?" + b"%61" * MAX_ESCAPES,
    ],
    ids=["path", "query", "parameters", "escapes"],
)
async def test_long_target_is_refused_before_routing(target: bytes) -> None:
    called: list[str] = []

    async def count(scope: Scope, receive: Receive, send: Send) -> None:
        called.append(scope["path"])
        await echo(scope, receive, send)

    async with serving(count) as site:
        status, document = rejection(await site.response_to(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % target))

    assert (status, document["status"], document["code"], called) == (414, 414, "invalid", [])


async def test_longest_target_is_served(site: EchoSite) -> None:
    query = b"&".join([b"a" * 127] * MAX_QUERY_PARAMETERS)
    target = b"/" + b"a" * (MAX_PATH_BYTES - 1) + b"?" + query
    received = await site.response_to(b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % target)

    assert (len(query), received[9:12]) == (MAX_QUERY_BYTES - 1, b"200")


async def test_query_limits_allow_the_longest_valid_one(site: EchoSite) -> None:
    prefix = b"p" * MAX_DOTTED_LENGTH + b"."
    filters = [b"category_prefix=" + prefix, b"systems=" + prefix] * MAX_FILTER_PREFIXES
    others = [b"%s=%s" % (name, b"v" * 128) for name in (b"cursor", b"digest", b"session", b"render", b"device")]
    target = b"/v1/poll?" + b"&".join(filters + others)
    received = await site.response_to(b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % target)

    assert received[9:12] == b"200"


async def test_header_fields_are_limited_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    usual = HttpToolsProtocol.on_header

    def on_header(self: HttpToolsProtocol, name: bytes, value: bytes) -> None:
        parsed.append(name)
        usual(self, name, value)

    monkeypatch.setattr(HttpToolsProtocol, "on_header", on_header)
    end = b"Connection: close\r\n\r\n"
    async with serving(echo) as site:
        served = await site.response_to(HEAD + b"x: y\r\n" * (MAX_FIELDS - 2) + end)
        parsed.clear()
        status, document = rejection(await site.response_to(HEAD + b"x: y\r\n" * 10_000 + end))

    assert served[9:12] == b"200"
    assert (status, document["code"], len(parsed)) == (431, "invalid", MAX_FIELDS)


async def test_large_body_does_not_count_as_head(site: EchoSite) -> None:
    size = 4 * MAX_HEAD_BYTES
    post = b"POST /quick HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
    reader, writer = await site.dial((post + b"a" * size) * 3 + HEAD + b"Connection: close\r\n\r\n")
    async with asyncio.timeout(10):
        received = await reader.read()
    writer.close()

    assert received.count(b"200 OK") == 4


@pytest.mark.parametrize(
    "data",
    [b"0\r\n" + b"a1: b\r\n" * 200_000, b"0\r\na1: " + b"b" * 1_000_000, b"1;" + b"a" * 1_000_000],
    ids=["many", "one", "extension"],
)
async def test_endless_trailers_are_rejected_early(site: EchoSite, data: bytes) -> None:
    status, document = rejection(await site.response_to(CHUNKED + data))

    assert (status, document["status"], document["code"]) == (431, 431, "invalid")
    assert str(MAX_BETWEEN_BYTES) in document["detail"]


async def test_trailers_do_not_act_as_headers() -> None:
    seen: list[list[tuple[bytes, bytes]]] = []

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        await echo(scope, receive, send)
        seen.append(scope["headers"])

    trailers = b"0\r\nAuthorization: Bearer x\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"
    async with serving(noting) as site:
        received = await site.response_to(CHUNKED + trailers + HEAD + b"Connection: close\r\n\r\n")

    assert received.count(b"200 OK") == 2
    assert seen == [[(b"host", b"a"), (b"transfer-encoding", b"chunked")], [(b"host", b"a"), (b"connection", b"close")]]


@pytest.mark.parametrize(("path", "answer"), [(b"/quick", b"400"), (b"/early", b"200"), (b"/half", b"200")])
async def test_endless_tiny_chunks_end_the_connection(
    site: EchoSite, monkeypatch: pytest.MonkeyPatch, path: bytes, answer: bytes
) -> None:
    """One client without a token sent them after its 401, and each 256 KiB stopped the event loop for 20 ms."""
    parsed: list[bytes] = []
    usual = HttpToolsProtocol.on_body

    def on_body(self: HttpToolsProtocol, body: bytes) -> None:
        parsed.append(body)
        usual(self, body)

    monkeypatch.setattr(HttpToolsProtocol, "on_body", on_body)
    reader, writer = await site.dial(CHUNKED.replace(b"/quick", path))
    if path != b"/quick":
        await reader.readuntil(b"200 OK")
    received = b"200 OK" if path != b"/quick" else b""
    for _ in range(4):
        writer.write(b"1\r\na\r\n" * FREE_CHUNKS)
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(5):
            received += await reader.read()
    writer.close()

    assert answer in received
    assert FREE_CHUNKS <= len(parsed) < FREE_CHUNKS + 100


async def test_long_chunks_may_be_many(site: EchoSite) -> None:
    chunk = b"200\r\n" + b"a" * MIN_CHUNK_BYTES + b"\r\n"
    received = await site.response_to(
        CHUNKED + chunk * (3 * FREE_CHUNKS) + b"0\r\n\r\n" + HEAD + b"Connection: close\r\n\r\n"
    )

    assert received.count(b"200 OK") == 2


async def test_small_chunks_do_not_count_as_trailers(site: EchoSite) -> None:
    body = b"1;extension\r\na\r\n" * FREE_CHUNKS + b"0\r\n\r\n"
    assert len(body) > 2 * MAX_BETWEEN_BYTES
    received = await site.response_to((CHUNKED + body) * 2 + HEAD + b"Connection: close\r\n\r\n")

    assert received.count(b"200 OK") == 3


@pytest.mark.parametrize("data", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", HEAD + b"Host: b\r\n\r\n"])
async def test_malformed_request_gets_a_problem(site: EchoSite, data: bytes) -> None:
    assert rejection(await site.response_to(data))[0] == 400


@pytest.mark.parametrize("data", [CHUNKED, CHUNKED.replace(b"/quick", b"/early"), EXPECT_100], ids=["", "early", "100"])
async def test_malformed_body_logs_no_traceback(caplog: pytest.LogCaptureFixture, data: bytes) -> None:
    ended: list[bytes] = []

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await echo(scope, receive, send)
        finally:
            ended.append(data)

    async with serving(noting) as site:
        assert rejection(await site.response_to(data + b"-2\r\n"))[0] == 400
        await wait_until(lambda: ended, "the end of the request")

    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_unknown_method_is_501(site: EchoSite) -> None:
    assert rejection(await site.response_to(b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 501
    assert rejection(await site.response_to(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS\r\n\r\n"))[0] == 400


async def test_connect_is_501(site: EchoSite) -> None:
    assert rejection(await site.response_to(b"CONNECT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"))[0] == 501


REJECTED = {
    "target": (414, b"GET /?" + b"a&" * MAX_QUERY_PARAMETERS + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
    "head": (431, HEAD + b"x: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n"),
    "fields": (431, HEAD + b"x: y\r\n" * MAX_FIELDS + b"\r\n"),
    "no host": (400, b"GET /quick HTTP/1.1\r\n\r\n"),
    "two hosts": (400, HEAD + b"Host: b\r\n\r\n"),
    "method": (501, b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "connect": (501, b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "nonsense": (400, b"nonsense\r\n\r\n"),
    "length": (400, HEAD + b"Content-Length: " + b"0" * (MAX_LENGTH_DIGITS + 1) + b"\r\n\r\n"),
    "chunks": (400, CHUNKED + b"-2\r\n"),
}


@pytest.mark.parametrize("name", ["target", "head", "fields", "no host", "two hosts", "length"])
async def test_rejection_of_a_head_request_has_no_body(site: EchoSite, name: str) -> None:
    status, data = REJECTED[name]
    received = await site.response_to(data.replace(b"GET ", b"HEAD ", 1))

    assert (int(received[9:12]), received.partition(b"\r\n\r\n")[2]) == (status, b"")
    assert b"content-length: " in received


@pytest.mark.parametrize(("status", "data"), REJECTED.values(), ids=REJECTED)
@pytest.mark.parametrize("first", [HEAD + b"\r\n", POST + b"0123456789"], ids=["head", "body"])
async def test_rejection_of_a_later_request_is_answered(site: EchoSite, first: bytes, status: int, data: bytes) -> None:
    """A proxy takes a connection without a response for a failure of the server. nginx then stops using the server."""
    reader, writer = await site.dial(first)
    async with asyncio.timeout(10):
        served = await reader.readuntil(b"ok")
        await wait_until(lambda: all(each._is_between_requests() for each in site.connections), "the end of the first")
        writer.write(data)
        received = await reader.read()
    writer.close()

    assert (served[9:12], rejection(received)[0]) == (b"200", status)


UPGRADE = b"Connection: keep-alive, Upgrade\r\nuPgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
SMUGGLED = b"DELETE /smuggled HTTP/1.1\r\nX: "


@pytest.mark.parametrize(
    "field", [b"Content-Length: 30\r\n\r\n%b", b"Transfer-Encoding: chunked\r\n\r\n1e\r\n%b\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize("more", [UPGRADE, UPGRADE + UPGRADE, b""], ids=["upgrade", "twice", "none"])
async def test_body_of_a_request_with_upgrade_is_not_parsed_as_a_request(field: bytes, more: bytes) -> None:
    """Law: a request with `Upgrade` is served as the same request without it, wherever the network splits it.

    Behind a proxy, a body that is parsed as a request would be one in the name of the next client.
    """
    served: list[tuple[str, str, bytes]] = []

    async def collect(scope: Scope, receive: Receive, send: Send) -> None:
        body, event = b"", dict[str, Any](more_body=True)
        while event["more_body"]:
            event = dict(await receive())
            body += event["body"]
        served.append((scope["method"], scope["path"], body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    data = b"POST /first HTTP/1.1\r\nHost: a\r\n" + more + field % SMUGGLED + HEAD + b"Connection: close\r\n\r\n"
    async with serving(collect) as site:
        for at in range(1, len(data)):
            served.clear()
            reader, writer = await site.dial(b"")
            (connection,) = site.connections
            connection.data_received(data[:at])
            connection.data_received(data[at:])
            async with asyncio.timeout(10):
                received = await reader.read()
            writer.close()
            await wait_until(lambda: not site.connections, "the end of the connection")

            assert received.count(b"200 OK") == 2
            assert served == [("POST", "/first", SMUGGLED), ("GET", "/quick", b"")]


@pytest.mark.parametrize("line", [b"HTTP/1.0\r\nConnection: Upgrade", b"HTTP/1.1\r\nConnection: close, Upgrade"])
async def test_last_request_with_upgrade_is_served(site: EchoSite, line: bytes) -> None:
    data = b"POST /quick %b\r\nHost: a\r\nUpgrade: h2c\r\nContent-Length: 4\r\n\r\nbody" % line

    assert (await site.response_to(data)).endswith(b"\r\n\r\nok")


async def test_silent_client_and_half_head_time_out(site: EchoSite) -> None:
    silent, silent_writer = await site.dial(b"")
    half, half_writer = await site.dial(HEAD)
    await wait_until(lambda: [each for each in site.connections if each._head_bytes], "the half head")

    site.check_timeouts(HEAD_TIMEOUT_S - 1)
    assert not any(each.transport.is_closing() for each in site.connections)
    site.check_timeouts(HEAD_TIMEOUT_S + 1)

    async with asyncio.timeout(10):
        assert await silent.read() == b""
        assert rejection(await half.read())[0] == 408
    silent_writer.close()
    half_writer.close()


async def test_idle_body_times_out(site: EchoSite) -> None:
    reader, writer = await site.dial(POST + b"half")
    await wait_until(lambda: [each for each in site.connections if each.cycle], "the request")

    site.check_timeouts(BODY_TIMEOUT_S - 1)
    assert not any(each.transport.is_closing() for each in site.connections)
    site.check_timeouts(BODY_TIMEOUT_S + 1)

    async with asyncio.timeout(10):
        assert rejection(await reader.read())[0] == 408
    writer.close()


@pytest.mark.parametrize("path", [b"/early", b"/half"])
async def test_started_response_is_not_corrupted(site: EchoSite, path: bytes) -> None:
    reader, writer = await site.dial(POST.replace(b"/quick", path) + b"half")
    async with asyncio.timeout(10):
        received = await reader.readuntil(b"\r\n\r\n")
        site.check_timeouts(BODY_TIMEOUT_S + 1)
        with contextlib.suppress(ConnectionError):
            received += await reader.read()
    writer.close()

    assert received.count(b"HTTP/1.1") == 1


async def test_waiting_and_idle_clients_do_not_time_out(site: EchoSite) -> None:
    reader, writer = await site.dial(HEAD + b"\r\n")
    async with asyncio.timeout(10):
        await reader.readuntil(b"ok")
        site.check_timeouts(KEEP_ALIVE_S - 1)
        writer.write(HEAD + b"Connection: close\r\n\r\n")
        received = await reader.read()
    writer.close()

    assert received.endswith(b"ok")


async def test_idle_connection_closes_after_an_empty_line(site: EchoSite) -> None:
    reader, writer = await site.dial(HEAD + b"\r\n")
    async with asyncio.timeout(10):
        await reader.readuntil(b"ok")
        await wait_until(lambda: all(each._is_between_requests() for each in site.connections), "the end of the first")
        site.connections[0].data_received(b"\r\n")
        site.check_timeouts(KEEP_ALIVE_S + 1)
        assert await reader.read() == b""
    writer.close()


async def test_disconnect_ends_a_streaming_response(caplog: pytest.LogCaptureFixture) -> None:
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
        await wait_until(is_over.is_set, "the response is cancelled")

    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"\r\n",
        POST + b"0123456789",
        POST.replace(b"/quick", b"/early") + b"0123",
        POST.replace(b"/quick", b"/half") + b"0123",
        (HEAD.replace(b"/quick", b"/half") + b"\r\n") * 3,
        EXPECT_100.replace(b"/quick", b"/early"),
    ],
    ids=["head", "body", "early answer", "half a body", "pipelined", "expect"],
)
async def test_reset_connection_is_freed_at_once(site: EchoSite, data: bytes) -> None:
    """Without the garbage collector, which runs too rarely for thousands of connections a second."""
    gc.disable()
    try:
        reader, writer = await site.dial(data)
        await reader.readuntil(b"\r\n\r\n")
        [connection] = map(weakref.ref, site.connections)

        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

        await wait_until(lambda: connection() is None, "all objects of the connection are freed")
    finally:
        gc.enable()


@pytest.mark.parametrize("data", [POST + b"0123", HEAD[:-4], POST + b"0123456789"], ids=["body", "head", "answered"])
async def test_timeouts_of_a_lost_connection_are_not_checked(site: EchoSite, data: bytes) -> None:
    """A check of all connections lets other tasks run, and a connection may be lost meanwhile."""
    _, writer = await site.dial(data)
    [connection] = site.connections
    await wait_until(lambda: connection._latest_bytes, "the bytes are received")
    writer.transport.abort()
    await wait_until(lambda: not site.connections, "the connection is lost")

    for later_s in (0.0, HEAD_TIMEOUT_S + 1, BODY_TIMEOUT_S + 1, KEEP_ALIVE_S + BODY_GRACE_S):
        assert not connection.check_timeout(asyncio.get_running_loop().time() + later_s)


async def test_pipelined_requests_are_bounded_in_number_and_memory() -> None:
    release = asyncio.Event()

    async def waiting(_scope: Scope, _receive: Receive, send: Send) -> None:
        await release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async with serving(waiting) as site:
        gc.collect()
        tracemalloc.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"GET /b HTTP/1.1\r\nHost:a\r\n\r\n" * 40_000)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            async with asyncio.timeout(10):
                await reader.readexactly(1)
        writer.close()
        gc.collect()
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        cycles = [each for each in gc.get_objects() if type(each).__name__ == "RequestResponseCycle"]

        assert len(cycles) <= MAX_PIPELINED + 2
        assert kept < 1_000_000
        assert peak < 8_000_000  # the bytes of the client are in this process too
        release.set()


@pytest.mark.parametrize(
    "head",
    [HEAD + b"\r\n", b"GET / HTTP/1.1\r\n\r\n", HEAD + b"Connection: Upgrade\r\nUpgrade: a\r\n\r\n"],
    ids=["pipelined", "without host", "upgrade"],
)
async def test_heads_after_a_rejection_are_not_parsed(head: bytes) -> None:
    class Counting(LimitedHttpProtocol):
        heads = 0

        def on_message_begin(self) -> None:
            Counting.heads += 1
            super().on_message_begin()

    async with serving(echo, Counting) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(head * 5_000)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(10):
                await reader.read()
        writer.transport.abort()

    # A head with Upgrade is parsed twice.
    assert Counting.heads <= (1 + (b"Upgrade" in head)) * (MAX_PIPELINED + 2)


async def test_requests_up_to_the_pipeline_bound_are_answered(site: EchoSite) -> None:
    received = await site.response_to((HEAD + b"\r\n") * MAX_PIPELINED + HEAD + b"Connection: close\r\n\r\n")

    assert received.count(b"200 OK") == MAX_PIPELINED + 1


async def test_pipelining_client_is_read_no_faster_than_it_is_answered(site: EchoSite) -> None:
    reader, writer = await site.dial(b"")
    posts = 300
    async with asyncio.timeout(10):
        for _ in range(posts):
            writer.write(POST + b"0123456789")
            await asyncio.sleep(0)
        writer.write(HEAD + b"Connection: close\r\n\r\n")
        received = await reader.read()
    writer.close()

    assert received.count(b"200 OK") == posts + 1


async def test_reading_pauses_while_pipelined_requests_wait() -> None:
    release = asyncio.Semaphore(0)

    async def one_by_one(scope: Scope, receive: Receive, send: Send) -> None:
        await release.acquire()
        await echo(scope, receive, send)

    async with serving(one_by_one) as site:
        _, writer = await site.dial((HEAD + b"\r\n") * 4)
        await wait_until(lambda: len(site.connections[0].pipeline) == 3, "three waiting requests")
        for left in (2, 1):
            release.release()
            await wait_until(lambda left=left: len(site.connections[0].pipeline) == left, "the next request")
            assert site.connections[0].flow.read_paused
        release.release()
        await wait_until(lambda: not site.connections[0].flow.read_paused, "reading on")
        release.release()
        writer.close()


async def test_response_that_the_client_does_not_read_times_out() -> None:
    async def large(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a" * 20_000_000})

    async with serving(large) as site:
        reader, writer = await site.dial(HEAD + b"\r\n")
        connection = site.connections[0]
        await wait_until(connection.transport.get_write_buffer_size, "the unread response")
        site.check_timeouts(0)
        site.check_timeouts(WRITE_TIMEOUT_S - 1)
        before = connection.transport.get_write_buffer_size()
        await reader.readexactly(10_000_000)
        await wait_until(lambda: 0 < connection.transport.get_write_buffer_size() < before, "progress")
        site.check_timeouts(WRITE_TIMEOUT_S + 1)
        site.check_timeouts(2 * WRITE_TIMEOUT_S)
        assert site.connections
        site.check_timeouts(2 * WRITE_TIMEOUT_S + 2)

        await wait_until(lambda: not site.connections, "the end of the connection")
        writer.close()


async def test_response_that_waits_in_the_kernel_is_bounded() -> None:
    """200 unread files of 1.7 MB took 600 MiB of kernel memory, and no timeout applied to them.

    Behind a proxy, 50 unread files of 430 KB a second took 1.3 GiB.
    """

    async def large(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a" * 2_000_000})

    listening = listen("127.0.0.1", 0)
    async with serving(large, listening=listening) as site:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, listening.getsockname())
            client.send(HEAD + b"\r\n")
            await wait_until(lambda: site.connections, "the connection")
            (connection,) = site.connections
            # The kernel fills its last segment, of 64 KiB.
            least = 2_000_000 - UNSENT_BYTES - 2 * 65_536
            await wait_until(lambda: connection.transport.get_write_buffer_size() > least, "the unread response")
            site.check_timeouts(0)
            site.check_timeouts(WRITE_TIMEOUT_S + 1)

            await wait_until(lambda: not site.connections, "the end of the connection")


async def test_large_response_below_the_minimum_rate_of_reading_times_out() -> None:
    async def large(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a" * 20_000_000})

    async with serving(large) as site:
        reader, writer = await site.dial(HEAD + b"\r\n")
        connection = site.connections[0]
        await wait_until(lambda: connection.flow.write_paused, "the unread response")
        since, whole = connection._large_since, connection._large_bytes
        await reader.readexactly(5_000_000)
        await wait_until(lambda: connection.transport.get_write_buffer_size() < whole - 2_000_000, "progress")
        connection.check_timeout(since)
        allowed_s = WRITE_TIMEOUT_S + (connection._large_bytes - connection._unwritten) / MIN_READ_RATE
        for later_s, is_over in ((allowed_s - 1, False), (allowed_s + 60, True)):
            connection._written = since + later_s  # as if the client had just read a little
            connection.check_timeout(since + later_s)
            assert connection.transport.is_closing() is is_over

        await wait_until(lambda: not site.connections, "the end of the connection")
        writer.close()


async def test_body_below_the_minimum_rate_times_out(site: EchoSite) -> None:
    reader, writer = await site.dial(POST.replace(b"10", b"100000") + b"a" * MIN_BODY_RATE)
    await wait_until(lambda: [each for each in site.connections if each.cycle], "the request")
    connection = site.connections[0]

    async def drip(later_s: float) -> None:
        """Send a byte; then check as if it had arrived at this time."""
        now, before = connection._body_since, connection._body_bytes
        writer.write(b"a")
        await wait_until(lambda: connection._body_bytes > before, "a byte")
        connection._since = now + later_s
        connection.check_timeout(now + later_s)

    for later_s in range(0, int(BODY_GRACE_S), 50):
        await drip(later_s)
    await drip(BODY_GRACE_S + 1)
    assert not connection.transport.is_closing()
    await drip(BODY_GRACE_S + 2)

    async with asyncio.timeout(10):
        status, document = rejection(await reader.read())
    assert status == 408
    assert str(MIN_BODY_RATE) in document["detail"]
    writer.close()


async def test_body_of_an_answered_request_ends_the_connection(site: EchoSite) -> None:
    reader, writer = await site.dial(POST.replace(b"/quick", b"/early") + b"half")
    async with asyncio.timeout(10):
        await reader.readuntil(b"ok")
        site.check_timeouts(UNREAD_BODY_S - 1)
        assert site.connections
        site.check_timeouts(UNREAD_BODY_S + 1)
        assert await reader.read() == b""
    writer.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs Linux")
@pytest.mark.parametrize("path", [b"/quick", b"/early"])
async def test_idle_connection_keeps_no_body(site: EchoSite, path: bytes) -> None:
    """A stranger may have 200 connections, and each would keep 250 KB for 75 s."""
    request = POST.replace(b"10", b"200000").replace(b"/quick", path) + b"a" * 200_000
    dialed = [await site.dial(request) for _ in range(10)]
    for reader, _ in dialed:
        async with asyncio.timeout(10):
            await reader.readuntil(b"ok")
    await wait_until(lambda: all(each._body_bytes == 200_000 for each in site.connections), "the bodies")
    await wait_until(lambda: not any(kept_bytes(each) for each in site.connections), "no part of a body", 2)

    for _, writer in dialed:
        writer.close()


def kept_bytes(connection: LimitedHttpProtocol) -> int:
    """Return the bytes that a connection and its last request refer to."""
    referred = gc.get_referents(connection, connection.cycle, connection.scope)
    return sum(len(each) for each in referred if isinstance(each, bytes | bytearray) and len(each) > 1_000)


@pytest.mark.parametrize("head", [POST.replace(b"10", b"8000000"), CHUNKED], ids=["length", "chunks"])
async def test_body_behind_the_last_response_is_not_reset(site: EchoSite, head: bytes) -> None:
    """A proxy such as nginx marks a server that resets its connection as failed, for all users."""
    head = head.replace(b"/quick", b"/early").replace(b"Host: a", b"Host: a\r\nConnection: close")
    reader, writer = await site.dial(head + b"1")
    async with asyncio.timeout(10):
        assert (await reader.read()).endswith(b"ok")
        writer.write(b"a" * 8_000_000)
        await writer.drain()
        assert site.connections
        await wait_until(lambda: not site.connections, "the end of the connection", 5)
    writer.close()


@pytest.mark.parametrize("target", [b"/early", b"/early?" + b"&" * MAX_QUERY_PARAMETERS])
async def test_bytes_behind_the_last_response_are_bounded(
    site: EchoSite, monkeypatch: pytest.MonkeyPatch, target: bytes
) -> None:
    monkeypatch.setattr(http_limits, "LINGER_BYTES", 100_000)
    monkeypatch.setattr(http_limits, "LINGER_S", 1_000)
    head = POST.replace(b"10", b"8000000").replace(b"/quick", target)
    reader, writer = await site.dial(head.replace(b"Host: a", b"Host: a\r\nConnection: close"))
    await reader.read()
    writer.write(b"a" * 90_000)
    await wait_until(lambda: site.connections[0]._dropped == 90_000, "the dropped bytes")
    writer.write(b"a" * 20_000)

    await wait_until(lambda: not site.connections, "the end of the connection")
    writer.close()


async def test_each_tick_checks_a_tenth_of_the_connections() -> None:
    class Counting(LimitedHttpProtocol):
        def __init__(self) -> None:
            self.checks = 0

        def check_timeout(self, now: float) -> bool:
            self.checks += 1
            return False

    server = make_server(echo, "127.0.0.1", 0, 1, has_lifespan=False)
    server.config.load()
    connections = [Counting() for _ in range(100)]
    server.server_state.connections.update(connections)
    ticks = []
    for counter in range(10, 20):
        await server.on_tick(counter)
        ticks.append(sum(each.checks for each in connections))

    assert ticks == list(range(10, 101, 10))
    assert {each.checks for each in connections} == {1}


def test_every_listening_socket_has_a_tcp_user_timeout() -> None:
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname(), timeout=5):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == TCP_USER_TIMEOUT_MS


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs a dual-stack kernel")
def test_double_colon_listens_on_ipv4_and_ipv6() -> None:
    with listen("::", 0) as listening:
        port = listening.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, port), timeout=5):
                pass
