"""The text of a service key, ``gk_<id>_<secret>``: shown once, stored as a hash (http.md, "Who may call")."""

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
"""The most secrets of one key that are valid at once; the oldest expire first."""

_ID_LENGTH: Final = 12
_MARK_LENGTH: Final = 16
_ID_LETTERS: Final = string.ascii_lowercase + string.digits
_TEXT: Final = re.compile(r"gk_([a-z0-9]{12})_([A-Za-z0-9_-]{43})\Z")


def new_id() -> str:
    """Return a fresh key id."""
    return "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH))


def new_secret() -> str:
    """Return a fresh secret: 256 bits, URL-safe."""
    return secrets.token_urlsafe(32)


def text_of(key_id: str, secret: str) -> str:
    """Return the text that the backend sends as its bearer token."""
    return f"gk_{key_id}_{secret}"


def hash_of(secret: str) -> str:
    """Return the SHA-256 of a secret, in hex. Secrets are random, so neither a salt nor a slow hash is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def parse(text: str) -> tuple[str, str] | None:
    """Return id and secret of a key's text, or ``None`` if it is malformed."""
    match = _TEXT.match(text)
    return (match[1], match[2]) if match else None


def mark_of(secret: str) -> str:
    """Return a short mark that identifies a secret among those of its key. It is too short to be attacked as a
    hash.
    """
    return hash_of(secret)[:_MARK_LENGTH]


def is_mark_valid(key: ServiceKey | None, mark: str | None, now_us: int) -> bool:
    """Return whether the key still exists and its secret with this mark is valid at ``now_us``.

    With ``mark`` ``None`` the secret is unknown, and the key only has to exist.
    """
    if key is None or mark is None:
        return key is not None
    return any(known.startswith(mark) and (until_us is None or now_us < until_us) for known, until_us in key.hashes)


def rotate(key: ServiceKey, now_us: int, keep_us: int) -> tuple[ServiceKey, str]:
    """Return the key with a new secret, and that secret.

    The old secret remains valid for ``keep_us``. Earlier secrets keep their expiry, so repeating a rotation locks no
    backend out.
    """
    secret = new_secret()
    ending = [(known, now_us + keep_us if until_us is None else until_us) for known, until_us in key.hashes]
    kept = [(known, until_us) for known, until_us in ending if until_us > now_us]
    return replace(key, hashes=((hash_of(secret), None), *kept[: MOST_SECRETS - 1])), secret


def is_valid(key: ServiceKey, secret: str, now_us: int) -> bool:
    """Return whether ``secret`` belongs to the key and is valid at ``now_us``."""
    mine = hash_of(secret)
    matching = [until_us for known, until_us in key.hashes if hmac.compare_digest(known, mine)]
    return any(until_us is None or now_us < until_us for until_us in matching)
