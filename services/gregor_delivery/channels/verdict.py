"""PURE. Verdict on one attempt to send: the provider's response, classified.

The worker decides what follows from it: a retry, a dead letter, a deleted token or a stopped channel. A verdict has no
token, address or key in it. `detail` is the provider's own reason: short, and safe to show and log.
"""

from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import ClassVar

MAX_RETRY_AFTER_S = 3_600.0
"""Limit of `Retry-After`; a provider that asks for more is retried after this time."""
MAX_TEXT = 200
"""Limit of a text of a provider, such as its reason."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The provider accepted the message. `status`: such as "200". `provider_id`: the provider's id of it, if any."""

    name: ClassVar[str] = "sent"
    status: str
    provider_id: str | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """A retry is harmless and may succeed. `after_s`: pause that the provider asked for, if any.

    `status`: None if there was no response. `is_unanswered`: the provider was reached but did not respond; this may
    concern only this message. `is_gone`: the provider reports the recipient as gone, but this could not be recorded.
    """

    name: ClassVar[str] = "retry"
    after_s: float | None
    status: str | None
    detail: str
    is_unanswered: bool = False
    is_gone: bool = False


@dataclass(frozen=True, slots=True)
class RecipientGone:
    """The token or address is dead. `since_us`: since when; a later registration stays valid."""

    name: ClassVar[str] = "gone"
    status: str
    detail: str
    since_us: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """Permanent rejection of this message alone; token and provider are fine.

    Includes responses that may mean a bad token but do not prove it (APNs `BadDeviceToken`): no token is deleted.

    `status`: None if the channel refused the message by itself, and the provider did not see it.
    """

    name: ClassVar[str] = "refused"
    status: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class Misconfigured:
    """Our credentials or settings are wrong: stop the channel, alert the operator, keep the queue and all tokens."""

    name: ClassVar[str] = "misconfigured"
    status: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Possibly delivered: the deadline passed, or the connection broke, after the message was sent."""

    name: ClassVar[str] = "unknown"
    detail: str


Verdict = Sent | Retry | RecipientGone | Refused | Misconfigured | Unknown


def clean(text: object, limit: int = MAX_TEXT) -> str:
    """Return a text of a provider for logs and records: one line of at most `limit` characters; empty if not a text."""
    if not isinstance(text, str):
        return ""
    return "".join(character if character.isprintable() else "?" for character in text[:limit])


def parse_retry_after(value: str | None, now_us: int) -> float | None:
    """Return the seconds of a `Retry-After` header, at most `MAX_RETRY_AFTER_S`; None if it is missing or malformed.

    Both forms of RFC 9110 §10.2.3: seconds, or an HTTP date, relative to `now_us` (wall clock, µs).
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), MAX_RETRY_AFTER_S)
    try:
        at_s = parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(0.0, at_s - now_us / 1e6), MAX_RETRY_AFTER_S)
