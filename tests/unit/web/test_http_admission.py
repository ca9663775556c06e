"""Limits of the HTTP ports before authentication: addresses behind proxies, PROXY protocol, handshakes."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import pytest
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from gregor.clock import SystemClock
from gregor.core.errors import Problem
from gregor.core.limits import Limits
from gregor.metrics.process import Metrics
from gregor.net import connection_limits
from gregor.net.client_address import ClientAddresses
from gregor.net.connection_limits import AnonymousRequests, ConnectionLimiter, ConnectionLimits
from gregor.net.origins import Origins
from gregor.net.refusal_pacer import BURST, REFUSALS_PER_S, RefusalPacer
from gregor.reference.store import MemoryStore
from gregor.web.counted_http import counted_http
from gregor.web.http_admission import CALLER, AnonymousLimit, ForwardedClients, HttpAdmission
from gregor.web.http_limits import MAX_FIELDS, MAX_QUERY_PARAMETERS, LimitedHttpProtocol
from gregor.web.middleware import HttpMiddleware
from gregor.web.readiness import Readiness
from gregor.web.serving import EmbeddedServer, make_server
from tests.support.reset_connection import reset_before_accept
from tests.support.wait import wait_until
from tests.unit.net.test_proxy_protocol import header

PROXIES = ("127.0.0.1", "10.0.0.0/8")
OTHER_PROXIES = ("192.0.2.0/24",)
LOCAL_COMMAND = 0x20
LARGE = 20_000_000
"""Bytes of a response that does not fit into the buffers of the kernel."""
PAGE = "https://app.example"


@dataclass
class CountedPort:
    """A port with limits; its application returns the address of the client."""

    admission: HttpAdmission
    refusals: list[str]
    server: EmbeddedServer
    port: int
    held: list[asyncio.StreamWriter] = field(default_factory=list)

    async def send(self, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        self.held.append(writer)
        return reader, writer

    async def answer(self, data: bytes) -> bytes:
        """Send a request on a new connection, which stays open; return the answer."""
        reader, _ = await self.send(data)
        return await read_answer(reader)

    async def is_aborted(self, data: bytes) -> bool:
        reader, _ = await self.send(data)
        try:
            return await reader.read() == b""
        except ConnectionResetError:
            return True

    @property
    def connections(self) -> list[LimitedHttpProtocol]:
        return [each for each in self.server.server_state.connections if isinstance(each, LimitedHttpProtocol)]

    async def close_all(self) -> None:
        for writer in self.held:
            writer.close()
        await wait_until(lambda: self.admission.limiter.connections == 0, "the ends")


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [int(line[16:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")]
    return head + await reader.readexactly(sum(lengths))


class HeldStreams:
    """An application that shows the client, and keeps requests for ``/v1/stream`` open until they are released."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith("/v1"):
            self.waiting += 1
            await self.release.wait()
            self.waiting -= 1
        body = str(scope["client"][0]).encode()
        start = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": start})
        await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def counted_port(
    app: ASGIApp,
    proxies: tuple[str, ...] = (),
    *,
    has_proxy_headers: bool = False,
    is_for_probes: bool = False,
    **limits: Any,
) -> AsyncIterator[CountedPort]:
    refusals: list[str] = []
    limiter = ConnectionLimiter(ConnectionLimits(**{"handshakes": 1_000.0, **limits}))
    admission = HttpAdmission(limiter, ClientAddresses(proxies), refusals.append, has_proxy_headers)
    if is_for_probes:
        admission = admission.for_probes()
    counted = ForwardedClients(app, admission, SystemClock())
    metrics = Metrics()
    readiness, limit = Readiness(MemoryStore(Limits()), metrics), AnonymousLimit(admission, SystemClock())
    application = HttpMiddleware(counted, Origins((PAGE,)), metrics, lambda _: ("GET",), readiness, limit)
    protocol = counted_http(admission)
    server = make_server(application, "127.0.0.1", 0, 1, has_lifespan=False, protocol=protocol)
    listening = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    port = CountedPort(admission, refusals, server, listening.getsockname()[1])
    try:
        yield port
        await port.close_all()
    finally:
        for writer in port.held:
            writer.close()
        server.should_exit = server.force_exit = True
        await serving
        listening.close()


