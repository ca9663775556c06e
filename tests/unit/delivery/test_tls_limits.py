"""TLS to hostile APNs, relays and token endpoints: records without content are limited, other records are not."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gregor.clock import ManualClock
from gregor.dev.fakes.apns import FakeApns
from gregor.dev.fakes.apns_actions import ApnsAction
from gregor.dev.fakes.fcm import FakeFcm
from gregor.dev.fakes.http1 import FakeResponse, Http1Server
from gregor.dev.fakes.keys import write_key
from gregor.dev.fakes.smtp import FakeSmtp
from gregor.dev.fakes.tls import CertificateAuthority
from gregor.net.outgoing.bounded_streams import READ_BYTES
from gregor_delivery.channels.apns.channel import ApnsChannel, ApnsConfig
from gregor_delivery.channels.fcm.channel import FcmChannel
from gregor_delivery.channels.tls import MAX_TLS_OVERHEAD, TlsLimitExceeded, limit_overhead
from gregor_delivery.channels.verdict import Retry, Sent, Verdict
from tests.support.mail_channel import NOW_US, open_mail_channel
from tests.support.sample_pushes import push
from tests.support.tls_floods import KEY_UPDATE_BYTES, TlsPair

TICKETS = 3_000
"""Session tickets, of 250 bytes each, that a hostile server sends before the first byte of a response."""


class HostileAuthority(CertificateAuthority):
    """A certificate authority whose servers send `TICKETS` session tickets after the handshake."""

    def server_context(self, *alpn: str, takes_client_certificates: bool = False) -> ssl.SSLContext:
        """Return the context of a hostile server."""
        context = super().server_context(*alpn, takes_client_certificates=takes_client_certificates)
        context.num_tickets = TICKETS
        return context


@pytest.fixture
def pair(tmp_path: Path) -> TlsPair:
    return TlsPair(tmp_path, limit_overhead(ssl.create_default_context()))


# --- limits of one connection ---


def test_key_updates_end_a_connection_after_few_of_them(pair: TlsPair) -> None:
    pair.send_key_updates(6_000)
    arrived = pair.to_client.pending

    with pytest.raises(TlsLimitExceeded):
        pair.client.read(65_536)

    assert arrived == 6_000 * KEY_UPDATE_BYTES
    assert arrived - pair.to_client.pending <= MAX_TLS_OVERHEAD + READ_BYTES


def test_key_updates_end_a_connection_that_closes(pair: TlsPair) -> None:
    pair.send_key_updates(6_000)

    with pytest.raises(TlsLimitExceeded):
        pair.client.unwrap()


def test_few_key_updates_are_accepted(pair: TlsPair) -> None:
    pair.send_key_updates(500)

    with pytest.raises(ssl.SSLWantReadError):
        pair.client.read(65_536)

    assert pair.to_client.pending == 0


def test_records_of_single_bytes_end_a_connection(pair: TlsPair) -> None:
    for _ in range(3_000):
        pair.server.write(b"a")

    with pytest.raises(TlsLimitExceeded):
        for _ in range(3_000):
            pair.client.read(65_536)


def test_short_replies_to_short_commands_are_accepted_without_end(pair: TlsPair) -> None:
    for _ in range(3_000):
        pair.client.write(b"RSET\r\n")
        pair.server.write(b"250 ")
        pair.server.write(b"OK\r\n")
        assert pair.client.read(65_536) + pair.client.read(65_536) == b"250 OK\r\n"


def test_long_records_are_accepted_without_end(pair: TlsPair) -> None:
    for _ in range(100):
        pair.server.write(bytes(16_384))
        assert len(pair.client.read(65_536)) == 16_384


def test_end_of_a_connection_is_reported(pair: TlsPair) -> None:
    pair.server.write(b"bye")
    pair.to_client.write_eof()

    assert pair.client.read(65_536) == b"bye"
    with pytest.raises(ssl.SSLEOFError):
        pair.client.read(65_536)


def test_endless_handshake_is_bounded() -> None:
    arrived = ssl.MemoryBIO()
    client = limit_overhead(ssl.create_default_context()).wrap_bio(arrived, ssl.MemoryBIO(), server_hostname="a")
    # OpenSSL skips each HelloRequest during a handshake: here, 4,096 in a record.
    total = 16 * arrived.write(b"\x16\x03\x03\x40\x00" + bytes(16_384))
    for _ in range(15):
        arrived.write(b"\x16\x03\x03\x40\x00" + bytes(16_384))

    with pytest.raises(TlsLimitExceeded):
        client.do_handshake()

    assert total - arrived.pending <= MAX_TLS_OVERHEAD + READ_BYTES


# --- channels ---


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_session_tickets_of_apns_end_the_connection(
    tmp_path: Path, run: Callable[[Coroutine[Any, Any, Verdict]], Verdict]
) -> None:
    verdict = run(push_to_hostile_apns(tmp_path))

    assert isinstance(verdict, Retry) and "cannot connect" in verdict.detail


async def push_to_hostile_apns(tmp_path: Path) -> Verdict:
    fake = FakeApns(HostileAuthority(tmp_path), {"KEY1": write_key(tmp_path / "key.p8")}, "TEAM")
    await fake.start()
    url, ca_file = fake.url, fake.authority.ca_file
    channel = ApnsChannel(ApnsConfig(tmp_path / "key.p8", None, "KEY1", "TEAM", "com.example.app", url, ca_file))
    await channel.open()

    verdict = await channel.send(push(), 20.0)
    await fake.close()
    await channel.close()
    return verdict


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_responses_of_apns_that_arrive_together_are_all_read(
    tmp_path: Path, run: Callable[[Coroutine[Any, Any, list[Verdict]]], list[Verdict]]
) -> None:
    verdicts = run(push_several_at_once(tmp_path, 4))

    assert [type(verdict) for verdict in verdicts] == [Sent] * 4


async def push_several_at_once(folder: Path, count: int) -> list[Verdict]:
    """Push to an APNs that sends its responses at one moment, each in its own TLS record."""
    fake = FakeApns(CertificateAuthority(folder), {"KEY1": write_key(folder / "key.p8")}, "TEAM")
    await fake.start()
    url, ca_file = fake.url, fake.authority.ca_file
    channel = ApnsChannel(ApnsConfig(folder / "key.p8", None, "KEY1", "TEAM", "com.example.app", url, ca_file))
    await channel.open()
    await channel.send(push(), 20.0)
    fake.script("*", *[ApnsAction(delay_s=0.1)] * count)

    verdicts = await asyncio.gather(*(channel.send(push(), 20.0) for _ in range(count)))
    await channel.close()
    await fake.close()
    return verdicts


@pytest.mark.parametrize("is_implicit", [False, True])
async def test_session_tickets_of_a_relay_end_the_connection(tmp_path: Path, is_implicit: bool) -> None:
    authority = HostileAuthority(tmp_path)
    relay = FakeSmtp(tls=authority.server_context(), is_implicit=is_implicit)
    await relay.start()
    context = ssl.create_default_context(cafile=authority.ca_file)
    harness = await open_mail_channel(relay, ManualClock(NOW_US), context)

    verdict = await harness.send()
    await harness.channel.close()
    await relay.close()

    assert isinstance(verdict, Retry) and relay.commands["MAIL"] == 0


async def test_session_tickets_of_the_token_endpoint_end_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = HostileAuthority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    endpoint = Http1Server(lambda _: FakeResponse(503), authority.server_context())
    await endpoint.start()
    fake = FakeFcm()
    await fake.start()
    file = fake.credentials_file(tmp_path / "a.json", token_uri=f"{endpoint.url}/token")
    channel = FcmChannel(file, ManualClock(0), fake.url)
    await channel.open()

    verdict = await channel.send(push(), 20.0)
    await channel.close()
    await endpoint.close()
    await fake.close()

    assert isinstance(verdict, Retry) and "ResponseLimitExceeded" in verdict.detail
