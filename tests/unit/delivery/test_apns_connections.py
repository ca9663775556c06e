"""The APNs connection pool: limits, order, outages and shutdown."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import StreamEnded

from gregor.dev.fakes.apns import ANY_TOKEN
from gregor.dev.fakes.apns_actions import ApnsAction
from gregor.dev.fakes.tls import CertificateAuthority
from gregor_delivery.channels.apns.channel import ApnsChannel
from gregor_delivery.channels.apns.connection import ApnsConnection
from gregor_delivery.channels.apns.exchange import ApnsResponse, Lost, NotProcessed
from gregor_delivery.channels.apns.pool import ApnsEndpoint, ApnsPool
from gregor_delivery.channels.apns.responses import is_connection_spoiled
from gregor_delivery.channels.verdict import Misconfigured, Retry, Sent, Unknown
from tests.support.sample_pushes import push
from tests.support.wait import wait_until
from tests.unit.delivery.apns_harness import ApnsHarness, apns_harness


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[ApnsHarness]:
    async with apns_harness(tmp_path) as each:
        yield each


async def test_all_connections_share_one_provider_token(tmp_path: Path) -> None:
    async with apns_harness(tmp_path, most_streams=2) as harness:
        harness.fake.script(ANY_TOKEN, *[ApnsAction(delay_s=0.1)] * 8)

        await asyncio.gather(*(harness.send() for _ in range(8)))
        harness.fake.cut_connections()
        await wait_until(lambda: not harness.connections, "the connections are gone")
        await harness.send()

        assert harness.fake.connections >= 3
        assert len(harness.fake.provider_tokens) == 1


async def test_lower_stream_limit_is_obeyed(tmp_path: Path) -> None:
    async with apns_harness(tmp_path, config={"max_connections": 1}) as harness:
        await harness.send_with_action(ApnsAction(most_streams=3))
        harness.fake.script(ANY_TOKEN, *[ApnsAction(is_silent=True)] * 3)
        sends = [asyncio.create_task(harness.send(push(token=f"t{n}"), 30)) for n in range(10)]
        await wait_until(lambda: len(harness.fake.received) == 4, "three are in flight")
        assert [each.in_flight for each in harness.connections] == [3]

        harness.fake.cut_connections()

        verdicts = await asyncio.gather(*sends)
        assert [type(each) for each in verdicts] == [Unknown] * 3 + [Sent] * 7


async def test_waiting_requests_keep_their_order(tmp_path: Path) -> None:
    async with apns_harness(tmp_path, most_streams=1, config={"max_connections": 1}) as harness:
        await asyncio.gather(*(harness.send(push(token=f"t{n}")) for n in range(20)))

        assert [each.token for each in harness.fake.received] == [f"t{n}" for n in range(20)]


async def test_connection_limit(tmp_path: Path) -> None:
    async with apns_harness(tmp_path, most_streams=1, config={"max_connections": 3}) as harness:
        harness.fake.script(ANY_TOKEN, *[ApnsAction(delay_s=0.02)] * 30)

        verdicts = await asyncio.gather(*(harness.send() for _ in range(30)))

        assert {type(each) for each in verdicts} == {Sent}
        assert harness.fake.connections == 3


async def test_unreachable_provider_is_retried(tmp_path: Path) -> None:
    async with apns_harness(tmp_path) as harness:
        await harness.fake.close()

        verdict = await harness.send()

        assert isinstance(verdict, Retry)
        assert verdict.status is None
        assert verdict.detail.startswith("cannot connect")


async def test_second_goaway_at_connect_fails_the_request() -> None:
    connections = []

    async def go_away(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
        writer.write(settings + b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + bytes(8))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(go_away, "127.0.0.1", 0)
    pool = ApnsPool(ApnsEndpoint("127.0.0.1", server.sockets[0].getsockname()[1], None), 2, is_connection_spoiled)

    outcome = await pool.exchange([(b":method", b"POST")], b"{}", asyncio.get_running_loop().time() + 0.5)

    assert outcome == NotProcessed("cannot connect: the provider closes the connection")
    assert len(connections) == 2
    await pool.close()
    server.close()


async def test_one_goaway_at_connect_is_retried() -> None:
    connections = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        server = H2Connection(H2Configuration(client_side=False))
        server.initiate_connection()
        goaway = b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + bytes(8)
        writer.write(server.data_to_send() + (goaway if len(connections) == 1 else b""))
        while data := await reader.read(65536):
            for event in server.receive_data(data):
                if isinstance(event, StreamEnded):
                    server.send_headers(event.stream_id, [(":status", "200")], end_stream=True)
            writer.write(server.data_to_send())
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    pool = ApnsPool(ApnsEndpoint("127.0.0.1", listener.sockets[0].getsockname()[1], None), 2, is_connection_spoiled)
    headers = [(b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/3/device/a"), (b":authority", b"x")]
    deadline_at = asyncio.get_running_loop().time() + 5

    outcomes = await asyncio.gather(*(pool.exchange(headers, b"{}", deadline_at) for _ in range(3)))

    assert [each.status for each in outcomes if isinstance(each, ApnsResponse)] == [200] * 3
    assert len(connections) == 2
    await pool.close()
    await asyncio.gather(*(each.wait_closed() for each in connections))
    listener.close()


async def test_cancelled_wait_for_a_connection(tmp_path: Path) -> None:
    async with apns_harness(tmp_path) as harness:
        await harness.fake.close()
        cancelled, other = asyncio.create_task(harness.send()), asyncio.create_task(harness.send())
        await asyncio.sleep(0)

        cancelled.cancel()

        assert isinstance(await other, Retry)
        assert cancelled.cancelled()


async def test_reconnect_after_an_outage(tmp_path: Path) -> None:
    async with apns_harness(tmp_path) as harness:
        await harness.send()
        port = int(harness.fake.url.rpartition(":")[2])
        await harness.fake.close()
        await harness.send()

        await harness.fake.start(port)

        assert isinstance(await harness.send(), Sent)


async def test_untrusted_server_is_misconfigured(harness: ApnsHarness) -> None:
    channel = ApnsChannel(replace(harness.config, ca_file=None))
    await channel.open()

    verdict = await channel.send(push(), 5)

    assert isinstance(verdict, Misconfigured)
    assert "not trusted" in verdict.detail
    assert harness.fake.received == []
    await channel.close()


async def test_dead_connection_is_detected_by_ping(harness: ApnsHarness) -> None:
    host, _, port = harness.fake.url.removeprefix("https://").rpartition(":")
    pool = ApnsPool(ApnsEndpoint(host, int(port), harness.channel.tls), 1, is_connection_spoiled, keepalive_s=0.05)
    loop = asyncio.get_running_loop()
    headers = [(b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/3/device/a"), (b":authority", b"x")]
    assert isinstance(await pool.exchange(headers, b"{}", loop.time() + 5), ApnsResponse)
    harness.fake.freeze()

    outcome = await pool.exchange(headers, b"{}", loop.time() + 5)

    assert outcome == Lost("no answer to a ping")
    await pool.close()


async def test_close_waits_for_requests_in_flight(harness: ApnsHarness) -> None:
    harness.fake.script("slow", ApnsAction(delay_s=0.1))
    slow = asyncio.create_task(harness.send(push(token="slow")))
    await wait_until(lambda: harness.fake.received, "it is in flight")

    await harness.channel.close()

    assert slow.done()
    assert isinstance(await slow, Sent)
    assert isinstance(await harness.send(), Retry)


async def test_protocol_error_is_answered_with_goaway(harness: ApnsHarness) -> None:
    """RFC 9113 §5.4.1: an endpoint that meets a connection error sends GOAWAY with its code, then closes."""
    verdict = await harness.send_with_action(ApnsAction(is_malformed=True))

    assert isinstance(verdict, Unknown)
    await wait_until(lambda: harness.fake.goaways, "the provider has the GOAWAY")
    assert harness.fake.goaways == [ErrorCodes.PROTOCOL_ERROR]


async def test_closing_connection_sends_goaway(tmp_path: Path) -> None:
    async with apns_harness(tmp_path) as harness:
        await harness.send()
        await harness.channel.close()

        await wait_until(lambda: harness.fake.goaways, "the provider has the GOAWAY")
        assert harness.fake.goaways == [ErrorCodes.NO_ERROR]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_provider_that_ignores_the_end_of_tls_is_cut_off(
    run: Callable[[Coroutine[Any, Any, None]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gregor_delivery.channels.apns.connection.CLOSE_S", 0.05, raising=False)
    run(close_connection_to_deaf_provider(CertificateAuthority(tmp_path)))


async def close_connection_to_deaf_provider(authority: CertificateAuthority) -> None:
    """End a connection to a provider that reads nothing after the TLS handshake; return when it is lost."""
    streams = []
    accepted = asyncio.Event()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        streams.append((reader, writer))  # asyncio closes a connection without a reference to its reader
        accepted.set()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=authority.server_context("h2"))
    lost: list[Exception | None] = []
    connection = ObservedConnection(lost)
    context = ssl.create_default_context(cafile=authority.ca_file)
    port = server.sockets[0].getsockname()[1]
    await asyncio.get_running_loop().create_connection(lambda: connection, "127.0.0.1", port, ssl=context)
    await accepted.wait()
    connection.end("over")

    try:
        await wait_until(lambda: lost, "the connection is lost", timeout_s=5)
    finally:
        streams[0][1].transport.abort()
        server.close()


class ObservedConnection(ApnsConnection):
    """A connection that records its loss."""

    def __init__(self, lost: list[Exception | None]) -> None:
        super().__init__(lambda: None, lambda _: None)
        self.ready.add_done_callback(lambda ready: ready.exception())
        self._lost = lost

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._lost.append(exc)
