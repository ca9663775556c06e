"""Clients in Python: `Producer` for backends, `Device` for whoever shows a user's state.

`mirror` (the copy), `outbox` (what waits to be said), `messages` and `proof` are pure; `device` and `producer` move.
"""

from .changes import (
    Change,
    Created,
    Dismissed,
    ExternalGap,
    ExternalReceived,
    FlushAnnounced,
    Item,
    MessageRefused,
    Overrun,
    Reminded,
    Stopped,
    Synced,
)
from .device import Device
from .messages import creation, dismissal, gregor
from .mirror import Mirror
from .outbox import Outbox
from .pause import Patience
from .problem import DeviceStopped, MessageRejected, Unreachable
from .producer import Producer
from .proof import digest_of

__all__ = [
    "Change",
    "Created",
    "Device",
    "DeviceStopped",
    "Dismissed",
    "ExternalGap",
    "ExternalReceived",
    "FlushAnnounced",
    "Item",
    "MessageRefused",
    "MessageRejected",
    "Mirror",
    "Outbox",
    "Overrun",
    "Patience",
    "Producer",
    "Reminded",
    "Stopped",
    "Synced",
    "Unreachable",
    "creation",
    "digest_of",
    "dismissal",
    "gregor",
]
