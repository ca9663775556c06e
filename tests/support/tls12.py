"""TLS 1.2 in memory: a server with a chosen key exchange, which can ask its client to renegotiate."""

from __future__ import annotations

import base64
import hmac
import ssl
import struct
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .certificates import write_certificate

_HELLO_REQUEST = b"\x00\x00\x00\x00"
HANDSHAKE, ALERT = 22, 21
"""Types of records."""


class Tls12Pair:
    """A client and a server with an RSA key. `ciphers`: of the server; they use AES-128-GCM and SHA-256."""

    def __init__(self, directory: Path, client: ssl.SSLContext, ciphers: str) -> None:
        """`client`: the context whose connections are tested. The constructor makes it trust the server."""
        certificate = write_certificate(directory, key=rsa.generate_private_key(65_537, 2_048))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(certificate)
        context.set_ciphers(ciphers)
        (directory / "dh.pem").write_bytes(_ffdhe8192())
        context.load_dh_params(str(directory / "dh.pem"))
        self._key_log = directory / "keys"
        context.keylog_filename = str(self._key_log)
        client.load_verify_locations(certificate)
        self.to_client, self.to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(self.to_client, self.to_server, server_hostname="127.0.0.1")
        self._server = context.wrap_bio(self.to_server, self.to_client, server_side=True)
        self._server_random = b""

    def shake_hands(self) -> None:
        """Complete the handshake. Raises ssl.SSLError if client and server have no cipher in common."""
        for _ in range(3):
            for end in (self.client, self._server):
                with suppress(ssl.SSLWantReadError):
                    end.do_handshake()
            if not self._server_random:
                flight = self.to_client.read()
                self._server_random = flight[11:43]  # after the headers of record and message, and the version
                self.to_client.write(flight)

    def ask_to_renegotiate(self) -> None:
        """Write a HelloRequest of the server. Python's ssl has no function for this."""
        client_random, secret = _master_secret(self._key_log)
        keys = _prf(secret, b"key expansion" + self._server_random + client_random, 40)
        key, salt = keys[16:32], keys[36:40]
        nonce = number = struct.pack(">Q", 1)  # its Finished message was record 0
        associated = number + struct.pack(">BHH", HANDSHAKE, 0x303, len(_HELLO_REQUEST))
        content = nonce + AESGCM(key).encrypt(salt + nonce, _HELLO_REQUEST, associated)
        self.to_client.write(struct.pack(">BHH", HANDSHAKE, 0x303, len(content)) + content)


def _master_secret(key_log: Path) -> tuple[bytes, bytes]:
    """Return the random bytes of the client, and the master secret."""
    line = next(line for line in key_log.read_text().splitlines() if line.startswith("CLIENT_RANDOM"))
    _, client_random, secret = line.split()
    return bytes.fromhex(client_random), bytes.fromhex(secret)


def _prf(secret: bytes, seed: bytes, size: int) -> bytes:
    """Return the pseudorandom function of TLS 1.2 (RFC 5246 §5)."""
    each, output = seed, b""
    while len(output) < size:
        each = hmac.digest(secret, each, "sha256")
        output += hmac.digest(secret, each + seed, "sha256")
    return output[:size]


def _ffdhe8192() -> bytes:
    """Return the largest group of RFC 7919. Its prime is computed from the digits of e."""
    term = e = 1 << 8_200
    for factor in range(1, 2_000):
        term //= factor
        e += term
    prime = 2**8_192 - 2**8_128 + ((e >> 138) + 10_965_728) * 2**64 - 1
    # By hand: the package cryptography will end its support for these groups. A sequence of the prime and 2.
    content = b"\x02\x82\x04\x01\x00" + prime.to_bytes(1_024) + b"\x02\x01\x02"
    text = base64.encodebytes(b"\x30\x82" + struct.pack(">H", len(content)) + content)
    return b"-----BEGIN DH PARAMETERS-----\n" + text + b"-----END DH PARAMETERS-----\n"
