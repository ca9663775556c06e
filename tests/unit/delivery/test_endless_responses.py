"""Servers that send `1xx` responses or a body without end: an attempt ends by its deadline and frees its place."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from gregor.auth import device_tokens
from gregor.clock import ManualClock
from gregor.core.notify.webhook_signature import encode_secret
from gregor.dev.fakes.fcm import FakeFcm
from gregor.dev.fakes.http1 import FakeResponse, Http1Server
from gregor.net.outgoing.bounded_streams import ResponseLimitExceeded
from gregor.tracing.exporter import OtlpExporter
from gregor_delivery.channels.contract import WebhookCall
from gregor_delivery.channels.fcm import google_token
from gregor_delivery.channels.fcm.channel import FcmChannel
from gregor_delivery.channels.http_pool import HttpExchange, HttpPool
from gregor_delivery.channels.verdict import Retry, Sent, Unknown
from gregor_delivery.channels.webhook import WebhookChannel
from tests.support.certificates import write_certificate
from tests.support.machine import Waiting
from tests.support.sample_pushes import push

NOW_US = 1_457_056_447_000_000
CALL = WebhookCall("audit", "", (encode_secret(b"s" * 32),), "evt-1", b"{}")
DEADLINE_S = 0.5
ENDLESS = {
    "early hints": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
}


def trusted_server(directory: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Return the context of a server that the HTTP clients of this process trust."""
    certificate = write_certificate(directory)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    return tls


@asynccontextmanager
async def endless_server(kind: str, *, is_flood: bool = False, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Answer each request with an endless response: a part each 20 ms, or as fast as the client reads."""
    head, part = ENDLESS[kind]
    answers: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            while not writer.is_closing():
                writer.write(part * (100 if is_flood else 1))
                await writer.drain()
                await asyncio.sleep(0 if is_flood else 0.02)
        writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers.add(asyncio.create_task(answer(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    # Each answer ends when its client has closed the connection: a client that keeps it would hang the test.
    await asyncio.wait_for(asyncio.gather(*answers), 10)


@pytest.mark.parametrize("kind", ["early hints", "continue"])
async def test_endless_1xx_of_a_receiver_end_at_the_deadline_in_one_slot(kind: str) -> None:
    channel = WebhookChannel(ManualClock(NOW_US), is_loopback_allowed=True)
    await channel.open()
    receiver = Http1Server(lambda _: FakeResponse(204))
    await receiver.start()
    async with endless_server(kind) as url:
        waiting, begun = Waiting(), time.monotonic()
        endless = asyncio.create_task(channel.send(replace(CALL, url=url), DEADLINE_S))

        others = await asyncio.gather(*(channel.send(replace(CALL, url=receiver.url), 30) for _ in range(10)))
        verdict = await endless

        assert others == [Sent("204")] * 10
        assert verdict == Retry(None, None, "no response before the deadline", is_unanswered=True)
        assert time.monotonic() - begun < DEADLINE_S + 1 + waiting.lost_s()
    await channel.close()
    await receiver.close()


@pytest.mark.parametrize("kind", ["early hints", "continue"])
async def test_flood_of_1xx_of_a_receiver_ends_long_before_the_deadline(kind: str) -> None:
    channel = WebhookChannel(ManualClock(NOW_US), is_loopback_allowed=True)
    await channel.open()
    async with endless_server(kind, is_flood=True) as url, asyncio.timeout(30):
        verdict = await channel.send(replace(CALL, url=url), 3_600)

    assert verdict == Retry(None, None, "the response is too long before its status", is_unanswered=True)
    await channel.close()


@pytest.mark.parametrize("kind", list(ENDLESS))
async def test_endless_response_occupies_one_slot_until_the_deadline(kind: str) -> None:
    pool, other = HttpPool(1), Http1Server(lambda _: FakeResponse(204))
    await other.start()
    async with endless_server(kind) as url:
        with suppress(TimeoutError):
            async with asyncio.timeout(DEADLINE_S):
                await pool.post(url, [], b"{}", HttpExchange())

        exchange = HttpExchange()
        async with asyncio.timeout(30):
            await pool.post(other.url, [], b"{}", exchange)

        assert exchange.status == 204
    await pool.close()
    await other.close()


async def test_endless_1xx_of_fcm_end_at_the_deadline(tmp_path: Path) -> None:
    async with endless_server("early hints") as url:
        fake = FakeFcm()
        await fake.start()
        channel = FcmChannel(fake.credentials_file(tmp_path / "a.json"), ManualClock(NOW_US), url)
        await channel.open()

        verdict = await channel.send(push(), DEADLINE_S)

        assert verdict == Unknown("no response before the deadline")
        await channel.close()
        await fake.close()


async def test_endless_1xx_of_the_token_endpoint_do_not_occupy_its_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(google_token, "FETCH_TIMEOUT_S", 0.2)
    fake = FakeFcm()
    await fake.start()
    async with endless_server("early hints") as url:
        file = fake.credentials_file(tmp_path / "a.json", token_uri=f"{url}/token")
        channel = FcmChannel(file, ManualClock(NOW_US), fake.url)
        await channel.open()

        # The second fetch begins after the first: both end by their own time, not by the deadline of the push.
        async with asyncio.timeout(30):
            verdicts = [await channel.send(push(), 20.0) for _ in range(2)]

        assert [type(verdict) for verdict in verdicts] == [Retry, Retry]
        assert all("takes longer than 0.2 s" in str(verdict) for verdict in verdicts)
        await channel.close()
    await fake.close()


@pytest.mark.parametrize("kind", list(ENDLESS))
async def test_endless_response_of_a_key_server_has_a_total_time(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_tokens, "READ_TIMEOUT_S", 0.3)
    async with endless_server(kind, tls=trusted_server(tmp_path, monkeypatch)) as url, asyncio.timeout(30):
        with pytest.raises(TimeoutError):
            await device_tokens.fetch_jwks(url)


@pytest.mark.parametrize("kind", list(ENDLESS))
async def test_flood_of_a_key_server_ends_by_its_work(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_tokens, "READ_TIMEOUT_S", 60)
    tls = trusted_server(tmp_path, monkeypatch)
    async with endless_server(kind, is_flood=True, tls=tls) as url, asyncio.timeout(60):
        with pytest.raises(httpx.RemoteProtocolError) as raised:
            await device_tokens.fetch_jwks(url)

    assert isinstance(raised.value.__cause__, ResponseLimitExceeded)


@pytest.mark.parametrize("kind", list(ENDLESS))
async def test_flood_of_a_trace_collector_ends_by_its_work(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gregor.tracing.exporter.TIMEOUT_S", 60)
    async with endless_server(kind, is_flood=True) as url, asyncio.timeout(60):
        exporter = OtlpExporter(url, "delivery", CollectorRegistry())
        with pytest.raises(httpx.RemoteProtocolError) as raised:
            await exporter._post(b"{}")
        await exporter.close()

    assert isinstance(raised.value.__cause__, ResponseLimitExceeded)
