"""TLS 1.3 peers in memory whose records contain no bytes of a response, such as key updates."""

from __future__ import annotations

import ssl
import struct
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from .certificates import write_certificate

KEY_UPDATE_BYTES = 27


class TlsPair:
    """A client with its server. Both have completed the handshake, without session tickets."""

    def __init__(self, directory: Path, client: ssl.SSLContext) -> None:
        """`client`: the context whose connections are tested. The constructor makes it trust the server."""
        certificate = write_certificate(directory)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        context.num_tickets = 0
        context.keylog_filename = str(directory / "keys")
        self._key_log = directory / "keys"
        client.load_verify_locations(certificate)
        self.to_client, self.to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(self.to_client, self.to_server, server_hostname="127.0.0.1")
        self.server = context.wrap_bio(self.to_server, self.to_client, server_side=True)
        for _ in range(2):  # TLS 1.3: one round trip, and the client's last message
            _continue_handshake(self.client)
            _continue_handshake(self.server)
        assert self.client.cipher()[0] == "TLS_AES_256_GCM_SHA384"  # type: ignore[index]

    def send_key_updates(self, number: int) -> None:
        """Write key updates of the server, its first records. Python's ssl has no function for this."""
        lines = (line.split() for line in self._key_log.read_text().splitlines())
        secret = next(bytes.fromhex(line[2]) for line in lines if line[0] == "SERVER_TRAFFIC_SECRET_0")
        for _ in range(number):
            self.to_client.write(_key_update(secret))
            secret = _expand(secret, b"traffic upd", 48)


def _continue_handshake(end: ssl.SSLObject) -> None:
    with suppress(ssl.SSLWantReadError):
        end.do_handshake()


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    """Return HKDF-Expand-Label (RFC 8446 §7.1)."""
    info = struct.pack(">HB", size, len(label) + 6) + b"tls13 " + label + b"\x00"
    return HKDFExpand(SHA384(), size, info).derive(secret)


def _key_update(secret: bytes) -> bytes:
    """Return a record with `update_not_requested`. Each key encrypts one record, so the nonce equals the IV."""
    head = struct.pack(">BHH", 23, 0x0303, KEY_UPDATE_BYTES - 5)
    content = b"\x18\x00\x00\x01\x00" + b"\x16"
    return head + AESGCM(_expand(secret, b"key", 32)).encrypt(_expand(secret, b"iv", 12), content, head)
