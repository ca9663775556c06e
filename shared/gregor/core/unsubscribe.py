"""Tokens in the links under mails: who has the link may end the mails of one category to one user, and nothing else.

A token is signed and never expires: a mail may be read years later, and unsubscribing must work then (RFC 8058).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from .ids import is_dotted, is_name

EVERYTHING: Final = "*"
"""In place of a category: all mail."""
MOST_CHARACTERS: Final = 400
"""Of a token; the longest names make 364."""
_MAC_BYTES: Final = 16
_PURPOSE: Final = b"gregor unsubscribe 1"


def derive_key(secret: str) -> bytes:
    """The key of these tokens, derived from a secret that has other uses too (TOKEN_SECRET)."""
    return hmac.new(secret.encode(), _PURPOSE, hashlib.sha256).digest()


def make_token(key: bytes, uid: str, category: str) -> str:
    """The token for mails of `category` (or `*`) to `uid`; letters, digits, `-`, `_` alone."""
    content = f"{uid}\n{category}".encode()
    return base64.urlsafe_b64encode(_mac(key, content) + content).rstrip(b"=").decode()


def parse_token(keys: Sequence[bytes], token: str) -> tuple[str, str] | None:
    """(uid, category) of a token that one of `keys` signed, else None."""
    if len(token) > MOST_CHARACTERS or not token.isascii():
        return None
    try:
        raw = base64.b64decode(token.encode() + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        return None
    mac, content = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
    if not any([hmac.compare_digest(mac, _mac(key, content)) for key in keys]):  # noqa: C419 - all, in the same time
        return None
    uid, _, category = content.decode("utf-8", "replace").partition("\n")
    return (uid, category) if is_name(uid) and (category == EVERYTHING or is_dotted(category)) else None


def _mac(key: bytes, content: bytes) -> bytes:
    return hmac.new(key, content, hashlib.sha256).digest()[:_MAC_BYTES]
