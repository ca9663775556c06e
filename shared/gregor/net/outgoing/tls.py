"""TLS contexts of clients. They limit the work that a hostile server can cause in a handshake."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES"
"""Cipher suites of TLS 1.2; those of TLS 1.3 are always enabled."""
_NO_CERTIFICATE_COMPRESSION: Final = 1 << 33
"""SSL_OP_NO_RX_CERTIFICATE_COMPRESSION of OpenSSL 3.2. Earlier versions never request them."""


def outgoing_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """Return a context of a client that trusts the authorities in `ca_file`; None: the system's. Raises OSError."""
    return limit_handshakes(ssl.create_default_context(cafile=ca_file))


def limit_handshakes(context: ssl.SSLContext) -> ssl.SSLContext:
    """Refuse renegotiation, and key exchanges whose cost the server chooses; return the context.

    Servers that offer neither TLS 1.3 nor ECDHE are refused.
    """
    # The server chooses the group of DHE. OpenSSL takes 0.64 s for one of 10,000 bits, and blocks the event loop.
    context.set_ciphers(CIPHERS)
    # Each renegotiation is another handshake: one call took 20 s of CPU time.
    context.options |= ssl.OP_NO_RENEGOTIATION
    # Hundreds of equal certificates are short when compressed, which evades `MAX_HANDSHAKE_WORK`.
    if ssl.OPENSSL_VERSION_INFO >= (3, 2):
        context.options |= _NO_CERTIFICATE_COMPRESSION
    return context
