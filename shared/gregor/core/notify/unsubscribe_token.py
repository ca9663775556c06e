"""Tokens of unsubscribe links: a link ends the e-mails of some categories to one user, and allows nothing else.

A token is signed and never expires: an e-mail may be read years later, and its link must still work (RFC 8058). It has
the categories of its e-mail, so one click ends all of them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from typing import Final

from gregor.core.ids import is_dotted, is_user_id

ALL_CATEGORIES: Final = "*"
"""Instead of categories: all e-mail."""
MAX_TOKEN_CHARACTERS: Final = 600
"""Characters of a token: its link must fit into one header line."""
# 128 bits of HMAC-SHA256: links stay short, and a forgery stays out of reach.
_MAC_BYTES: Final = 16
_MAX_CONTENT_BYTES: Final = MAX_TOKEN_CHARACTERS * 3 // 4 - _MAC_BYTES
_PURPOSE: Final = b"gregor unsubscribe 1"


def derive_key(secret: str) -> bytes:
    """Return the key of these tokens, derived from a secret that may also have other uses (TOKEN_SECRET)."""
    return hmac.new(secret.encode(), _PURPOSE, hashlib.sha256).digest()


def make_token(key: bytes, uid: str, categories: Iterable[str]) -> str:
    """Return the token for e-mails of these categories to ``uid``: letters, digits, ``-`` and ``_``.

    If the categories do not fit, the token is for all e-mail (``*``).
    """
    content = f"{uid}\n{','.join(sorted(set(categories)))}".encode()
    if len(content) > _MAX_CONTENT_BYTES:
        content = f"{uid}\n{ALL_CATEGORIES}".encode()
    return base64.urlsafe_b64encode(_mac(key, content) + content).rstrip(b"=").decode()


def parse_token(keys: Sequence[bytes], token: str) -> tuple[str, tuple[str, ...]] | None:
    """Return (uid, categories) of a token that one of ``keys`` signed; else None."""
    if len(token) > MAX_TOKEN_CHARACTERS or not token.isascii():
        return None
    try:
        raw = base64.b64decode(token.encode() + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        return None
    mac, content = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
    if not any([hmac.compare_digest(mac, _mac(key, content)) for key in keys]):  # noqa: C419 - all, in the same time
        return None
    uid, _, listed = content.decode("utf-8", "replace").partition("\n")
    categories = tuple(listed.split(","))
    is_one = is_user_id(uid) and (categories == (ALL_CATEGORIES,) or all(map(is_dotted, categories)))
    return (uid, categories) if is_one else None


def _mac(key: bytes, content: bytes) -> bytes:
    return hmac.new(key, content, hashlib.sha256).digest()[:_MAC_BYTES]