def request(path: str = "/", forwarded_for: str = "", *, method: str = "GET", origin: str = "") -> bytes:
    extra = f"X-Forwarded-For: {forwarded_for}\r\n" if forwarded_for else ""
    extra += f"Origin: {origin}\r\n" if origin else ""
    return f"{method} {path} HTTP/1.1\r\nHost: gregor.test\r\n{extra}\r\n".encode()


def by_proxy(client: str, command: int = 0x21) -> bytes:
    return header(ip_address(client), command=command)


# ---- direct clients


async def test_address_is_refused_one_above_its_limit() -> None:
    async with counted_port(HeldStreams(), OTHER_PROXIES, address=3) as port:
        answers = [await port.answer(request()) for _ in range(4)]

        assert [answer[9:12] for answer in answers] == [b"200", b"200", b"200", b"429"]
        assert b"GREGOR_MAX_CONNECTIONS_PER_ADDRESS" in answers[3]
        assert b"x-content-type-options: nosniff" in answers[3]
        assert b"retry-after: " in answers[3]
        assert port.refusals == ["address"]


async def test_process_is_refused_one_above_its_limit() -> None:
    async with counted_port(HeldStreams(), process=2) as port:
        assert [(await port.answer(request()))[9:12] for _ in range(2)] == [b"200", b"200"]
        reader, _ = await port.send(b"")

        answer = await read_answer(reader)
        assert answer[9:12] == b"503"
        assert re.search(rb"(?i)\r\nretry-after: [1-5]\r\n", answer)
        assert b"GREGOR_MAX_CONNECTIONS_PROCESS" in answer


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("has_proxy_headers", [False, True])
def test_connection_reset_before_it_is_accepted_is_not_served(run: Any, has_proxy_headers: bool) -> None:
    """Its socket has no peer address, and looked like a Unix socket: no limit of a client applied."""

    async def test() -> None:
        app = HeldStreams()
        async with counted_port(app, ("192.0.2.1",), has_proxy_headers=has_proxy_headers) as port:
            reset_before_accept(port.port, request("/v1/stream"))
            await wait_until(lambda: bool(port.refusals or app.waiting), "the connection is accepted")
            await wait_until(lambda: port.admission.limiter.connections == 0, "the end")

            assert (port.refusals, app.waiting) == (["reset"], 0)

    run(test())


async def test_flood_of_refused_connections_is_aborted() -> None:
    async with counted_port(HeldStreams(), OTHER_PROXIES, address=2) as port:
        for _ in range(4):
            await port.send(b"")
        await wait_until(lambda: port.admission.limiter.connections == 4, "the connections")

        assert await port.is_aborted(b"")
        assert port.refusals == ["address", "address", "flood"]


async def test_handshakes_of_an_address_are_refused_above_the_burst() -> None:
    async with counted_port(HeldStreams(), OTHER_PROXIES, handshakes=1.0) as port:
        answers = [await port.answer(request()) for _ in range(6)]

        assert [answer[9:12] for answer in answers] == [b"200"] * 5 + [b"429"]
        assert b"GREGOR_HANDSHAKE_RATE" in answers[5]


async def test_forwarded_address_of_a_direct_client_is_ignored() -> None:
    async with counted_port(HeldStreams(), OTHER_PROXIES, address=1) as port:
        assert (await port.answer(request(forwarded_for="203.0.113.1")))[9:12] == b"200"
        assert (await port.answer(request(forwarded_for="203.0.113.2")))[9:12] == b"429"


# ---- requests through a trusted proxy


async def test_requests_of_a_forwarded_client_are_limited() -> None:
    app = HeldStreams()
    async with counted_port(app, PROXIES, address=2) as port:
        held = [await port.send(request("/v1/poll", "203.0.113.9")) for _ in range(2)]
        await wait_until(lambda: app.waiting == 2, "the requests")
        refused = await port.answer(request("/v1/poll", "198.51.100.1, 203.0.113.9"))
        other = await port.answer(request("/", "203.0.113.10"))
        app.release.set()
        for reader, _ in held:
            await read_answer(reader)
        again = await port.answer(request("/", "203.0.113.9"))

    assert refused[9:12] == b"429"
    assert b"GREGOR_MAX_CONNECTIONS_PER_ADDRESS" in refused
    assert (other[9:12], again[9:12]) == (b"200", b"200")
    assert port.refusals == ["address"]
    assert port.admission.limiter.addresses == 2


