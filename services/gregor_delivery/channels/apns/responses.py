"""PURE. Classification of APNs responses (Apple, "Handling notification responses from APNs")."""

from dataclasses import dataclass
from math import inf
from typing import Final

import msgspec

from gregor_delivery.channels.contract import PushMessage
from gregor_delivery.channels.verdict import (
    Misconfigured,
    RecipientGone,
    Refused,
    Retry,
    Sent,
    Verdict,
    clean,
    parse_retry_after,
)

from .exchange import ApnsResponse

CREDENTIAL_REASONS: Final = frozenset(
    {
        *("BadCertificate", "BadCertificateEnvironment", "BadEnvironmentKeyIdInToken", "BadEnvironmentKeyInToken"),
        *("ExpiredProviderToken", "Forbidden", "InvalidProviderToken", "MissingProviderToken", "UnrelatedKeyIdInToken"),
    }
)
"""Reasons that reject our credentials."""
ENVIRONMENT_REASONS: Final = frozenset(
    {"BadCertificateEnvironment", "BadEnvironmentKeyIdInToken", "BadEnvironmentKeyInToken"}
)
"""Reasons that reject our credentials in this environment only."""
TOPIC_REASONS: Final = frozenset({"BadTopic", "MissingTopic", "TopicDisallowed"})
TEMPORARY_REASONS: Final = frozenset({"IdleTimeout"})
TOKEN_RENEWAL_S: Final = 20 * 60.0
"""Apple accepts a new provider token every 20 minutes."""
_decode: Final = msgspec.json.Decoder(float_hook=float).decode


@dataclass(frozen=True, slots=True)
class _ErrorBody:
    reason: str = ""
    timestamp: object = None


def verdict_of(response: ApnsResponse, push: PushMessage, now_us: int) -> Verdict:
    """Return the verdict on `push`. A missing or malformed body leaves the status to decide.

    A device chooses the topic and environment of its registration. A wrong choice must not stop the channel for
    everybody, so an error that the device may have caused refuses only its own push.
    """
    body = _parse(response.body)
    status, reason = str(response.status), body.reason or f"{response.status} without a reason"
    after_s = parse_retry_after(response.headers.get(b"retry-after", b"").decode("latin-1") or None, now_us)
    if response.status == 200:
        return Sent(status, clean(response.headers.get(b"apns-id", b"").decode("latin-1")) or None)
    if response.status == 410:
        return RecipientGone(status, reason, _since_us(body.timestamp, now_us))
    if body.reason == "TooManyProviderTokenUpdates":
        return Retry(TOKEN_RENEWAL_S if after_s is None else after_s, status, reason)
    if response.status == 429 or response.status >= 500 or body.reason in TEMPORARY_REASONS:
        return Retry(after_s, status, reason)
    if body.reason in TOPIC_REASONS:
        return Misconfigured(status, reason) if push.topic is None else Refused(status, reason)
    if response.status == 403 or body.reason in CREDENTIAL_REASONS:
        may_be_device_error = push.sandbox and body.reason in ENVIRONMENT_REASONS
        return Refused(status, reason) if may_be_device_error else Misconfigured(status, reason)
    return Refused(status, reason)


def is_expired_token(response: ApnsResponse) -> bool:
    """Return whether APNs asks for a new provider token."""
    return response.status == 403 and _parse(response.body).reason == "ExpiredProviderToken"


def is_connection_spoiled(response: ApnsResponse) -> bool:
    """Return whether to drain the connection: it is shutting down, or no longer accepts its provider token."""
    # Not BadEnvironmentKeyIdInToken: a new connection to this environment would not accept the key either.
    reasons = {"Shutdown", "TooManyProviderTokenUpdates", "UnrelatedKeyIdInToken", "IdleTimeout"}
    return response.status >= 400 and _parse(response.body).reason in reasons


def _parse(body: bytes) -> _ErrorBody:
    try:
        document = _decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        document = None
    if not isinstance(document, dict):
        return _ErrorBody()
    return _ErrorBody(clean(document.get("reason")), document.get("timestamp"))


def _since_us(timestamp: object, now_us: int) -> int | None:
    """Return the µs of a timestamp in ms, at most now; None if it is not one."""
    if isinstance(timestamp, bool) or not isinstance(timestamp, int | float):
        return None
    if not timestamp > 0 or timestamp == inf:
        return None
    return round(min(timestamp * 1_000, now_us))
