"""PURE. What an answer of APNs means (Apple, "Handling notification responses from APNs")."""

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
    parse_retry_after,
)

from .exchange import ApnsResponse

OURS: Final = frozenset(
    {
        *("BadCertificate", "BadCertificateEnvironment", "BadEnvironmentKeyIdInToken", "BadEnvironmentKeyInToken"),
        *("ExpiredProviderToken", "Forbidden", "InvalidProviderToken", "MissingProviderToken", "UnrelatedKeyIdInToken"),
    }
)
"""Reasons that say that our credentials are wrong."""
OF_THE_ENVIRONMENT: Final = frozenset(
    {"BadCertificateEnvironment", "BadEnvironmentKeyIdInToken", "BadEnvironmentKeyInToken"}
)
"""Of these, those that say: not in this environment."""
OF_THE_TOPIC: Final = frozenset({"BadTopic", "MissingTopic", "TopicDisallowed"})
FOR_A_WHILE: Final = frozenset({"IdleTimeout"})
AFTER_TOO_MANY_TOKENS_S: Final = 20 * 60.0
"""Apple takes a new provider token every 20 minutes."""


class _Body(msgspec.Struct):
    reason: str = ""
    timestamp: float | None = None


def verdict_of(answer: ApnsResponse, push: PushMessage, now_us: int) -> Verdict:
    """What `answer` to `push` means. Whatever the body is, or is not, the status alone gives a verdict.

    A device chooses the topic and the environment of its own registration, and must not be able to stop the provider
    for all by a wrong one: what may be its doing refuses its push alone.
    """
    body = _read(answer.body)
    status, reason = str(answer.status), body.reason or f"{answer.status} without a reason"
    after_s = parse_retry_after(answer.headers.get(b"retry-after", b"").decode("latin-1") or None, now_us)
    if answer.status == 200:
        return Sent(status, answer.headers.get(b"apns-id", b"").decode("latin-1") or None)
    if answer.status == 410:
        since_us = None if body.timestamp is None else round(body.timestamp * 1_000)
        return RecipientGone(status, reason, since_us)
    if body.reason == "TooManyProviderTokenUpdates":
        return Retry(AFTER_TOO_MANY_TOKENS_S if after_s is None else after_s, status, reason)
    if answer.status == 429 or answer.status >= 500 or body.reason in FOR_A_WHILE:
        return Retry(after_s, status, reason)
    if body.reason in OF_THE_TOPIC:
        return Misconfigured(status, reason) if push.topic is None else Refused(status, reason)
    if answer.status == 403 or body.reason in OURS:
        may_be_the_device = push.sandbox and body.reason in OF_THE_ENVIRONMENT
        return Refused(status, reason) if may_be_the_device else Misconfigured(status, reason)
    return Refused(status, reason)


def is_expired_token(answer: ApnsResponse) -> bool:
    """Whether APNs asks for a fresh provider token."""
    return answer.status == 403 and _read(answer.body).reason == "ExpiredProviderToken"


def spoils_connection(answer: ApnsResponse) -> bool:
    """Whether the connection is better left: it is going down, or turned against the token that it knows."""
    return answer.status >= 400 and _read(answer.body).reason in {
        *("Shutdown", "TooManyProviderTokenUpdates", "UnrelatedKeyIdInToken", "IdleTimeout"),
        "BadEnvironmentKeyIdInToken",
    }


def _read(body: bytes) -> _Body:
    try:
        return msgspec.json.decode(body, type=_Body)
    except (msgspec.DecodeError, UnicodeError):
        return _Body()