async def test_forwarded_ipv6_clients_are_limited_by_64() -> None:
    app = HeldStreams()
    async with counted_port(app, PROXIES, address=1) as port:
        await port.send(request("/v1/poll", "2001:db8:0:1::1"))
        await wait_until(lambda: app.waiting == 1, "the request")
        same_network = await port.answer(request("/", "2001:db8:0:1:ffff::2"))
        other_network = await port.answer(request("/", "2001:db8:0:2::1"))
        app.release.set()

    assert (same_network[9:12], other_network[9:12]) == (b"429", b"200")


async def test_streams_of_a_forwarded_client_are_handshakes() -> None:
    app = HeldStreams()
    app.release.set()
    async with counted_port(app, PROXIES, handshakes=1.0) as port:
        streams = [await port.answer(request("/v1/stream", "203.0.113.9")) for _ in range(6)]
        other = await port.answer(request("/v1/poll", "203.0.113.9"))

    assert [answer[9:12] for answer in streams] == [b"200"] * 5 + [b"429"]
    assert b"GREGOR_HANDSHAKE_RATE" in streams[5]
    assert other[9:12] == b"200"


async def test_forwarded_request_counts_until_its_response_is_read() -> None:
    """A proxy reads a response no faster than its client. 1,000 unread responses did not count for their address."""

    async def large(scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(LARGE if scope["path"] == "/large" else 2)})

    async with counted_port(large, PROXIES, address=2) as port:
        unread = [await port.send(request("/large", "203.0.113.9")) for _ in range(2)]
        await wait_until(lambda: all(each.flow.write_paused for each in port.connections), "unread responses")
        refused = await port.answer(request("/small", "203.0.113.9"))
        other = await port.send(request("/small", "203.0.113.10"))
        for reader, _ in unread:
            await reader.readexactly(LARGE)
        await wait_until(lambda: not any(each.flow.write_paused for each in port.connections), "the end of reading")
        reader, _ = await port.send(request("/small", "203.0.113.9"))

        assert refused[9:12] == b"429" and b"GREGOR_MAX_CONNECTIONS_PER_ADDRESS" in refused
        assert [(await each.readline())[9:12] for each in (other[0], reader)] == [b"200"] * 2


async def test_requests_of_one_proxy_connection_are_counted_apart() -> None:
    async with counted_port(HeldStreams(), PROXIES, address=1) as port:
        reader, writer = await port.send(b"")
        for number in range(5):
            writer.write(request("/", f"203.0.113.{number}"))
            assert (await read_answer(reader))[9:12] == b"200"

    assert port.refusals == []


# ---- requests without a caller


async def by_path(scope: Scope, receive: Receive, send: Send) -> None:
    """Authenticate requests for ``/known``, and refuse the others by their path."""
    if scope["path"] == "/known":
        scope[CALLER] = "user", "alice"
    if scope["path"] == "/busy":
        scope[CALLER] = "user", "alice"
        raise Problem("rate_limited", "too many")
    if scope["path"] == "/broken":
        raise Problem("unavailable", "Redis is away")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("path", ["/", "/busy"])
async def test_refused_requests_of_a_connection_are_limited(path: str) -> None:
    async with counted_port(by_path, OTHER_PROXIES, anonymous=0.5) as port:
        reader, writer = await port.send(b"")
        for _ in range(5):
            writer.write(request(path))
            assert b"GREGOR_ANONYMOUS_RATE" not in await read_answer(reader)
        writer.write(request("/known"))
        refused = await read_answer(reader)

        assert refused[9:12] == b"429"
        assert b"GREGOR_ANONYMOUS_RATE" in refused and b"connection: close" in refused
        assert await reader.read() == b""
        assert port.refusals == ["anonymous"]


@pytest.mark.parametrize(
    ("method", "origin", "status"),
    [("OPTIONS", "", b"204"), ("OPTIONS", PAGE, b"204"), ("GET", "https://foreign.example", b"403")],
)
async def test_preflights_and_foreign_origins_are_limited(method: str, origin: str, status: bytes) -> None:
    async with counted_port(by_path, PROXIES, anonymous=0.5) as port:
        reader, writer = await port.send(b"")
        answers = []
        for _ in range(6):
            writer.write(request("/known", "203.0.113.9", method=method, origin=origin))
            answers.append(await read_answer(reader))

    assert [answer[9:12] for answer in answers] == [status] * 5 + [b"429"]
    assert port.refusals == ["anonymous"]
    assert (b"access-control-allow-origin" in answers[5]) == (origin == PAGE)


