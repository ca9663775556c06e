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


EMAIL = "email"
"""The channel that is no push: it goes to the user's contact, so its intents name no device."""

PUSH_CHANNELS = ("apns", "fcm", "webpush")
CHANNELS = (*PUSH_CHANNELS, EMAIL)


@dataclass(frozen=True, slots=True)
class Intent:
    """One thing to tell one device (``device == ""``: the user) by one channel.

    ``n``: index of the reminder, else 0. ``seq``: the event that caused it; who acknowledged it needs not be told.
    ``at_us``: when it was decided. Its key is all but ``seq`` and ``at_us``: two of one key are one.
    """

    uid: str
    item: str
    kind: IntentKind
    channel: str
    device: str = ""
    n: int = 0
    seq: int = 0
    at_us: int = 0

    @property
    def key(self) -> tuple[str, str, str, int, str, str]:
        """What the delivery service knows it again by (architecture: "Delivery")."""
        return self.uid, self.item, self.kind.value, self.n, self.device, self.channel

    def fields(self) -> dict[str, str]:
        """As an entry of a stream: text by name."""
        return {
            "uid": self.uid,
            "item": self.item,
            "intent": self.kind.value,
            "n": str(self.n),
            "device": self.device,
            "seq": str(self.seq),
            "at_us": str(self.at_us),
        }
