"""PURE. What became of one attempt to send: the only thing that a channel tells the ledger.

A verdict is final for the attempt, never for the intent: what follows from it (retry, dead letter, a token that is
dropped, a provider that is stopped) is decided by who asked. No verdict holds a token, an address or a key: `detail`
is the provider's own reason, short, and may be shown and logged.
"""

from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import ClassVar

LONGEST_RETRY_AFTER_S = 3_600.0
"""Longest pause that a provider may ask for; a longer one is cut: the item's usefulness ends the retries, not it."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The provider has taken it. `status` as it said ("200"), `provider_id`: its name for the message, if any."""

    name: ClassVar[str] = "sent"
    status: str
    provider_id: str | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """Surely not delivered, and may be later. `after_s`: the pause that the provider asked for, if any.

    `status` is None where no answer came at all (the provider could not be reached).
    """

    name: ClassVar[str] = "retry"
    after_s: float | None
    status: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class RecipientGone:
    """This token or address is dead. `since_us`: since when, as the provider says; a registration after it stands."""

    name: ClassVar[str] = "gone"
    status: str
    detail: str
    since_us: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """Final for this message and only for it: the same message will never pass, the token and the provider are fine.

    Also what may mean a bad token but does not prove one (APNs `BadDeviceToken`): nothing is deleted for it.
    """

    name: ClassVar[str] = "refused"
    status: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class Misconfigured:
    """Our credentials or set-up are wrong: stop this provider, raise the alarm, delete nothing, keep what waits."""

    name: ClassVar[str] = "misconfigured"
    status: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may have been delivered and may not: the deadline passed, or the connection broke after it was handed over."""

    name: ClassVar[str] = "unknown"
    detail: str


Verdict = Sent | Retry | RecipientGone | Refused | Misconfigured | Unknown


def parse_retry_after(value: str | None, now_us: int) -> float | None:
    """Seconds that a `Retry-After` header asks for, in 0 … LONGEST_RETRY_AFTER_S; None where it is absent or no such.

    Both forms of RFC 9110 §10.2.3: seconds, or an HTTP date, which counts from `now_us` (wall clock, µs).
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), LONGEST_RETRY_AFTER_S)
    try:
        at_s = parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(0.0, at_s - now_us / 1e6), LONGEST_RETRY_AFTER_S)
