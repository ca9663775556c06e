"""What happened, as backends are told of it by webhooks: events, who wants which, and how one is put.

An event comes from what a device or time did; it is handed over once for each webhook that wants it, like a push, under
a key of its own. Its body is what Standard Webhooks recommends: type, timestamp, data.
"""

from __future__ import annotations

import hashlib
from base64 import b32encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final

import msgspec

from gregor.core.ids import Prefixes, is_allowed

from .intents import WEBHOOK, Intent, IntentKind

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_KEY_BYTES: Final = 15


class WebhookEventType(Enum):
    """What may happen; the value is the word on the wire."""

    DISMISSED = "item.dismissed"
    EXPIRED = "item.expired"
    ACKED = "item.acked"
    SENT = "delivery.sent"
    DEAD = "delivery.dead"


REMOVAL_EVENTS: Final = frozenset({WebhookEventType.DISMISSED, WebhookEventType.EXPIRED})
DELIVERY_EVENTS: Final = frozenset({WebhookEventType.SENT, WebhookEventType.DEAD})


@dataclass(frozen=True, slots=True)
class Webhook:
    """A backend's wish to hear of events. ``events``: which (``None``: all); ``prefixes``: of which categories.

    ``secrets``: each with the moment (µs) from which it signs no more; ``None`` where it goes on. ``disabled_us``:
    since when it is not called; ``why_disabled`` says why, in a few words. ``name`` is a note for people.
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

    def wants(self, kind: WebhookEventType) -> bool:
        """Whether it is called for events of this type at all."""
        return self.disabled_us is None and (self.events is None or kind.value in self.events)

    def signing(self, now_us: int) -> tuple[str, ...]:
        """The secrets that sign now, the newest first."""
        return tuple(secret for secret, until_us in self.secrets if until_us is None or now_us < until_us)


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """Of a delivery: what was told by which channel (words of protocol.md, "deliveries"), at which attempt, and how the
    provider answered the last."""

    channel: str
    intent: str
    n: int
    attempts: int
    status: str | None


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """One thing that happened to an item. ``category`` is ``None`` where it is not known any more; ``seq``: the event
    of the user's state; ``device``: who did it, or whom it concerns (``None``: nobody's own doing, or all devices).
    """

    type: WebhookEventType
    uid: str
    item: str
    category: str | None
    at_us: int
    seq: int
    device: str | None = None
    reason: str | None = None
    for_device: str | None = None
    told: DeliveryReport | None = None

    def body(self) -> str:
        """The body of a call, as JSON."""
        data = {
            "uid": self.uid,
            "id": self.item,
            "category": self.category,
            "for_device": self.for_device,
            "device": self.device,
            "reason": self.reason,
            "seq": self.seq,
        }
        if self.told is not None:
            told = self.told
            data |= {"channel": told.channel, "intent": told.intent, "n": told.n, "status": told.status}
        return msgspec.json.encode({"type": self.type.value, "timestamp": _iso(self.at_us), "data": data}).decode()

    def key_for(self, webhook: str) -> str:
        """What the event is known by at one webhook, however often it is told."""
        told = self.told
        cause = () if told is None else (told.channel, told.intent, str(told.n), str(told.attempts))
        parts = (webhook, self.type.value, self.uid, self.item, self.device or "", str(self.seq), *cause)
        digest = hashlib.sha256("\0".join(parts).encode()).digest()[:_KEY_BYTES]
        return b32encode(digest).decode().lower()


def webhook_intents(events: Iterable[WebhookEvent], webhooks: Iterable[Webhook], now_us: int) -> list[Intent]:
    """What is to be handed over: one intent for each event and webhook that wants it."""
    known = tuple(webhooks)
    return [
        Intent(
            uid=event.uid,
            item=event.item,
            kind=IntentKind.EVENT,
            channel=WEBHOOK,
            device=f"{webhook.id}:{event.key_for(webhook.id)}",
            seq=event.seq,
            at_us=now_us,
            event=event.body(),
        )
        for event in events
        for webhook in known
        if webhook.wants(event.type) and _is_of(webhook.prefixes, event.category)
    ]


def webhook_and_call_id(intent: Intent) -> tuple[str, str]:
    """Of an intent of kind event: the webhook's id, and the id of the call, the same at each attempt."""
    webhook, _, key = intent.device.partition(":")
    return webhook, f"evt_{key}"


def _is_of(prefixes: Prefixes, category: str | None) -> bool:
    return prefixes is None if category is None else is_allowed(prefixes, category)


def _iso(at_us: int) -> str:
    return (_EPOCH + timedelta(microseconds=at_us)).isoformat().replace("+00:00", "Z")
