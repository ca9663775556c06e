"""Clients in Python: `Producer` and `AsyncProducer` for backends, `Device` for programs that show a user's state.

`mirror`, `outbox`, `messages` and `calls` are pure; `device`, `connection` and `producer` do the I/O.
"""

from .calls import BatchOutcome, ItemDocument, StateDocument
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
from .errors import (
    Conflict,
    DeviceStopped,
    Forbidden,
    GregorError,
    Invalid,
    ItemIgnored,
    NotFound,
    RateLimited,
    Rejected,
    ServiceUnavailable,
    Unauthorized,
    UnexpectedResponse,
    Unreachable,
)
from .messages import CreateReceipt, MessageReceipt, creation, dismissal, gregor
from .mirror import Mirror, digest_of
from .outbox import Outbox
from .producer import AsyncProducer, Producer
from .reconnect import DeviceTimings
from .tokens import mint_device_token

__all__ = [
    "AsyncProducer",
    "BatchOutcome",
    "Change",
    "Conflict",
    "CreateReceipt",
    "Created",
    "Device",
    "DeviceStopped",
    "DeviceTimings",
    "Dismissed",
    "ExternalGap",
    "ExternalReceived",
    "FlushAnnounced",
    "Forbidden",
    "GregorError",
    "Invalid",
    "Item",
    "ItemDocument",
    "ItemIgnored",
    "MessageReceipt",
    "MessageRefused",
    "Mirror",
    "NotFound",
    "Outbox",
    "Overrun",
    "Producer",
    "RateLimited",
    "Rejected",
    "Reminded",
    "ServiceUnavailable",
    "StateDocument",
    "Stopped",
    "Synced",
    "Unauthorized",
    "UnexpectedResponse",
    "Unreachable",
    "creation",
    "digest_of",
    "dismissal",
    "gregor",
    "mint_device_token",
]
