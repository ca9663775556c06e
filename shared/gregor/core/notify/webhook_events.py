"""Webhook events: what backends can subscribe to, which webhooks want an event, and its JSON.

A device or a timer causes an event. It becomes one intent for each webhook that wants it, with its own key, and is
delivered like a push. Its body follows Standard Webhooks: type, timestamp, data.
"""

from __future__ import annotations

import hashlib
from base64 import b32encode
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final

import msgspec

from gregor.core.ids import Prefixes, is_allowed

from .intents import WEBHOOK, Intent, IntentKind

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# 120 bits: 24 characters of base32 without padding.
_KEY_BYTES: Final = 15


class WebhookEventType(Enum):
    """The type of an event; the value is the one on the wire."""

    DISMISSED = "item.dismissed"
    EXPIRED = "item.expired"
    ACKED = "item.acked"
    SENT = "delivery.sent"
    DEAD = "delivery.dead"


REMOVAL_EVENTS: Final = frozenset({WebhookEventType.DISMISSED, WebhookEventType.EXPIRED})
DELIVERY_EVENTS: Final = frozenset({WebhookEventType.SENT, WebhookEventType.DEAD})


# ---- webhooks


@dataclass(frozen=True, slots=True)
class Webhook:
    """A backend's subscription to events. ``events``: their types (None: all). ``prefixes``: their categories.

    ``secrets``: each with the time (µs) at which it stops to sign; None if it stays. ``disabled_us``: since when it
    gets no requests; ``why_disabled``: the reason, in a few words. ``enabled_us``: when it was last enabled again.
    ``name``: a note for people.
    """

    id: str
    url: str = field(repr=False)
    secrets: tuple[tuple[str, int | None], ...] = field(repr=False)
    events: tuple[str, ...] | None = None
    prefixes: Prefixes = None
    name: str | None = None
    created_us: int = 0
    disabled_us: int | None = None
    why_disabled: str | None = None
    enabled_us: int | None = None

    def wants(self, kind: WebhookEventType) -> bool:
        """Return whether it gets events of this type."""
        return self.disabled_us is None and (self.events is None or kind.value in self.events)

    def enabled(self, now_us: int) -> Webhook:
        """Return the webhook in its enabled form; the same one if it is enabled already."""
        if self.disabled_us is None:
            return self
        return replace(self, disabled_us=None, why_disabled=None, enabled_us=now_us)

    def signing(self, now_us: int) -> tuple[str, ...]:
        """Return the secrets that sign now, newest first."""
        return tuple(secret for secret, until_us in self.secrets if until_us is None or now_us < until_us)


# ---- events


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """A delivery in an event: its channel, kind (delivery.md, "Look up deliveries"), attempts and last response."""

    channel: str
    intent: str
    n: int
    attempts: int
    status: str | None


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """One event of an item. ``category``: None if it is unknown by now. ``seq``: the cause in the user's state.

    ``cause_us``: the stored time of the removal or hiding, of the creation of an acknowledged item, or of the planning
    of a delivery. It distinguishes the events of a deleted user from those of a new user with the same id.
    ``device``: the device that acted or is concerned; None if no device acted, or all are concerned.
    """

    type: WebhookEventType
    uid: str
    item: str
    category: str | None
    at_us: int
    seq: int
    cause_us: int
    device: str | None = None
    reason: str | None = None
    for_device: str | None = None
    report: DeliveryReport | None = None

    def body(self) -> str:
        """Return the body of a request, as JSON."""
        data = {
            "uid": self.uid,
            "id": self.item,
            "category": self.category,
            "for_device": self.for_device,
            "device": self.device,
            "reason": self.reason,
            "seq": self.seq,
        }
        if self.report is not None:
            report = self.report
            data |= {"channel": report.channel, "intent": report.intent, "n": report.n, "status": report.status}
        return msgspec.json.encode({"type": self.type.value, "timestamp": _iso(self.at_us), "data": data}).decode()

    def key_for(self, webhook: str) -> str:
        """Return the key of the event at one webhook, the same each time the event is generated.

        If a user is deleted and created again, the new events have other keys.
        """
        return self._key(webhook, str(self.cause_us))

    def earlier_key_for(self, webhook: str) -> str:
        """Return the key of earlier releases, which may be the same for a deleted user and a new one with its id."""
        return self._key(webhook)

    def _key(self, webhook: str, *cause_time: str) -> str:
        report = self.report
        cause = () if report is None else (report.channel, report.intent, str(report.n), str(report.attempts))
        parts = (webhook, self.type.value, self.uid, self.item, self.device or "", str(self.seq), *cause, *cause_time)
        digest = hashlib.sha256("\0".join(parts).encode()).digest()[:_KEY_BYTES]
        return b32encode(digest).decode().lower()


class _EventData(msgspec.Struct):
    category: str | None


class _EventBody(msgspec.Struct):
    """The members of the body of a request that a webhook can filter by."""

    type: str
    data: _EventData


# ---- intents


def webhook_intents(
    events: Iterable[WebhookEvent], webhooks: Iterable[Webhook], now_us: int, *, has_earlier_keys: bool = False
) -> list[Intent]:
    """Return the intents to enqueue: one for each event and each webhook that wants it."""
    known = tuple(webhooks)
    key_for = WebhookEvent.earlier_key_for if has_earlier_keys else WebhookEvent.key_for
    return [
        Intent(
            uid=event.uid,
            item=event.item,
            kind=IntentKind.EVENT,
            channel=WEBHOOK,
            device=f"{webhook.id}:{key_for(event, webhook.id)}",
            seq=event.seq,
            at_us=now_us,
            event=event.body(),
        )
        for event in events
        for webhook in known
        if webhook.wants(event.type) and _is_of(webhook.prefixes, event.category)
    ]


def webhook_and_call_id(intent: Intent) -> tuple[str, str]:
    """Return the webhook's id and the request's id of an event intent. It is the same for each attempt."""
    webhook, _, key = intent.device.partition(":")
    return webhook, f"evt_{key}"


def is_wanted(webhook: Webhook, intent: Intent) -> bool:
    """Return whether the webhook wants the event of an intent, which it may have wanted only before a change."""
    event = msgspec.json.decode(intent.event, type=_EventBody)
    is_of_type = webhook.events is None or event.type in webhook.events
    return is_of_type and _is_of(webhook.prefixes, event.data.category)


def _is_of(prefixes: Prefixes, category: str | None) -> bool:
    return prefixes is None if category is None else is_allowed(prefixes, category)


def _iso(at_us: int) -> str:
    return (_EPOCH + timedelta(microseconds=at_us)).isoformat().replace("+00:00", "Z")
