"""An overloaded ingest refuses requests cheaply, with Retry-After, and keeps their connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.net.request_queue import LATE_FOR_S, NORMAL_CAPACITY, RequestQueue
from gregor.web.counted_http import CountedHttpProtocol, counted_http, is_usual_request
from gregor.web.serving import make_server
from tests.support.api import Api

MESSAGE = b'{"system":"kbfs","body":1}'
HEADERS = b"Host: gregor.test\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(MESSAGE)


@dataclass
class Site:
    """A running ingest, and one connection to it."""

    api: Api
    queue: RequestQueue
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    connections: set[CountedHttpProtocol]

    async def call(self, data: bytes, rest: bytes = b"") -> tuple[int, dict[str, str], dict[str, Any]]:
        """Send a request, its rest in another packet, and return status, headers and document."""
        self.writer.write(data)
        if rest:
            await asyncio.sleep(0)
            self.writer.write(rest)
        head = await self.reader.readuntil(b"\r\n\r\n")
        status, *lines = head.decode().strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(status.split()[1]), headers, json.loads(body)

    def message(self, extra: bytes = b"", path: bytes = b"/v1/users/alice/messages") -> bytes:
        token = f"Authorization: Bearer {self.api.key}\r\n".encode()
        return b"POST " + path + b" HTTP/1.1\r\n" + HEADERS + token + extra + b"\r\n" + MESSAGE

    async def status(self, data: bytes) -> int:
        return (await self.call(data))[0]

    def overload(self) -> None:
        """Refuse all requests."""
        # Two late requests, a second apart, begin an overload: it must not end while the test runs.
        now_s = time.monotonic()
        for at_s in (now_s - LATE_FOR_S, now_s):
            self.queue.leave(0, at_s - 1, at_s, is_verified=False)
        self.queue.capacity = 0

    def counted(self, name: str) -> float:
        """Return a metric."""
        lines = self.api.app.state.context.metrics.exposition().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@contextlib.asynccontextmanager
async def site(**settings: Any) -> AsyncIterator[Site]:
    async with Api(**settings) as api:
        admission = api.app.state.context.admission
        server = make_server(api.app, "127.0.0.1", 0, 1, has_lifespan=False, protocol=counted_http(admission))
        listening = socket.create_server(("127.0.0.1", 0))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        try:
            yield Site(api, admission.queue, reader, writer, server.server_state.connections)  # type: ignore[arg-type]
        finally:
            writer.close()
            server.should_exit = server.force_exit = True
            await serving
            listening.close()


UNUSUAL = {
    "folded": b"X-Forwarded-For: 192.0.2.1,\r\n 192.0.2.2\r\n",
    "own request id": b"X-Request-Id: order-66\r\n",
    "other length": b"Content-Length: %d\r\n" % len(MESSAGE),
    "chunked": b"Transfer-Encoding: chunked\r\n",
    "chunked, with a space": b"Transfer-Encoding : chunked\r\n",
    "expect": b"Expect: 100-continue\r\n",
    "close": b"Connection: close\r\n",
    "upgrade": b"Upgrade: h2c\r\n",
    "page": b"Origin: https://app.example\r\n",
    "hidden by a bare line feed": b"X: y\nTransfer-Encoding: chunked\r\n",
}


@pytest.mark.parametrize("extra", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_request_is_not_refused_fast(extra: bytes) -> None:
    plain = b"POST /v1/messages HTTP/1.1\r\n" + HEADERS

    assert is_usual_request(plain + b"Connection: keep-alive\r\n\r\n" + MESSAGE)
    assert not is_usual_request(plain + extra + b"\r\n" + MESSAGE)


@given(st.integers(0, 400), st.binary(max_size=3))
def test_only_whole_requests_are_refused_fast(cut: int, more: bytes) -> None:
    whole = b"POST /v1/messages HTTP/1.1\r\n" + HEADERS + b"\r\n" + MESSAGE
    data = whole[:cut] + more if cut < len(whole) else whole + more

    assert is_usual_request(data) == (data == whole or (len(data) == len(whole) and data.startswith(whole[:-5])))


@pytest.mark.parametrize(
    "line", [b"OPTIONS /v1/messages", b"HEAD /v1/x", b"GET /readyz", b"GET http://a/v1/x", b"GET /"]
)
def test_only_api_requests_are_refused_fast(line: bytes) -> None:
    assert not is_usual_request(line + b" HTTP/1.1\r\nHost: a\r\n\r\n")


async def test_fast_refusal_equals_the_general_one() -> None:
    async with site() as running:
        assert (await running.call(running.message()))[0] == 200
        running.overload()
        fast = await running.call(running.message())
        general = await running.call(running.message(b"X-Request-Id: order-66\r\n"))

        for status, headers, document in (fast, general):
            assert (status, document["code"], document["status"]) == (503, "unavailable", 503)
            assert "GREGOR_MAX_QUEUE_DELAY" in document["detail"]
            assert 1 <= int(headers["retry-after"]) <= 5
            assert document["request_id"] == headers["x-request-id"]
            assert headers["content-type"] == "application/problem+json"
            assert headers["x-content-type-options"] == "nosniff"
        assert fast[2] | {"request_id": ""} == general[2] | {"request_id": ""}
        assert (len(fast[1]["x-request-id"]), general[1]["x-request-id"]) == (16, "order-66")


async def test_connection_stays_usable_after_refusals() -> None:
    async with site() as running:
        running.overload()
        ids = {(await running.call(running.message()))[1]["x-request-id"] for _ in range(10)}
        assert len(ids) == 10
        # A head and its body in two packets, and a body in chunks, take the general way.
        data = running.message()
        assert (await running.call(data[:-5], data[-5:]))[0] == 503
        running.queue.capacity = NORMAL_CAPACITY
        assert (await running.call(running.message()))[0] == 200


async def test_probes_are_answered_in_an_overload() -> None:
    async with site() as running:
        running.overload()

        assert (await running.call(b"GET /healthz HTTP/1.1\r\nHost: gregor.test\r\n\r\n"))[0] == 200


async def test_refusals_are_counted_as_requests() -> None:
    async with site() as running:
        running.overload()
        for _ in range(3):
            await running.call(running.message())
        await running.call(running.message(b"X-Request-Id: order-66\r\n"))

        assert running.counted("gregor_overload_refusals_total") == 4
        assert running.counted("gregor_http_requests_total") == 4
        assert running.counted('gregor_http_requests_total{method="other",route="none",status="503"}') == 3


async def test_page_can_read_a_refusal() -> None:
    async with site(origins=("https://app.example",)) as running:
        running.overload()
        status, headers, _ = await running.call(running.message(b"Origin: https://app.example\r\n"))

        assert (status, headers["access-control-allow-origin"]) == (503, "https://app.example")


async def test_setting_turns_refusals_off() -> None:
    async with site(max_queue_delay_s=0) as running:
        assert running.queue is None
        assert (await running.call(running.message()))[0] == 200


async def test_refused_connection_is_not_idle() -> None:
    """The timer of idle connections is not moved by a refusal, which would cost more than the check at its end."""
    async with site() as running:
        await running.call(running.message())
        (connection,) = running.connections
        connection._since -= 100
        running.overload()
        await running.call(running.message())

        connection.timeout_keep_alive_handler()
        assert not connection.transport.is_closing()
        connection._since -= 100
        connection.timeout_keep_alive_handler()
        assert connection.transport.is_closing()


# ---- strangers

STRANGER = b"POST /v1/users/alice/messages HTTP/1.1\r\n" + HEADERS + b"\r\n" + MESSAGE
GENERAL = b"X-Request-Id: order-66\r\n"
"""A header that the fast refusal does not handle."""
BOTH_PATHS = pytest.mark.parametrize("extra", [b"", GENERAL], ids=["fast", "general"])


def forwarded(extra: bytes, client: bytes, data: bytes = STRANGER) -> bytes:
    """Return the request as a proxy sends it for a client."""
    return data.replace(b"Host:", b"X-Forwarded-For: " + client + b"\r\n" + extra + b"Host:", 1)


async def test_strangers_do_not_fill_the_queue_for_a_verified_key() -> None:
    async with site() as running:
        assert await running.status(running.message()) == 200
        running.queue.waiting = NORMAL_CAPACITY
        for extra in (b"", GENERAL):
            assert await running.status(STRANGER.replace(b"Host:", extra + b"Host:")) == 503
            assert await running.status(running.message(extra)) == 200
        assert running.queue.verified == 0


@BOTH_PATHS
async def test_refused_strangers_count_for_their_address(extra: bytes) -> None:
    async with site(trusted_proxies="127.0.0.1", anonymous_rate=0.5) as running:
        assert await running.status(running.message()) == 200
        running.overload()
        answers = [await running.call(forwarded(extra, b"203.0.113.9")) for _ in range(7)]
        assert [status for status, _, _ in answers] == [503] * 5 + [429] * 2
        assert "GREGOR_ANONYMOUS_RATE" in answers[-1][2]["detail"]
        # Neither other clients of the proxy nor verified keys of the same address are limited.
        assert await running.status(forwarded(extra, b"203.0.113.10")) == 503
        assert await running.status(forwarded(extra, b"203.0.113.9", running.message())) == 503


@BOTH_PATHS
async def test_refusals_of_a_verified_key_are_not_counted(extra: bytes) -> None:
    async with site(trusted_proxies="127.0.0.1", anonymous_rate=0.5) as running:
        data = forwarded(extra, b"203.0.113.9", running.message())
        assert await running.status(data) == 200
        running.overload()
        assert {await running.status(data) for _ in range(20)} == {503}
        running.queue.capacity = NORMAL_CAPACITY
        assert await running.status(data) == 200
        assert await running.status(forwarded(extra, b"203.0.113.9")) == 401


async def test_request_with_two_keys_counts_as_unverified() -> None:
    """The fast refusal and the application read the same caller."""
    async with site(trusted_proxies="127.0.0.1", anonymous_rate=0.5) as running:
        data = forwarded(b"Authorization: Bearer x\r\n", b"203.0.113.9", running.message())
        assert await running.status(running.message()) == 200
        running.overload()
        assert [await running.status(data) for _ in range(6)] == [503] * 5 + [429]
