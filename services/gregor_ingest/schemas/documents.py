"""The shape of documents that ``gregor.core`` parses, for the OpenAPI document: messages, contact, category entries.

These classes validate nothing; ``gregor.core`` has stricter rules, with better error messages. The name of a component
is the class name without ``Schema``.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Struct, UnsetType

from gregor.core.notify.contact import MAX_PREFERENCES
from gregor.core.notify.email_address import MAX_ADDRESS_CHARACTERS

from .fields import CATEGORY_SCHEMA, LANGUAGE_SCHEMA, MAX_TIME_S, CategoryText, NameText, PrefixText, UserIdText

True_ = Annotated[bool, Meta(extra_json_schema={"const": True})]
"""A flag that is true or missing."""

_Time = Annotated[float, Meta(ge=0, le=MAX_TIME_S)] | None
_TimeOrOffset = Annotated[
    Any,
    Meta(
        description="Unix seconds, or `+` and a duration after `created`: `+86400` or `+1d`.",
        extra_json_schema={
            "anyOf": [
                {"type": ["number", "null"], "minimum": 0, "maximum": MAX_TIME_S},
                {"type": "string", "pattern": r"^\+[0-9]{1,10}(\.[0-9]{1,6})?[smhdw]?$"},
            ]
        },
    ),
]
_Email = Annotated[str, Meta(max_length=MAX_ADDRESS_CHARACTERS)]
_LanguageTag = Annotated[str, Meta(max_length=35, pattern=LANGUAGE_SCHEMA["pattern"])]
_TimeZone = Annotated[str, Meta(description="A name of the IANA time zone database, such as Europe/Rome.")]
_TimeOfDay = Annotated[str, Meta(pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$")]
_Text = str | bool | None
_Unless = Annotated[str, Meta(extra_json_schema={"enum": ["foreground", "online", "acked"]})]
_External = Annotated[
    str,
    Meta(
        description="The name of another system. Every spelling of `gregor` is reserved.",
        extra_json_schema={**CATEGORY_SCHEMA, "not": {"pattern": "^[gG][rR][eE][gG][oO][rR]$"}},
    ),
]


class TimesSchema(Struct, kw_only=True, forbid_unknown_fields=True):
    """The times of a new item."""

    created: _Time | UnsetType = UNSET
    expires: _TimeOrOffset | UnsetType = UNSET
    remind_at: Annotated[list[_TimeOrOffset], Meta(max_length=16)] | UnsetType | None = UNSET


class ItemSchema(Struct, kw_only=True, forbid_unknown_fields=True):
    """A new item."""

    category: CategoryText
    body: Annotated[Any, Meta(description="Any JSON, up to 16 KiB.")] = UNSET
    times: TimesSchema | UnsetType | None = UNSET
    for_device: Annotated[str | None, Meta(description="A device, `*` for each device, null for all.")] | UnsetType = (
        UNSET
    )


class IntervalSchema(Struct, kw_only=True, forbid_unknown_fields=True):
    """Items to dismiss by category and time."""

    category: CategoryText | UnsetType | None = UNSET
    category_prefix: PrefixText | UnsetType | None = UNSET
    begin: _Time | UnsetType = UNSET
    end: _Time | UnsetType = UNSET
    skip: list[NameText] | UnsetType | None = UNSET


class DismissalSchema(Struct, kw_only=True, forbid_unknown_fields=True):
    """Items to dismiss."""

    ids: list[NameText] | UnsetType | None = UNSET
    intervals: list[IntervalSchema] | UnsetType | None = UNSET


class GregorBodySchema(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of a message of the system `gregor`: items to create and to dismiss, or a flush."""

    create: dict[NameText, ItemSchema] | UnsetType | None = UNSET
    dismiss: DismissalSchema | UnsetType | None = UNSET
    flush: True_ | UnsetType | None = UNSET


class _Common(Struct, kw_only=True, forbid_unknown_fields=True):
    id: Annotated[NameText | None, Meta(description="Makes a repeat harmless.")] | UnsetType = UNSET
    device: Annotated[NameText | None, Meta(description="The device that acts.")] | UnsetType = UNSET
    not_before: Annotated[_Time, Meta(description="Delay the message until this time.")] | UnsetType = UNSET


class GregorMessageSchema(_Common, kw_only=True, forbid_unknown_fields=True):
    """A message that changes the state."""

    system: Annotated[str, Meta(extra_json_schema={"const": "gregor"})]
    body: GregorBodySchema


class ExternalMessageSchema(_Common, kw_only=True, forbid_unknown_fields=True):
    """A message of another system: it goes to devices and is not part of the state."""

    system: _External
    body: Annotated[Any, Meta(description="Any JSON.")]


_Uids = Annotated[list[UserIdText], Meta(min_length=1, max_length=1_000)]


class GregorLineSchema(GregorMessageSchema, kw_only=True, forbid_unknown_fields=True):
    """A message that changes the state of its users: `uid` or `uids`."""

    uid: UserIdText | UnsetType = UNSET
    uids: _Uids | UnsetType = UNSET


class ExternalLineSchema(ExternalMessageSchema, kw_only=True, forbid_unknown_fields=True):
    """A message of another system for its users: `uid` or `uids`."""

    uid: UserIdText | UnsetType = UNSET
    uids: _Uids | UnsetType = UNSET


# --- Contact and preferences


