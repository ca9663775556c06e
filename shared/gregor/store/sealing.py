"""Encrypts stored values that only the holder of a credential may read again.

The store has only a hash of the credential, which names the value. Without the credential, the value reveals nothing,
not even its user. Therefore the deletion of that user need not find the value.
"""

from __future__ import annotations

import hashlib
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES: Final = 12
_PURPOSE: Final = b"gregor-sealed-value\0"


def seal(credential: str, value: bytes) -> bytes:
    """Return a value encrypted with a key that is derived from a credential (AES-256-GCM)."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + _cipher(credential).encrypt(nonce, value, None)


def unseal(credential: str, sealed: bytes) -> bytes | None:
    """Return the value that ``seal`` encrypted; ``None`` if it was sealed with another credential."""
    try:
        return _cipher(credential).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)
    except (InvalidTag, ValueError):
        return None


def _cipher(credential: str) -> AESGCM:
    # Not the hash that names the value: that one is stored.
    return AESGCM(hashlib.sha256(_PURPOSE + credential.encode()).digest())
