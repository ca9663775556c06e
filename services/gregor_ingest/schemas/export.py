"""The lines of a user's export (``GET /v1/users/{uid}/export``), one class for each ``kind``.

``EXPORTED_KEYS`` names the lines of each kind of key in Redis, and ``NOT_EXPORTED`` why a kind of key has no
line. A test compares both with all keys of the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from msgspec import Meta, Raw, Struct

from .fields import CategoryText, Count, CursorText, JsonTime, NameText, UserIdText
from .responses import ContactResponse, DeliveryResponse, DeviceResponse, GoneResponse, StoredItemResponse

FORMAT_VERSION: Final = 1
"""The version of the format. It changes only if a program that reads exports would misread them."""

_HASHED_PREFIXES: Final = "In a long filter, each prefix is a hash that begins with `#`."
_Filter = Annotated[list[str] | None, Meta(description=f"Category prefixes; null: all. {_HASHED_PREFIXES}")]
_Item = Annotated[Raw, Meta(extra_json_schema={"$ref": f"#/components/schemas/{StoredItemResponse.__name__}"})]
_Message = Annotated[Raw, Meta(extra_json_schema={"type": "object"})]
_Sender = Annotated[NameText | None, Meta(description="The device that sent it; null: a backend.")]


class ExportBeginResponse(Struct, kw_only=True, tag="begin", tag_field="kind"):
    """The first line."""

    version: int
    uid: UserIdText
    at: JsonTime


class ExportEndResponse(Struct, kw_only=True, tag="end", tag_field="kind"):
    """The last line. An export without it is not complete."""

    counts: Annotated[dict[str, Count], Meta(description="The number of lines before this one, by kind.")]


class ExportPositionResponse(Struct, kw_only=True, tag="position", tag_field="kind"):
    """The position of the state."""

    cursor: CursorText


class ExportContactResponse(Struct, kw_only=True, tag="contact", tag_field="kind"):
    """How the user can be reached."""

    contact: Annotated[Any, Meta(extra_json_schema={"$ref": f"#/components/schemas/{ContactResponse.__name__}"})]


class ExportPreferencesResponse(Struct, kw_only=True, tag="preferences", tag_field="kind"):
    """Which channels may be used."""

    preferences: Annotated[dict[str, Any], Meta(extra_json_schema={"$ref": "#/components/schemas/Preferences"})]


class ExportSuppressionResponse(Struct, kw_only=True, tag="suppression", tag_field="kind"):
    """The address of the contact gets no e-mail."""

    email: str
    reason: str
    since: JsonTime


class ExportPresenceResponse(Struct, kw_only=True, tag="presence", tag_field="kind"):
    """When the user was online, and last had a connection in the foreground."""

    online: bool
    foreground: bool
    last_seen: JsonTime | None
    last_foreground: JsonTime | None


class ExportDeviceResponse(DeviceResponse, kw_only=True, tag="device", tag_field="kind"):
    """A device. Its push token is masked: it is a credential."""

    device: NameText
    push_since: Annotated[JsonTime | None, Meta(description="When the push token was registered.")]


class ExportFirstSeenResponse(Struct, kw_only=True, tag="first_seen", tag_field="kind"):
    """When a device was registered first."""

    device: NameText
    at: JsonTime


class ExportSessionResponse(Struct, kw_only=True, tag="session", tag_field="kind"):
    """A connection of a device. It may be over: see `presence`."""

    device: NameText
    session: str
    connection: str
    opened: JsonTime
    foreground: bool
    category_prefix: _Filter
    systems: list[str] | None


class ExportAcknowledgedResponse(Struct, kw_only=True, tag="acknowledged", tag_field="kind"):
    """The seq up to which a view was shown to the user."""

    device: NameText
    category_prefix: _Filter
    seq: Count


class ExportAcknowledgementResponse(Struct, kw_only=True, tag="acknowledgement", tag_field="kind"):
    """An acknowledgement: everything after one seq, up to another."""

    device: NameText
    category_prefix: _Filter
    after: Count
    seq: Count
    at: JsonTime


class ExportDelayedMessageResponse(Struct, kw_only=True, tag="delayed_message", tag_field="kind"):
    """A message that waits for its `not_before`, with its senders."""

    message: _Message
    device: _Sender
    key: Annotated[str | None, Meta(description="The id of the service key that sent it; of several, the newest.")]
    keys: Annotated[
        list[str], Meta(description="The ids of the service keys that sent it, newest last, and at most four.")
    ]
    accepted: JsonTime | None


class ExportItemResponse(Struct, kw_only=True, tag="item", tag_field="kind"):
    """An item, live or gone."""

    id: NameText
    item: _Item
    seq: Count
    gone: GoneResponse | None
    hidden: Annotated[dict[NameText, GoneResponse], Meta(description="The devices that dismissed it for themselves.")]


class ExportTombstoneResponse(Struct, kw_only=True, tag="tombstone", tag_field="kind"):
    """A dismissal of an id that was unknown."""

    id: NameText
    device: _Sender
    at: JsonTime
    category_prefix: _Filter


class ExportIntervalResponse(Struct, kw_only=True, tag="interval", tag_field="kind"):
    """A remembered dismissal of a category or prefix, by `created`."""

    category: Annotated[str, Meta(description="A category, or a prefix if `is_prefix`.")]
    is_prefix: bool
    device: _Sender
    begin: JsonTime
    end: JsonTime
    at: Annotated[JsonTime, Meta(description="Its retention begins here.")]
    skip: list[NameText]


class ExportMessageIdResponse(Struct, kw_only=True, tag="message_id", tag_field="kind"):
    """A message id that is remembered: a repeat of the message has no effect."""

    id: str
    system: str
    device: _Sender


class ExportRemovedDeviceResponse(Struct, kw_only=True, tag="removed_device", tag_field="kind"):
    """A device that was removed."""

    device: NameText
    seq: Count


class ExportExternalResponse(Struct, kw_only=True, tag="external", tag_field="kind"):
    """A message of another system."""

    system: CategoryText
    seq: Count
    at: JsonTime
    body: Annotated[Any, Meta(description="The message; a device's has its name.")]


class ExportWorkResponse(Struct, kw_only=True, tag="work", tag_field="kind"):
    """An entry of the agenda: what is to be done for the user, and when."""

    work: str
    of: Annotated[str, Meta(description="The item, message, category or device, and what else names the entry.")]
    at: JsonTime


class ExportWaitResponse(Struct, kw_only=True):
    """Why a delivery was not sent at a time, and until when it waited."""

    at: JsonTime
    reason: str
    until: JsonTime


class ExportDeliveryResponse(DeliveryResponse, kw_only=True, tag="delivery", tag_field="kind"):
    """A delivery with its attempts, as `GET /v1/users/{uid}/deliveries` shows it, and more."""

    planned: JsonTime
    ended: JsonTime | None
    waits: list[ExportWaitResponse]
    replays: list[JsonTime]
    mail: Annotated[str | None, Meta(description="The id of the e-mail that carried it.")]
    event: Annotated[str | None, Meta(description="The event of a webhook, as JSON.")]
    dead_letter: Annotated[JsonTime | None, Meta(description="Since when it is a dead letter.")]


class ExportRevocationResponse(Struct, kw_only=True, tag="revocation", tag_field="kind"):
    """Tokens issued at or before a time are revoked."""

    device: Annotated[NameText | None, Meta(description="null: all devices.")]
    issued_before: JsonTime


class ExportTicketsResponse(Struct, kw_only=True, tag="tickets", tag_field="kind"):
    """The number of tickets. They are credentials; the store has only their hashes."""

    count: Count


LINES: Final[tuple[type[Struct], ...]] = tuple(
    each
    for each in list(vars().values())
    if isinstance(each, type) and issubclass(each, Struct) and each.__struct_config__.tag_field == "kind"
)
"""The classes of all lines."""

EXPORTED_KEYS: Final[Mapping[str, str]] = {
    "h": "item tombstone message_id removed_device position",
    "s": "interval",
    "a": "work",
    "x": "external",
    "later": "delayed_message",
    "dev": "device first_seen",
    "con": "contact preferences",
    "ack": "acknowledged",
    "seen": "acknowledgement",
    "on": "session presence",
    "rev": "revocation",
    "tickets": "tickets",
    "led": "delivery",
    "dead": "delivery",
    "suppressed": "suppression",
}
"""Kinds of keys (``gregor.store.redis.keys``), and the kinds of lines that have their content."""

NOT_EXPORTED: Final[Mapping[str, str]] = {
    "n o": "Indexes of the items and tombstones that are exported.",
    "trace": "Trace contexts of the exported items. They expire after a day.",
    "ledx evx wdr fold fly": "Indexes of the deliveries that are exported.",
    "due": "The earliest time of the exported work, for the scheduler.",
    "push": "Hashes of the push tokens of the exported devices.",
    "suppressions": "An index of the suppressed addresses.",
    "ticket": "Credentials. Their number is exported.",
    "final": "Encrypted for the holder of a credential. They cannot be found by the user id, and end after an hour.",
    "rate": "When a limit is available again. They end after seconds, those of pushes and mails after an hour.",
    "deliveries retry": "Queues. Each of their entries belongs to an exported delivery.",
    "aside": "Entries of queues that cannot be parsed, so their user is unknown.",
    "forgotten": "Hashes of deleted users.",
    "audit": "Acts of service keys, with hashes of the user id and of the device: `GET /v1/audit`.",
    "gen wait reset jobs job_order partitions formats processes gateways": "The deployment, not a user.",
    "categories keys keys_used webhooks": "What operators and backends set up, not a user.",
}
"""Kinds of keys without a line, each with the reason."""
