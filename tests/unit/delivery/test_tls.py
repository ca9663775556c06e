"""TLS contexts with private certificate authorities, in real handshakes."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gregor_delivery.channels.tls import client_context


def _bare(name: str, key: ec.EllipticCurvePrivateKey, issuer: str, by: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """Write a certificate with as few extensions as many private authorities use."""
    now = datetime.now(UTC)
    subject, signer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, issuer))
    builder = x509.CertificateBuilder(signer, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    if name == issuer:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    else:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(by, hashes.SHA256())


async def _greet(directory: Path, trusted: str) -> None:
    """Shake hands with a server of a bare authority, as a client that trusts the file `trusted`."""
    authority, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    (directory / "own.pem").write_bytes(_bare("own", authority, "own", authority).public_bytes(Encoding.PEM))
    secret = server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    shown = _bare("localhost", server_key, "own", authority).public_bytes(Encoding.PEM)
    (directory / "server.pem").write_bytes(secret + shown)
    stranger = ec.generate_private_key(ec.SECP256R1())
    (directory / "other.pem").write_bytes(_bare("other", stranger, "other", stranger).public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        client = client_context(directory / trusted)
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="localhost")
        writer.close()


async def test_private_authority_is_trusted(tmp_path: Path) -> None:
    await _greet(tmp_path, "own.pem")


async def test_other_authority_is_not_trusted(tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        await _greet(tmp_path, "other.pem")


def test_system_authorities_are_checked_strictly() -> None:
    assert client_context(None).verify_flags == ssl.create_default_context().verify_flags
