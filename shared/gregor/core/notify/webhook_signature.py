"""Webhook signatures of Standard Webhooks 1.0: they prove to a backend that a request is from Gregor, and recent.

The signed text is ``<id>.<timestamp>.<body>``, by HMAC-SHA256, with each secret that is valid now. During a rotation
of secrets a request has several signatures, and the receiver may know any of the secrets.
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
"""Allowed difference of a request's time to the clock: five minutes, as in the libraries of receivers."""
MAX_URL_CHARACTERS: Final = 2_048
LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def encode_secret(random_bytes: bytes) -> str:
    """Return a secret as it is shown: ``whsec_`` and base64.

    Raises ``ValueError`` unless it has 24 to 64 random bytes.
    """
    if not 24 <= len(random_bytes) <= 64:
        raise ValueError("a webhook secret must have 24 to 64 bytes")
    return PREFIX + base64.b64encode(random_bytes).decode()


def decode_secret(secret: str) -> bytes:
    """Return the key in a secret, with or without its prefix.

    Raises ``ValueError``, without the secret, if it is malformed.
    """
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not a webhook secret: write whsec_ and base64") from None


def signed_headers(secrets: Iterable[str], call_id: str, at_us: int, body: bytes) -> dict[str, str]:
    """Return the three headers of a request. ``call_id`` is the same for each attempt; ``at_us``: wall clock."""
    timestamp = str(at_us // SECOND_US)
    keys = [decode_secret(secret) for secret in secrets]
    if not keys:
        raise ValueError("a webhook needs a secret to sign its requests")
    signatures = [_signature(key, call_id, timestamp, body) for key in keys]
    return {"webhook-id": call_id, "webhook-timestamp": timestamp, "webhook-signature": " ".join(signatures)}


def is_signed(secret: str, headers: Mapping[str, str], body: bytes, now_us: int) -> bool:
    """Return what a receiver checks: one signature is by ``secret``, and the time is recent.

    Header names are in lower case.
    """
    timestamp = headers.get("webhook-timestamp", "")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return False
    if abs(now_us - int(timestamp) * SECOND_US) > TOLERANCE_US:
        return False
    wanted = _signature(decode_secret(secret), headers.get("webhook-id", ""), timestamp, body).encode()
    given = headers.get("webhook-signature", "").encode("utf-8", "replace").split(b" ")
    return any([hmac.compare_digest(wanted, each) for each in given])  # noqa: C419 - all of them, in the same time


def webhook_url_error(url: str, *, is_loopback_allowed: bool = False) -> str | None:
    """Return why ``url`` is not a valid URL of a webhook, or None: https, without login and fragment, printable ASCII.

    ``is_loopback_allowed``: for development, also http to this machine. The address of its host is checked on each
    request.
    """
    if len(url) > MAX_URL_CHARACTERS or any(not 33 <= ord(letter) <= 126 for letter in url):
        return f"A URL may have up to {MAX_URL_CHARACTERS} characters of printable ASCII."
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        return "This is not a URL."
    if is_loopback_allowed and host in LOOPBACK_HOSTS and parts.scheme in ("http", "https"):
        return None
    if parts.scheme != "https" or not host:
        return "The URL of a webhook must begin with https:// and a host."
    if parts.username is not None or parts.password is not None or parts.fragment:
        return "The URL of a webhook must not have a login or a fragment; requests are signed."
    return None


def _signature(key: bytes, call_id: str, timestamp: str, body: bytes) -> str:
    content = b".".join((call_id.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
