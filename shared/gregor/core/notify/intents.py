"""Delivery intents: what the scheduler enqueues for the delivery service, by user, device, channel and cause."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class IntentKind(Enum):
    """The kind of a delivery; the value is the one on the wire (time.md, "The queue")."""

    ITEM = "item"
    REMIND = "remind"
    WITHDRAW = "withdraw"
    SUMMARY = "summary"
    EVENT = "event"


EMAIL = "email"
"""The channel to the user's e-mail address: its intents name no device."""

WEBHOOK = "webhook"
"""The channel to backends: its intents name a webhook and an event instead of a device."""

FRAME = "frame"
"""Not a channel: the ledger entry of a reminder that fired. Connected devices got it as a frame."""

APNS = "apns"
WEBPUSH = "webpush"
PUSH_CHANNELS = (APNS, "fcm", WEBPUSH)
CHANNELS = (*PUSH_CHANNELS, EMAIL, WEBHOOK)


ENTRY_FORMAT = "1"
"""Format of an intent's fields in a queue. An entry without this field has format 1, too."""


@dataclass(frozen=True, slots=True)
class Intent:
    """One delivery to one device (``device == ""``: to the user) by one channel.

    ``n``: index of the reminder, else 0. ``seq``: the event that caused it; a view that acknowledged it needs no
    delivery. ``at_us``: when it was decided. ``event``: the webhook event as JSON, if the kind is ``EVENT``.
    ``traceparent``: the trace of its decision, if that is sampled. ``category``: of the item, if it is a
    withdrawal and its category is known. The other fields are its key: two intents with one key are one delivery.
    """

    uid: str
    item: str
    kind: IntentKind
    channel: str
    device: str = ""
    n: int = 0
    seq: int = 0
    at_us: int = 0
    event: str = ""
    traceparent: str = field(default="", compare=False)
    category: str = field(default="", compare=False)

    @property
    def key(self) -> tuple[str, str, str, int, str, str]:
        """The key of its delivery (delivery.md, "One visible effect")."""
        return self.uid, self.item, self.kind.value, self.n, self.device, self.channel

    def fields(self) -> dict[str, str]:
        """Return the intent as the fields of a stream entry."""
        fields = {
            "format": ENTRY_FORMAT,
            "uid": self.uid,
            "item": self.item,
            "intent": self.kind.value,
            "n": str(self.n),
            "device": self.device,
            "seq": str(self.seq),
            "at_us": str(self.at_us),
        }
        if self.event:
            fields["event"] = self.event
        if self.traceparent:
            fields["traceparent"] = self.traceparent
        return fields
