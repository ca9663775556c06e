"""Limits of the WebSocket port before authentication: connections, handshakes, proxies, half-open sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_address
from typing import Any

import httpx
import pytest
import uvloop

from gregor.core.close_codes import CloseCode
from gregor_gateway.connection.connection import DeviceConnection
from gregor_gateway.transports.admin_port import AdminServer
from gregor_gateway.transports.http_app import StreamServer
from gregor_gateway.transports.websocket import WebSocketServer, WebSocketTransport
from tests.support.reset_connection import reset_before_accept
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import Gateway, open_gateway, settle
from tests.unit.gateway.test_websocket import UPGRADE, head, masked, raw
from tests.unit.net.test_proxy_protocol import header

PROXIES = {"trusted_proxies": ("127.0.0.1",)}
"""Loopback is a proxy, which names the clients."""
OTHER_PROXIES = {"trusted_proxies": ("192.0.2.0/24",)}
"""Loopback is a client with the limits of a client."""


async def status(gateway: Gateway, data: bytes) -> tuple[bytes, asyncio.StreamWriter]:
    """Send a request; return the first line of the response."""
    reader, writer = await raw(gateway, data)
    return await reader.readline(), writer


async def is_ended(reader: asyncio.StreamReader) -> bool:
    """Return whether the connection ended without an answer."""
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


async def close_reason(reader: asyncio.StreamReader) -> bytes:
    """Return the payload of the close frame behind the upgrade response."""
    await reader.readuntil(b"\r\n\r\n")
    return (await reader.read())[2:]


async def opened(gateway: Gateway, count: int, **headers: str) -> list[asyncio.StreamWriter]:
    writers = []
    for _ in range(count):
        line, writer = await status(gateway, head(**UPGRADE, **headers))
        assert b" 101 " in line
        writers.append(writer)
    return writers


@pytest.fixture
async def limited() -> AsyncIterator[Gateway]:
    async with open_gateway(max_connections_per_address=3, handshake_rate=100, **OTHER_PROXIES) as gateway:
        yield gateway


@contextlib.asynccontextmanager
async def stream_port(gateway: Gateway) -> AsyncIterator[str]:
    """Serve the stream port of a gateway with settings of the test; returns its URL."""
    server = StreamServer(gateway.context)
    listening = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve(listening))
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    for connection in tuple(server.connections):
        connection.close(4001)
    server.stop()
    await serving
    listening.close()


def refused(gateway: Gateway, limit: str) -> float:
    value: float = gateway.context.metrics.connections_refused.labels(limit)._value.get()
    return value


async def test_connections_of_an_address_are_closed_with_4009(limited: Gateway) -> None:
    writers = await opened(limited, 3)
    reader, writer = await raw(limited, head(**UPGRADE))
    payload = await close_reason(reader)

    assert int.from_bytes(payload[:2], "big") == 4009
    found = re.fullmatch(rb"retry_after_ms=([0-9]+)", payload[2:])
    assert found is not None
    assert 1_000 <= int(found[1]) <= 3_000
    assert (refused(limited, "address"), limited.closes(4009)) == (1, 1)
    for each in (*writers, writer):
        each.close()
    await wait_until(lambda: limited.context.connection_limiter.connections == 0, "the ends")
    for each in await opened(limited, 3):
        each.close()


async def test_plain_request_above_the_limit_gets_429(limited: Gateway) -> None:
    writers = await opened(limited, 3)
    reader, writer = await raw(limited, head("/healthz"))
    answer = await reader.read()

    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"Retry-After: " in answer
    assert b"GREGOR_MAX_CONNECTIONS_PER_ADDRESS" in answer
    reader, other = await raw(limited, head("/healthz", "HEAD"))
    assert (await reader.read()).endswith(b"\r\n\r\n")
    for each in (*writers, writer, other):
        each.close()


async def test_flood_of_refused_connections_gets_no_answer(limited: Gateway) -> None:
    held = [await raw(limited, b"") for _ in range(6)]
    await settle()
    reader, writer = await raw(limited, b"")

    assert await is_ended(reader)
    assert refused(limited, "flood") == 1
    for _, each in (*held, (reader, writer)):
        each.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("is_admin_port", [False, True])
def test_connection_reset_before_it_is_accepted_is_not_served(run: Any, is_admin_port: bool) -> None:
    """Its socket has no peer address, and looked like a Unix socket: no limit of a client applied."""

    async def test() -> None:
        async with open_gateway(**OTHER_PROXIES) as gateway:
            context = gateway.context
            factory: Any = AdminServer(context) if is_admin_port else WebSocketServer(context)
            limiter = factory.limiter if is_admin_port else context.connection_limiter
            async with await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0) as server:
                reset_before_accept(server.sockets[0].getsockname()[1], head(**UPGRADE, Authorization="Bearer x"))
                await wait_until(lambda: refused(gateway, "reset") == 1, "the refusal")
                await wait_until(lambda: limiter.connections == 0, "the end")

            assert gateway.closes(CloseCode.UNAUTHORISED) == 0

    run(test())


async def test_handshakes_of_an_address_are_limited() -> None:
    async with open_gateway(handshake_rate=1, **OTHER_PROXIES) as gateway:
        for writer in await opened(gateway, 5):
            writer.close()
        reader, writer = await raw(gateway, head(**UPGRADE))
        assert (await close_reason(reader))[:2] == (4009).to_bytes(2, "big")
        writer.close()
        gateway.pass_time(2)
        (writer,) = await opened(gateway, 1)
        writer.close()

        assert refused(gateway, "handshakes") == 1


async def test_connections_of_a_process_are_limited() -> None:
    async with open_gateway(max_connections_process=2) as gateway:
        writers = await opened(gateway, 2)
        reader, writer = await raw(gateway, b"")
        answer = await reader.read()

        assert answer.startswith(b"HTTP/1.1 503 ")
        assert re.search(rb"(?i)\r\nretry-after: ([5-9]|10)\r\n", answer)
        assert b"GREGOR_MAX_CONNECTIONS_PROCESS" in answer
        for each in (*writers, writer):
            each.close()


async def test_trusted_proxy_names_the_client() -> None:
    async with open_gateway(max_connections_per_address=1, **PROXIES) as gateway:
        writers = await opened(gateway, 1, **{"X-Forwarded-For": "203.0.113.9"})
        writers += await opened(gateway, 1, **{"X-Forwarded-For": "203.0.113.9, 203.0.113.10"})
        reader, writer = await raw(gateway, head(**UPGRADE, **{"X-Forwarded-For": "1.2.3.4, 203.0.113.9"}))

        assert (await close_reason(reader))[:2] == (4009).to_bytes(2, "big")
        for each in (*writers, writer):
            each.close()


async def test_forwarded_address_of_a_client_is_ignored() -> None:
    async with open_gateway(max_connections_per_address=1, **OTHER_PROXIES) as gateway:
        writers = await opened(gateway, 1, **{"X-Forwarded-For": "203.0.113.1"})
        reader, writer = await raw(gateway, head(**UPGRADE, **{"X-Forwarded-For": "203.0.113.2"}))

        assert (await close_reason(reader))[:2] == (4009).to_bytes(2, "big")
        for each in (*writers, writer):
            each.close()


@pytest.mark.parametrize("settings", [{}, PROXIES])
async def test_proxy_protocol_names_the_client(settings: dict[str, Any]) -> None:
    async with open_gateway(proxy_protocol=True, max_connections_per_address=1, **settings) as gateway:
        one, other = (header(ip_address(text)) for text in ("2001:db9::1", "2001:db9:0:1::1"))
        same_network = header(ip_address("2001:db9::2"))
        _, first = await status(gateway, one + head(**UPGRADE))
        line, second = await status(gateway, other + head(**UPGRADE))
        reader, third = await raw(gateway, same_network[:20])
        await settle()
        third.write(same_network[20:] + head(**UPGRADE))

        assert b" 101 " in line
        assert (await close_reason(reader))[:2] == (4009).to_bytes(2, "big")
        for each in (first, second, third):
            each.close()


async def test_connection_without_proxy_header_is_aborted() -> None:
    async with open_gateway(proxy_protocol=True) as gateway:
        reader, writer = await raw(gateway, head(**UPGRADE))

        assert await is_ended(reader)
        writer.close()


async def test_peer_that_is_no_trusted_proxy_sends_no_proxy_header() -> None:
    async with open_gateway(proxy_protocol=True, **OTHER_PROXIES) as gateway:
        line, writer = await status(gateway, head(**UPGRADE))
        spoofed, other = await status(gateway, header(ip_address("203.0.113.9")) + head(**UPGRADE))

        assert b" 101 " in line
        assert b" 101 " not in spoofed
        writer.close()
        other.close()


async def test_half_open_sockets_are_gone_in_15_seconds(gateway: Gateway) -> None:
    pieces = [b"", b"G", head(**UPGRADE)[:-2], b"\r\n"]
    held = [await raw(gateway, piece) for piece in pieces * 25]
    await settle()
    assert gateway.context.connection_limiter.connections == 100
    for _ in range(15):
        gateway.pass_time(1)
        for _, writer in held:
            writer.write(b"X")
        await settle()
    await wait_until(lambda: gateway.context.connection_limiter.connections == 0, "the ends")
    for _, writer in held:
        writer.close()


async def test_ended_socket_leaves_nothing_large_on_the_timer_wheel(gateway: Gateway) -> None:
    def transports() -> int:
        gc.collect()
        return sum(isinstance(each, WebSocketTransport) for each in gc.get_objects())

    before = transports()
    held = [await raw(gateway, head(**UPGRADE)[:-2] + b"X-Padding: " + b"x" * 8_000) for _ in range(20)]
    await wait_until(lambda: gateway.context.connection_limiter.connections == 20, "the connections")
    for _, writer in held:
        writer.close()
    await wait_until(lambda: gateway.context.connection_limiter.connections == 0, "the ends")
    await settle()

    assert transports() <= before


@pytest.mark.parametrize("frame", [b"", masked(b"not json"), masked(b"", 0x88), masked(b"", 0x80 | 0x0B)])
async def test_ended_session_leaves_nothing_large_on_the_timer_wheel(gateway: Gateway, frame: bytes) -> None:
    """The client leaves before its hello, after an invalid one, after a close frame, and after a broken frame."""

    def connections() -> int:
        gc.collect()
        return sum(isinstance(each, DeviceConnection | WebSocketTransport) for each in gc.get_objects())

    before = connections()
    held = [await raw(gateway, head(**UPGRADE) + frame * 2) for _ in range(20)]
    for reader, _ in held:
        await reader.readuntil(b"\r\n\r\n")
    for _, writer in held:
        writer.close()
    await wait_until(lambda: gateway.context.connection_limiter.connections == 0, "the ends")
    await settle()

    assert connections() <= before


async def test_proxy_header_and_forwarded_address_form_a_chain() -> None:
    async with open_gateway(
        proxy_protocol=True, max_connections_per_address=1, trusted_proxies=("127.0.0.1", "10.0.0.0/8")
    ) as gateway:
        forwarded = {"X-Forwarded-For": "203.0.113.9"}
        one, other = (header(ip_address(f"10.0.0.{number}")) for number in (1, 2))
        line, first = await status(gateway, one + head(**UPGRADE, **forwarded))
        reader, second = await raw(gateway, other + head(**UPGRADE, **forwarded))

        assert b" 101 " in line
        assert (await close_reason(reader))[:2] == (4009).to_bytes(2, "big")
        first.close()
        second.close()


async def test_streams_of_forwarded_clients_are_limited() -> None:
    async with open_gateway(max_connections_per_address=2, **PROXIES) as gateway, stream_port(gateway) as url:
        forwarded = {"X-Forwarded-For": "1.2.3.4, 203.0.113.9", "Authorization": f"Bearer {gateway.token()}"}
        limiter = gateway.context.connection_limiter
        async with httpx.AsyncClient(base_url=url, trust_env=False, headers=forwarded) as client:
            async with client.stream("GET", "/v1/stream"):
                held = (await client.get("/v1/poll?wait=0")).status_code
                limiter.open_for("203.0.113.9", 0.0)
                refused = await client.get("/v1/poll?wait=0")
                other = await client.get("/v1/poll?wait=0", headers={"X-Forwarded-For": "203.0.113.10"})
            limiter.close_for("203.0.113.9")

    assert (held, other.status_code) == (200, 200)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")


async def test_stream_port_takes_the_proxy_protocol() -> None:
    settings = {"proxy_protocol_http": True, "max_connections_per_address": 1}
    async with open_gateway(**settings) as gateway, stream_port(gateway) as url:
        port = int(url.rpartition(":")[2])
        answers = []
        for client in ("8.8.8.8", "8.8.4.4", "8.8.8.8"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(header(ip_address(client)) + b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            answers.append((await reader.readline(), writer))
        for _, writer in answers:
            writer.close()

    assert [line[9:12] for line, _ in answers] == [b"200", b"200", b"429"]


async def test_stream_port_hides_metrics_from_trusted_proxies() -> None:
    for settings, expected in ((PROXIES, 404), (OTHER_PROXIES, 200)):
        async with (
            open_gateway(**settings) as gateway,
            stream_port(gateway) as url,
            httpx.AsyncClient(trust_env=False, base_url=url) as client,
        ):
            assert (await client.get("/metrics")).status_code == expected
            assert (await client.get("/readyz")).status_code == 200


async def test_web_page_reads_no_metrics_of_the_stream_port() -> None:
    page = {"Host": "evil.example", "User-Agent": "Mozilla/5.0", "Accept-Language": "en"}
    async with (
        open_gateway() as gateway,
        stream_port(gateway) as url,
        httpx.AsyncClient(trust_env=False, base_url=url) as client,
    ):
        assert (await client.get("/metrics", headers=page)).status_code == 403
        assert (await client.get("/metrics")).status_code == 200


async def test_connections_of_the_stream_port_are_limited() -> None:
    async with open_gateway(max_connections_per_address=2, **OTHER_PROXIES) as gateway:
        server = StreamServer(gateway.context)
        listening = socket.create_server(("127.0.0.1", 0))
        serving = asyncio.create_task(server.serve(listening))
        port = listening.getsockname()[1]
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await wait_until(lambda: gateway.context.connection_limiter.connections == 2, "the connections")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = await reader.read()
        for _, each in (*held, (reader, writer)):
            each.close()
        await wait_until(lambda: gateway.context.connection_limiter.connections == 0, "the ends")
        server.stop()
        await serving
        listening.close()

    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"retry-after: " in answer
    assert b"GREGOR_MAX_CONNECTIONS_PER_ADDRESS" in answer
