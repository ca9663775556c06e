"""Signatures of webhooks, as Standard Webhooks 1.0 has them: a backend can tell that a call is ours, and new.

Signed is `<id>.<timestamp>.<body>`, with HMAC-SHA256, under each secret that is good now: while a secret is rotated the
call carries two signatures, and the receiver may know either.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from gregor.core.limits import SECOND_US

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32
TOLERANCE_US: Final = 300 * SECOND_US
"""How old, or how far ahead, a call may say it is: five minutes, as the libraries of receivers have it."""
MAX_URL_CHARACTERS: Final = 2_048
LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def encode_secret(random_bytes: bytes) -> str:
    """A secret as it is shown: `whsec_` and base64. The standard asks for 24 to 64 random bytes; ValueError else."""
    if not 24 <= len(random_bytes) <= 64:
        raise ValueError("a secret of a webhook has 24 to 64 bytes")
    return PREFIX + base64.b64encode(random_bytes).decode()


def decode_secret(secret: str) -> bytes:
    """The key inside a secret, with or without its prefix. ValueError, without the secret, where it is none."""
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not a secret of a webhook: whsec_ and base64") from None


def signed_headers(secrets: Iterable[str], call_id: str, at_us: int, body: bytes) -> dict[str, str]:
    """The three headers of a call: `call_id` is the same at each attempt, `at_us` (wall clock) is now."""
    timestamp = str(at_us // SECOND_US)
    keys = [decode_secret(secret) for secret in secrets]
    if not keys:
        raise ValueError("a webhook without a secret: nothing signs its calls")
    signatures = [_signature(key, call_id, timestamp, body) for key in keys]
    return {"webhook-id": call_id, "webhook-timestamp": timestamp, "webhook-signature": " ".join(signatures)}


def is_signed(secret: str, headers: Mapping[str, str], body: bytes, now_us: int) -> bool:
    """What a receiver checks: one of the signatures is of `secret`, and the call is of now. Names in small letters."""
    timestamp = headers.get("webhook-timestamp", "")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return False
    if abs(now_us - int(timestamp) * SECOND_US) > TOLERANCE_US:
        return False
    wanted = _signature(decode_secret(secret), headers.get("webhook-id", ""), timestamp, body).encode()
    given = headers.get("webhook-signature", "").encode("utf-8", "replace").split(b" ")
    return any([hmac.compare_digest(wanted, each) for each in given])  # noqa: C419 - all of them, in the same time


def webhook_url_error(url: str, *, is_loopback_allowed: bool = False) -> str | None:
    """Why `url` cannot be a webhook's, or None: it must be https, without a login or fragment, on one plain line.

    `is_loopback_allowed`: for development, also http to this machine. Where the name leads is judged at each call.
    """
    if len(url) > MAX_URL_CHARACTERS or any(not 33 <= ord(letter) <= 126 for letter in url):
        return f"A URL has at most {MAX_URL_CHARACTERS} characters, printable ASCII alone."
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        return "This is no URL."
    if is_loopback_allowed and host in LOOPBACK_HOSTS and parts.scheme in ("http", "https"):
        return None
    if parts.scheme != "https" or not host:
        return "A webhook's URL begins with https:// and names a host."
    if parts.username is not None or parts.password is not None or parts.fragment:
        return "A webhook's URL has no login and no fragment; calls are signed."
    return None


def _signature(key: bytes, call_id: str, timestamp: str, body: bytes) -> str:
    content = b".".join((call_id.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
