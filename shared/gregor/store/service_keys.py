"""The text of a service key, ``gk_<id>_<secret>``: shown once, kept as a hash (protocol.md, "Who may call")."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
from dataclasses import replace
from typing import Final

from .contract.access import ServiceKey

MOST_SECRETS: Final = 8
"""Secrets of one key that are good at once; of more rotations within their time the oldest go."""

_ID_LENGTH: Final = 12
_MARK_LENGTH: Final = 16
_ID_LETTERS: Final = string.ascii_lowercase + string.digits
_TEXT: Final = re.compile(r"gk_([a-z0-9]{12})_([A-Za-z0-9_-]{43})\Z")


def new_id() -> str:
    """A fresh id of a key."""
    return "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH))


def new_secret() -> str:
    """A fresh secret: 256 bits, URL-safe."""
    return secrets.token_urlsafe(32)


def text_of(key_id: str, secret: str) -> str:
    """The text that the backend sends as its bearer token."""
    return f"gk_{key_id}_{secret}"


def hash_of(secret: str) -> str:
    """What is kept of a secret: its SHA-256, hex. The secret is random, so no salt and no slow hash is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def parse(text: str) -> tuple[str, str] | None:
    """Id and secret of a key's text, or ``None`` where it is none."""
    match = _TEXT.match(text)
    return (match[1], match[2]) if match else None


def mark_of(secret: str) -> str:
    """What tells one secret of a key from its others, in what is made with it; too short to be a hash to work from."""
    return hash_of(secret)[:_MARK_LENGTH]


def stands(key: ServiceKey | None, mark: str | None, now_us: int) -> bool:
    """Whether what was made with a secret of ``key`` is still good: the key is there, and the secret with this mark
    works at ``now_us``. ``None``: it was not noted which one it was."""
    if key is None or mark is None:
        return key is not None
    return any(known.startswith(mark) and (until_us is None or now_us < until_us) for known, until_us in key.hashes)


def rotated(key: ServiceKey, now_us: int, keep_us: int) -> tuple[ServiceKey, str]:
    """The key with a new secret, and that secret. The old one works ``keep_us`` more, and so do those before it whose
    time is not over: a rotation that is repeated shuts nobody out."""
    secret = new_secret()
    ending = [(known, now_us + keep_us if until_us is None else until_us) for known, until_us in key.hashes]
    kept = [(known, until_us) for known, until_us in ending if until_us > now_us]
    return replace(key, hashes=((hash_of(secret), None), *kept[: MOST_SECRETS - 1])), secret


def is_good(key: ServiceKey, secret: str, now_us: int) -> bool:
    """Whether ``secret`` is one of the key's that works at ``now_us``."""
    mine = hash_of(secret)
    matching = [until_us for known, until_us in key.hashes if hmac.compare_digest(known, mine)]
    return any(until_us is None or now_us < until_us for until_us in matching)