class QuietHoursSchema(Struct, rename={"from_": "from"}, forbid_unknown_fields=True):
    """The daily hours without notifications, by the user's clock."""

    from_: _TimeOfDay
    to: _TimeOfDay


class ContactDocumentSchema(Struct, kw_only=True, forbid_unknown_fields=True):
    """How a user can be reached."""

    email: _Email | UnsetType | None = UNSET
    locale: _LanguageTag | UnsetType | None = UNSET
    timezone: _TimeZone | UnsetType | None = UNSET
    quiet_hours: QuietHoursSchema | UnsetType | None = UNSET


class QuietHoursDocumentSchema(Struct, kw_only=True, forbid_unknown_fields=True):
    """When notifications of a user wait."""

    timezone: _TimeZone | UnsetType | None = UNSET
    quiet_hours: QuietHoursSchema | UnsetType | None = UNSET


class QuietHoursPatchSchema(Struct, kw_only=True, rename={"from_": "from"}, forbid_unknown_fields=True):
    """Changes of the quiet hours."""

    from_: _TimeOfDay | UnsetType = UNSET
    to: _TimeOfDay | UnsetType = UNSET


class ContactPatchSchema(Struct, kw_only=True, forbid_unknown_fields=True):
    """A merge patch (RFC 7396) of the contact: null removes a member."""

    email: _Email | UnsetType | None = UNSET
    locale: _LanguageTag | UnsetType | None = UNSET
    timezone: _TimeZone | UnsetType | None = UNSET
    quiet_hours: QuietHoursPatchSchema | UnsetType | None = UNSET


class ChannelsDocumentSchema(Struct, kw_only=True, forbid_unknown_fields=True):
    """Which channels may be used."""

    push: bool | UnsetType = UNSET
    email: bool | UnsetType = UNSET


class ChannelsPatchSchema(Struct, kw_only=True, forbid_unknown_fields=True):
    """Changes of the channels: null removes a choice."""

    push: bool | UnsetType | None = UNSET
    email: bool | UnsetType | None = UNSET


# --- Category entries


class PushFieldsSchema(Struct, kw_only=True, forbid_unknown_fields=True):
    """Push notifications of a category."""

    after: str | UnsetType | None = UNSET
    sound: _Text | UnsetType = UNSET


class EmailFieldsSchema(Struct, kw_only=True, forbid_unknown_fields=True):
    """E-mail of a category."""

    after: str | UnsetType | None = UNSET
    unless: _Unless | UnsetType | None = UNSET
    subject: _Text | UnsetType = UNSET
    html: _Text | UnsetType = UNSET


class AggregateFieldsSchema(Struct, kw_only=True, forbid_unknown_fields=True):
    """Aggregation: one summary in place of many items of a category."""

    window: str | UnsetType | None = UNSET
    at_least: int | UnsetType | None = UNSET
    title: _Text | UnsetType = UNSET
    keep: int | UnsetType | None = UNSET


class CategoryEntrySchema(Struct, kw_only=True, forbid_unknown_fields=True):
    """One category entry: docs/reference/categories.md explains the fields. false removes an inherited value."""

    title: _Text | UnsetType = UNSET
    text: _Text | UnsetType = UNSET
    link: _Text | UnsetType = UNSET
    collapse: _Text | UnsetType = UNSET
    expires_after: _Text | UnsetType = UNSET
    remind_after: list[str] | bool | UnsetType | None = UNSET
    counts_in_badge: bool | UnsetType | None = UNSET
    max_live: int | bool | UnsetType | None = UNSET
    push: PushFieldsSchema | bool | UnsetType | None = UNSET
    email: EmailFieldsSchema | bool | UnsetType | None = UNSET
    urgent: bool | UnsetType | None = UNSET
    devices_may_create: bool | UnsetType | None = UNSET
    aggregate: AggregateFieldsSchema | bool | UnsetType | None = UNSET
    body_schema: dict[str, Any] | bool | UnsetType | None = UNSET
    locales: dict[str, dict[str, Any]] | UnsetType | None = UNSET


class CategorySetSchema(Struct, kw_only=True, forbid_unknown_fields=True):
    """All category entries."""

    categories: dict[CategoryText, CategoryEntrySchema]
    version: Annotated[int, Meta(description="Ignored.")] | UnsetType = UNSET


COMPOSED: Final[dict[str, dict[str, Any]]] = {
    "PreferencesDocument": {
        "type": "object",
        "description": "Which channels may be used, by category prefix, or `*` for all.",
        "maxProperties": MAX_PREFERENCES + 1,  # with `*`
        "additionalProperties": {"$ref": "#/components/schemas/ChannelsDocument"},
    },
    "PreferencesPatch": {
        "type": "object",
        "description": "A merge patch (RFC 7396) of the preferences: null removes a prefix.",
        "additionalProperties": {"anyOf": [{"$ref": "#/components/schemas/ChannelsPatch"}, {"type": "null"}]},
    },
    "Message": {
        "description": "A message. The body of the system `gregor` is an object; other systems may send any JSON.",
        "anyOf": [{"$ref": "#/components/schemas/GregorMessage"}, {"$ref": "#/components/schemas/ExternalMessage"}],
    },
    "Line": {
        "description": "A message with its users.",
        "anyOf": [{"$ref": "#/components/schemas/GregorLine"}, {"$ref": "#/components/schemas/ExternalLine"}],
    },
}
"""Unions, which a struct cannot be."""
