"""PURE but for randomness. Encryption of Web Push messages (RFC 8291 over RFC 8188, `aes128gcm`)."""

import os
import struct

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gregor.auth.push_tokens import SubscriptionKeys

RECORD_BYTES = 4_096
_LAST_RECORD = b"\x02"


def encrypt(
    plaintext: bytes,
    keys: SubscriptionKeys,
    sender: ec.EllipticCurvePrivateKey | None = None,
    salt: bytes | None = None,
) -> bytes:
    """Return the request body, one record. `sender`, `salt`: new for each message; only tests pass them."""
    sender = sender or ec.generate_private_key(ec.SECP256R1())
    salt = salt or os.urandom(16)
    sender_public = sender.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    receiver = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), keys.public)
    shared = sender.exchange(ec.ECDH(), receiver)
    key, nonce = content_keys(shared, keys, sender_public, salt)
    sealed = AESGCM(key).encrypt(nonce, plaintext + _LAST_RECORD, None)
    return salt + struct.pack(">IB", RECORD_BYTES, len(sender_public)) + sender_public + sealed


def content_keys(shared: bytes, keys: SubscriptionKeys, sender_public: bytes, salt: bytes) -> tuple[bytes, bytes]:
    """Derive the content key and nonce (RFC 8291 §3.4) from the shared secret."""
    input_key = _derive(shared, keys.secret, b"WebPush: info\0" + keys.public + sender_public, 32)
    key = _derive(input_key, salt, b"Content-Encoding: aes128gcm\0", 16)
    return key, _derive(input_key, salt, b"Content-Encoding: nonce\0", 12)


def _derive(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt, info).derive(secret)
