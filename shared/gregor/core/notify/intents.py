"""What the scheduler hands to the delivery service: who is to be told what, by which channel, because of what."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class IntentKind(Enum):
    """What is told; the value is the word on the wire (protocol.md, "deliveries")."""

    ITEM = "item"
    REMIND = "remind"
    WITHDRAW = "withdraw"
    SUMMARY = "summary"
    EVENT = "event"


EMAIL = "email"
"""The channel that is no push: it goes to the user's contact, so its intents name no device."""

WEBHOOK = "webhook"
"""The channel to backends: its intents are events, and name a webhook and an event in place of a device."""

FRAME = "frame"
"""No way out, but the note in the ledger that a reminder fired: connected devices got it as a frame."""

PUSH_CHANNELS = ("apns", "fcm", "webpush")
CHANNELS = (*PUSH_CHANNELS, EMAIL, WEBHOOK)


@dataclass(frozen=True, slots=True)
class Intent:
    """One thing to tell one device (``device == ""``: the user) by one channel.

    ``n``: index of the reminder, else 0. ``seq``: the event that caused it; who acknowledged it needs not be told.
    ``at_us``: when it was decided. Its key is all but these two and ``event``: two of one key are one. ``event``: of a
    kind ``EVENT`` what happened, as JSON (``core.events``).
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

    @property
    def key(self) -> tuple[str, str, str, int, str, str]:
        """What the delivery service knows it again by (architecture: "Delivery")."""
        return self.uid, self.item, self.kind.value, self.n, self.device, self.channel

    def fields(self) -> dict[str, str]:
        """As an entry of a stream: text by name."""
        fields = {
            "uid": self.uid,
            "item": self.item,
            "intent": self.kind.value,
            "n": str(self.n),
            "device": self.device,
            "seq": str(self.seq),
            "at_us": str(self.at_us),
        }
        return fields | {"event": self.event} if self.event else fields
