"""TLS contexts of clients: key exchanges and renegotiations that a hostile server asks for."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from gregor.blocking_http import blocking_client
from gregor.net.outgoing.http_clients import async_client
from gregor.net.outgoing.tls import outgoing_context
from gregor_delivery.channels import tls
from gregor_delivery.channels.http_pool import HttpPool
from tests.support.tls12 import ALERT, Tls12Pair

ECDHE = "ECDHE-RSA-AES128-GCM-SHA256"


def _context_of(client: httpx.Client | httpx.AsyncClient) -> ssl.SSLContext:
    transport = client._transport
    assert isinstance(transport, httpx.HTTPTransport | httpx.AsyncHTTPTransport)
    context = transport._pool._ssl_context
    assert isinstance(context, ssl.SSLContext)
    return context


CONTEXTS = {
    "shared": outgoing_context,
    "asyncio client": lambda: _context_of(async_client()),
    "blocking client": lambda: _context_of(blocking_client()),
    "webhooks, Web Push and FCM": lambda: HttpPool(1)._context,
    "APNs": lambda: tls.client_context(None),
}


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("cipher", ["DHE-RSA-AES128-GCM-SHA256", "AES128-GCM-SHA256"], ids=["DHE", "RSA"])
def test_other_key_exchanges_than_ecdhe_are_refused(tmp_path: Path, name: str, cipher: str) -> None:
    """The prime of DHE has 8,192 bits."""
    pair = Tls12Pair(tmp_path, CONTEXTS[name](), cipher)

    with pytest.raises(ssl.SSLError, match=r"(?i)no.shared.cipher"):
        pair.shake_hands()


@pytest.mark.parametrize("name", CONTEXTS)
def test_renegotiation_is_refused(tmp_path: Path, name: str) -> None:
    pair = Tls12Pair(tmp_path, CONTEXTS[name](), ECDHE)
    pair.shake_hands()
    pair.to_server.read()

    pair.ask_to_renegotiate()
    with suppress(ssl.SSLWantReadError):
        pair.client.read()

    assert pair.to_server.read(1) == bytes([ALERT])


def test_tls_1_3_remains() -> None:
    assert {"TLSv1.2", "TLSv1.3"} == {cipher["protocol"] for cipher in outgoing_context().get_ciphers()} - {"TLSv1.0"}


def test_compressed_certificates_are_not_requested() -> None:
    """The extension compress_certificate of RFC 8879 has the type 27."""
    sent = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        outgoing_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname="a").do_handshake()

    assert 27 not in _extensions(sent.read())


def _extensions(hello: bytes) -> list[int]:
    """Return the types of the extensions of a ClientHello, in its record."""
    at = 43  # record, message, version and random
    at += 1 + hello[at]
    at += 2 + int.from_bytes(hello[at : at + 2])
    at += 1 + hello[at] + 2
    found = []
    while at < len(hello):
        found.append(int.from_bytes(hello[at : at + 2]))
        at += 4 + int.from_bytes(hello[at + 2 : at + 4])
    assert 43 in found  # supported_versions: the ClientHello was read correctly
    return found
