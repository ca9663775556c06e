"""Tokens in the links under mails: who has the link may end the mails of some categories to one user, and nothing else.

A token is signed and never expires: a mail may be read years later, and unsubscribing must work then (RFC 8058). It
names the categories of the mail that it stands under, so that one click ends all that the mail was about.
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
"""In place of a category: all mail."""
MAX_TOKEN_CHARACTERS: Final = 600
"""Of a token: a link must fit in a header of one line."""
_MAC_BYTES: Final = 16
_MAX_CONTENT_BYTES: Final = MAX_TOKEN_CHARACTERS * 3 // 4 - _MAC_BYTES
_PURPOSE: Final = b"gregor unsubscribe 1"


def derive_key(secret: str) -> bytes:
    """The key of these tokens, derived from a secret that may have other uses too (TOKEN_SECRET)."""
    return hmac.new(secret.encode(), _PURPOSE, hashlib.sha256).digest()


def make_token(key: bytes, uid: str, categories: Iterable[str]) -> str:
    """The token for mails of these categories to `uid`: letters, digits, `-`, `_` alone.

    Where they are too many for a link it is for `*`, all mail.
    """
    content = f"{uid}\n{','.join(sorted(set(categories)))}".encode()
    if len(content) > _MAX_CONTENT_BYTES:
        content = f"{uid}\n{ALL_CATEGORIES}".encode()
    return base64.urlsafe_b64encode(_mac(key, content) + content).rstrip(b"=").decode()


def parse_token(keys: Sequence[bytes], token: str) -> tuple[str, tuple[str, ...]] | None:
    """(uid, categories) of a token that one of `keys` signed, else None."""
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