@pytest.mark.parametrize("path", ["/known", "/broken"])
async def test_other_requests_of_a_connection_are_free(path: str) -> None:
    async with counted_port(by_path, OTHER_PROXIES, anonymous=0.5) as port:
        reader, writer = await port.send(b"")
        for _ in range(20):
            writer.write(request(path))
            await read_answer(reader)
        writer.write(request("/known"))

        assert (await read_answer(reader))[9:12] == b"200"


async def test_refused_requests_of_a_forwarded_client_are_limited() -> None:
    async with counted_port(by_path, PROXIES, anonymous=0.5) as port:
        reader, writer = await port.send(b"")
        answers = []
        for client in ["203.0.113.9"] * 6 + ["203.0.113.10"]:
            writer.write(request("/", client))
            answers.append((await read_answer(reader))[9:12])

    assert answers == [b"200"] * 5 + [b"429", b"200"]


async def test_refusals_of_a_forwarded_client_are_delayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy keeps its connection, so a client could repeat refused requests as fast as they are answered."""
    paced: list[str] = []

    async def wait(_pacer: RefusalPacer, client: str) -> None:
        paced.append(client)

    monkeypatch.setattr(RefusalPacer, "wait", wait)
    for proxies in (PROXIES, OTHER_PROXIES):
        async with counted_port(by_path, proxies, anonymous=0.5) as port:
            for _ in range(8):
                await port.answer(request("/", "203.0.113.9"))
            for method in ("GET", "POST"):
                for body in (b"Content-Length: 20000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"):
                    await port.answer(request("/", "203.0.113.9", method=method)[:-2] + body)

    # The second port does not trust the peer, and closes its connection instead.
    assert paced == ["203.0.113.9"] * 7


@pytest.mark.parametrize(
    "length", [b"Content-Length: 5000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n4C4B40\r\n"]
)
async def test_body_of_a_delayed_refusal_is_dropped(monkeypatch: pytest.MonkeyPatch, length: bytes) -> None:
    """A proxy sends bodies of other requests over this connection, so it stays open and is read on."""
    release = asyncio.Event()

    async def wait(_pacer: RefusalPacer, _client: str) -> None:
        await release.wait()

    monkeypatch.setattr(RefusalPacer, "wait", wait)
    async with counted_port(by_path, PROXIES, anonymous=0.5) as port:
        reader, writer = await port.send(b"")
        for _ in range(5):
            writer.write(request("/", "203.0.113.9"))
            assert (await read_answer(reader))[9:12] == b"200"
        writer.write(request("/", "203.0.113.9", method="POST")[:-2] + length + b"a" * 5_000_000)
        (connection,) = port.connections
        await wait_until(lambda: connection._body_bytes == 5_000_000, "the body is read")
        await wait_until(lambda: not connection.cycle.body, "the body is dropped")
        writer.write(b"\r\n0\r\n\r\n" if b"chunked" in length else b"")
        release.set()
        assert (await read_answer(reader))[9:12] == b"429"
        writer.write(request("/", "203.0.113.10"))

        assert (await read_answer(reader))[9:12] == b"200"


async def test_delayed_refusal_does_not_ask_for_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    paced: list[str] = []

    async def wait(_pacer: RefusalPacer, client: str) -> None:
        paced.append(client)
        await asyncio.sleep(0)  # the server begins to read the body

    monkeypatch.setattr(RefusalPacer, "wait", wait)
    async with counted_port(by_path, PROXIES, anonymous=0.5) as port:
        for _ in range(5):
            await port.answer(request("/", "203.0.113.9"))
        fields = b"Expect: 100-continue\r\nContent-Length: 20000\r\n\r\n"
        reader, _ = await port.send(request("/", "203.0.113.9", method="POST")[:-2] + fields)

        assert (await read_answer(reader))[9:12] == b"429"
        assert paced == ["203.0.113.9"]


MALFORMED = {
    "414": b"GET /?" + b"&" * MAX_QUERY_PARAMETERS + b" HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n",
    "431": b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\n" + b"a: b\r\n" * MAX_FIELDS + b"\r\n",
    "400": b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\nHost: b\r\n\r\n",
}


@pytest.mark.parametrize("status", MALFORMED)
async def test_malformed_requests_of_a_client_are_limited(monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    """The parser refuses them before the middleware."""
    paced: list[str] = []

    async def wait(_pacer: RefusalPacer, client: str) -> None:
        paced.append(client)

    monkeypatch.setattr(RefusalPacer, "wait", wait)
    for proxies in (PROXIES, OTHER_PROXIES):
        async with counted_port(by_path, proxies, anonymous=0.5) as port:
            answers = [(await port.answer(MALFORMED[status]))[9:12].decode() for _ in range(8)]
            assert answers == [status] * 8
            refused = await port.answer(request("/", "203.0.113.9"))
            other = await port.answer(request("/", "203.0.113.10"))

        # The second port counts the peer, and closes its connection.
        assert (refused[9:12], other[9:12]) == (b"429", b"200" if proxies is PROXIES else b"429")
        assert b"GREGOR_ANONYMOUS_RATE" in refused
    assert paced == ["203.0.113.9"] * 4


NAMELESS = {
    "501": b"BREW / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n",
    "400": b"GET / HTTP/7.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n",
}


@pytest.mark.parametrize("status", NAMELESS)
async def test_requests_whose_client_is_never_read_are_limited_by_proxy(status: str) -> None:
    """The parser stops before ``X-Forwarded-For``. Each such request ends a connection between proxy and process."""
    number = BURST + 20
    async with counted_port(by_path, PROXIES, anonymous=0.5) as port:
        began = time.monotonic()
        answers = await asyncio.gather(*(port.answer(NAMELESS[status]) for _ in range(number)))
        assert [answer[9:12].decode() for answer in answers] == [status] * number
        assert time.monotonic() - began >= (number - BURST - 1) / REFUSALS_PER_S
        assert (await port.answer(request("/", "203.0.113.9")))[9:12] == b"200"


async def test_request_without_a_read_client_does_not_count_for_the_client_before_it() -> None:
    """A proxy sends the requests of several clients over one connection."""
    async with counted_port(by_path, PROXIES, anonymous=0.5) as port:
        for _ in range(4):
            reader, writer = await port.send(request("/", "203.0.113.9"))
            assert (await read_answer(reader))[9:12] == b"200"
            writer.write(NAMELESS["501"].replace(b"203.0.113.9", b"203.0.113.10"))
            assert (await read_answer(reader))[9:12] == b"501"
        assert (await port.answer(request("/", "203.0.113.9")))[9:12] == b"200"


async def test_delayed_answer_to_a_malformed_request_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    release, waiting = asyncio.Event(), 0

    async def wait(_pacer: RefusalPacer, _client: str) -> None:
        nonlocal waiting
        waiting += 1
        await release.wait()

    monkeypatch.setattr(RefusalPacer, "wait", wait)
    async with counted_port(by_path, PROXIES, anonymous=0.5) as port:
        for _ in range(5):
            await port.answer(MALFORMED["414"])
        reader, writer = await port.send(MALFORMED["414"])
        _, gone = await port.send(MALFORMED["414"])
        await wait_until(lambda: waiting == 2, "both answers wait")
        writer.write(b"a" * 1_000_000)
        gone.close()
        await wait_until(lambda: len(port.connections) == 1, "the end of the second connection", 5)
        assert not reader._buffer  # type: ignore[attr-defined]
        release.set()

        assert (await read_answer(reader))[9:12] == b"414"
        assert await reader.read() == b""


async def test_private_client_without_proxies_is_not_limited() -> None:
    async with counted_port(by_path, (), anonymous=0.1) as port:
        assert [(await port.answer(request()))[9:12] for _ in range(5)] == [b"200"] * 5


def test_addresses_of_refused_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "MAX_IDLE_ADDRESSES", 10)
    requests = AnonymousRequests(1.0)
    for number in range(100):
        requests.count(str(number), 0.0)
    assert len(requests.clients) == 10

    for _ in range(10):
        requests.count("again", 60.0)
    assert len(requests.clients) == 1
    assert requests.wait_s("again", 60.0) > 0
    assert requests.wait_s("again", 61.0) == 0


# ---- PROXY protocol


@pytest.mark.parametrize("proxies", [(), PROXIES])
async def test_proxy_header_names_the_client(proxies: tuple[str, ...]) -> None:
    async with counted_port(HeldStreams(), proxies, has_proxy_headers=True, address=1) as port:
        first = await port.answer(by_proxy("2001:db9::1") + request())
        other = await port.answer(by_proxy("2001:db9:0:1::1") + request())
        same_network = by_proxy("2001:db9::2")
        reader, writer = await port.send(same_network[:20])
        await wait_until(lambda: port.admission.limiter.connections == 3, "the connection")
        writer.write(same_network[20:] + request())
        refused = await read_answer(reader)

    assert first.endswith(b"2001:db9::1")
    assert other.endswith(b"2001:db9:0:1::1")
    assert refused[9:12] == b"429"
    assert port.refusals == ["address"]


async def test_header_of_a_health_check_is_not_limited() -> None:
    async with counted_port(HeldStreams(), has_proxy_headers=True, address=1) as port:
        checks = [await port.answer(by_proxy("203.0.113.9", LOCAL_COMMAND) + request()) for _ in range(3)]

    assert [check[9:12] for check in checks] == [b"200"] * 3


async def test_connection_without_proxy_header_is_aborted() -> None:
    async with counted_port(HeldStreams(), has_proxy_headers=True) as port:
        assert await port.is_aborted(request())
        assert port.refusals == ["proxy_header"]


async def test_untrusted_peer_cannot_send_a_proxy_header() -> None:
    async with counted_port(HeldStreams(), OTHER_PROXIES, has_proxy_headers=True) as port:
        forged = await port.answer(by_proxy("203.0.113.9") + request())
        plain = await port.answer(request())

    assert forged[9:12] == b"400"
    assert plain[9:12] == b"200"


async def test_proxy_header_and_forwarded_address_form_a_chain() -> None:
    app = HeldStreams()
    async with counted_port(app, PROXIES, has_proxy_headers=True, address=1) as port:
        await port.send(by_proxy("10.0.0.7") + request("/v1/poll", "203.0.113.9"))
        await wait_until(lambda: app.waiting == 1, "the request")
        refused = await port.answer(by_proxy("10.0.0.8") + request("/", "203.0.113.9"))
        app.release.set()

    assert refused[9:12] == b"429"


async def test_half_proxy_header_times_out() -> None:
    async with counted_port(HeldStreams(), has_proxy_headers=True) as port:
        reader, _ = await port.send(by_proxy("203.0.113.9")[:20])
        await wait_until(lambda: port.admission.limiter.connections == 1, "the connection")
        for connection in tuple(port.server.server_state.connections):
            connection.check_timeout(asyncio.get_running_loop().time() + 11)  # type: ignore[union-attr]

        assert await reader.read() == b""


# ---- ports of probes


async def test_probe_port_has_its_own_small_limits() -> None:
    limits = ConnectionLimits().for_probes()

    assert (limits.process, limits.address) == (256, 32)
    assert ConnectionLimits(process=5, address=4).for_probes() == ConnectionLimits(process=5, address=4)


async def test_full_probe_port_closes_the_oldest_connection_that_is_not_answering() -> None:
    app = HeldStreams()
    async with counted_port(app, is_for_probes=True, process=3) as port:
        answering, _ = await port.send(request("/v1/poll"))
        await wait_until(lambda: app.waiting == 1, "the request")
        idle, _ = await port.send(b"")
        newest, writer = await port.send(b"GET / HTTP/1.1\r\n")
        await wait_until(lambda: port.admission.limiter.connections == 3, "the connections")

        assert (await port.answer(request()))[9:12] == b"200"
        with contextlib.suppress(ConnectionResetError):
            assert await idle.read() == b""
        writer.write(b"Host: a\r\n\r\n")
        assert (await read_answer(newest))[9:12] == b"200"
        app.release.set()
        assert (await read_answer(answering))[9:12] == b"200"
        assert port.refusals == ["process"]


async def test_probe_port_on_which_all_connections_are_answering_closes_the_oldest_one() -> None:
    app = HeldStreams()
    async with counted_port(app, is_for_probes=True, process=2) as port:
        oldest, _ = await port.send(request("/v1/poll"))
        await wait_until(lambda: app.waiting == 1, "the first request")
        await port.send(request("/v1/poll"))
        await wait_until(lambda: app.waiting == 2, "both requests")

        assert (await port.answer(request()))[9:12] == b"200"
        with contextlib.suppress(ConnectionResetError):
            assert await oldest.read() == b""
        app.release.set()
