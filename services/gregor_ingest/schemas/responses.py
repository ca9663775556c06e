"""What the good answers look like, as JSON Schema (2020-12): by name, and which operation answers with which.

A client ignores members that it does not know (protocol.md), so no schema here is closed.
"""

from __future__ import annotations

from typing import Any, Final

from gregor.core.messages.model import IgnoredReason, RemovalReason
from gregor.core.notify.intents import IntentKind
from gregor.core.notify.ledger import DeliveryState
from gregor_ingest.auth import SCOPES

from .requests import CATEGORY_SCHEMA, NAME_SCHEMA, PREFIX_SCHEMA, USER_ID_SCHEMA

Schema = dict[str, Any]

_TIMELINE: Final = (
    "created", "reminded", "acked", "planned", "waiting", "sent", "retry", "withdrawn", "cancelled", "dead",
    "dismissed", "expired",
)  # fmt: skip
_TEXT: Final[Schema] = {"type": "string"}
_TEXT_OR_NULL: Final[Schema] = {"type": ["string", "null"]}
_FLAG: Final[Schema] = {"type": "boolean"}
_SEQ: Final[Schema] = {"type": "integer", "minimum": 0}
_TIME: Final[Schema] = {
    "type": "number",
    "minimum": 0,
    "maximum": (1 << 33) - 1,
    "description": "Unix seconds, whole or decimal.",
}
_TIME_OR_NULL: Final[Schema] = {**_TIME, "type": ["number", "null"]}
_DEVICE_OR_NULL: Final[Schema] = {**NAME_SCHEMA, "type": ["string", "null"]}
_CURSOR: Final[Schema] = {
    "type": "string",
    "pattern": "^[^-]{1,24}-[0-9]+$",
    "description": "A position: send it back as it is.",
}
_DIGEST: Final[Schema] = {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "The proof of these items."}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(needed: Schema, more: Schema | None = None) -> Schema:
    """An object that has ``needed``, and may have ``more``."""
    return {"type": "object", "required": list(needed), "properties": {**needed, **(more or {})}}


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _map(values: Schema, names: Schema | None = None) -> Schema:
    schema = {"type": "object", "additionalProperties": values}
    return schema if names is None else {**schema, "propertyNames": names}


_ITEMS: Final = _map(_ref("StoredItem"), NAME_SCHEMA)
_WORDS: Final = _map(_object({"title": _TEXT, "text": _TEXT_OR_NULL, "link": _TEXT_OR_NULL}), NAME_SCHEMA)
_RENDERED: Final[Schema] = {"rendered": {**_WORDS, "description": "With `render`: words of items that have any."}}
_ENTRY: Final = {"id": NAME_SCHEMA, "item": _ref("StoredItem"), "seq": _SEQ, "gone": _ref("Gone")}
_PRESENCE: Final = {"online": _FLAG, "foreground": _FLAG, "last_seen": _TIME_OR_NULL}
_KEY: Final[Schema] = {
    "id": _TEXT,
    "scopes": _array({"enum": list(SCOPES)}),
    "prefixes": {"type": ["array", "null"], "items": PREFIX_SCHEMA},
    "rate": {"type": ["number", "null"]},
    "created": _TIME,
}
_WEBHOOK: Final[Schema] = {
    "id": _TEXT,
    "url": _TEXT,
    "events": {"type": ["array", "null"], "items": _TEXT},
    "category_prefix": {"type": ["array", "null"], "items": PREFIX_SCHEMA},
    "name": _TEXT_OR_NULL,
    "created": _TIME,
    "enabled": _FLAG,
    "disabled": {"anyOf": [{"type": "null"}, _object({"at": _TIME, "reason": _TEXT_OR_NULL})]},
}
_INTENTS: Final = [kind.value for kind in IntentKind]
_PLAN: Final[Schema] = {
    "item": NAME_SCHEMA,
    "intent": {"enum": _INTENTS},
    "n": {"type": "integer", "minimum": 0},
    "channel": _TEXT,
    "device": _DEVICE_OR_NULL,
    "reason": _TEXT_OR_NULL,
}
_ATTEMPT: Final = _object({"at": _TIME, "status": _TEXT, "provider_id": _TEXT_OR_NULL, "detail": _TEXT})
_DELIVERY: Final[Schema] = {
    "id": _TEXT,
    **_PLAN,
    "state": {"enum": [state.word for state in DeliveryState]},
    "next": _TIME_OR_NULL,
    "attempts": _array(_ATTEMPT),
}
_EVENT: Final = _object(
    {"at": _TIME, "event": {"enum": list(_TIMELINE)}},
    {
        "channel": _TEXT,
        "device": _DEVICE_OR_NULL,
        "n": {"type": "integer", "minimum": 0},
        "intent": {"enum": _INTENTS},
        "detail": _TEXT_OR_NULL,
        "until": _TIME,
    },
)
_TOKEN: Final[Schema] = {"type": "string", "pattern": "^…", "description": "Its last four characters."}
_PUSH: Final = _object(
    {"provider": {"enum": ["apns", "fcm", "webpush"]}, "token": _TOKEN, "sandbox": _FLAG}, {"topic": _TEXT}
)
_CHECKS: Final = {"redis": _TEXT, "probe": _TEXT, "draining": _FLAG}

SCHEMAS: Final[dict[str, Schema]] = {
    "StoredItem": _object(
        {
            "times": _object({"created": _TIME}, {"expires": _TIME, "remind_at": {**_array(_TIME), "minItems": 1}}),
            "for_device": {"type": ["string", "null"]},
            "category": CATEGORY_SCHEMA,
            "body": {"description": "Any JSON; null where unset, or where it is no longer kept."},
        },
        {"trimmed": {"const": True, "description": "The body is no longer kept."}},
    ),
    "Gone": {
        "anyOf": [
            {"type": "null"},
            _object(
                {
                    "at": _TIME,
                    "reason": {"enum": [reason.word for reason in RemovalReason]},
                    "device": _DEVICE_OR_NULL,
                    "seq": _SEQ,
                }
            ),
        ]
    },
    "Receipt": _object(
        {"cursor": _CURSOR, "seq": _SEQ},
        {
            "created": _array(NAME_SCHEMA),
            "dismissed": _array(NAME_SCHEMA),
            "ignored": _map({"enum": [why.value for why in IgnoredReason]}, NAME_SCHEMA),
            "unchanged": {"const": True},
            "dry_run": {"const": True},
            "deliveries": _array(_object({**_PLAN, "at": _TIME_OR_NULL})),
        },
    ),
    "Waiting": _object({"id": NAME_SCHEMA, "not_before": _TIME}),
    "Accepted": {"anyOf": [_ref("Receipt"), _ref("Waiting")]},
    "Outcome": _object(
        {"line": {"type": "integer", "minimum": 0}, "uid": {**USER_ID_SCHEMA, "type": ["string", "null"]}},
        {"receipt": _ref("Accepted"), "problem": {"type": "object", "required": ["type", "status", "code", "detail"]}},
    ),
    "Outcomes": _array(_ref("Outcome")),
    "State": _object(
        {"digest": _DIGEST, "items": _ITEMS},
        {"cursor": {**_CURSOR, "description": "Not with `at`."}, "badge": _SEQ, **_RENDERED},
    ),
    "Sync": _object(
        {
            "system": {"const": "gregor"},
            "sync": {"enum": ["full", "delta", "unchanged"]},
            "seq": _SEQ,
            "cursor": _CURSOR,
        },
        {
            "digest": _DIGEST,
            "body": _object({}, {"create": _ITEMS, "dismiss": _object({"ids": _array(NAME_SCHEMA)})}),
            "external": _array(_object({"system": CATEGORY_SCHEMA, "seq": _SEQ, "body": {}})),
            "external_gap": {"const": True},
            **_RENDERED,
        },
    ),
    "ItemStory": _object({**_ENTRY, "timeline": _array(_EVENT)}, _RENDERED),
    "History": _object({"entries": _array(_object(_ENTRY))}, _RENDERED),
    "Device": _object(
        {
            "platform": _TEXT_OR_NULL,
            "push": {"anyOf": [{"type": "null"}, _PUSH]},
            "locale": _TEXT_OR_NULL,
            **_PRESENCE,
        }
    ),
    "Devices": _object({"devices": _map(_ref("Device"), NAME_SCHEMA)}),
    "Presences": _map(_object(_PRESENCE), USER_ID_SCHEMA),
    "Revoked": _object({"device": _DEVICE_OR_NULL, "issued_before": _TIME}),
    "Contact": _object(
        {},
        {
            "email": _TEXT,
            "locale": _TEXT,
            "timezone": _TEXT,
            "quiet_hours": _object({"from": _TEXT, "to": _TEXT}),
        },
    ),
    "Preferences": _map(_object({}, {"push": _FLAG, "email": _FLAG})),
    "Suppression": _object({"email": _TEXT, "reason": _TEXT, "since": _TIME}),
    "Suppressions": _object({"entries": _array(_ref("Suppression"))}),
    "Delivery": _object(_DELIVERY),
    "Deliveries": _object({"entries": _array(_ref("Delivery"))}),
    "DeadLetters": _object({"entries": _array(_object({"uid": USER_ID_SCHEMA, **_DELIVERY, "at": _TIME}))}),
    "Purged": _object({"purged": _SEQ}),
    "Replayed": _object({"id": _TEXT}),
    "Ticket": _object({"ticket": _TEXT, "expires": _TIME}),
    "Position": _object({"cursor": _CURSOR}),
    "Spread": _object({"spread": _SEQ}),
    "Key": _object(_KEY, {"name": _TEXT}),
    "NewKey": _object({**_KEY, "key": {"type": "string", "pattern": "^gk_"}}, {"name": _TEXT}),
    "Keys": _object({"keys": _array(_ref("Key"))}),
    "Webhook": _object(_WEBHOOK),
    "NewWebhook": _object({**_WEBHOOK, "secret": {"type": "string", "pattern": "^whsec_"}}),
    "Webhooks": _object({"webhooks": _array(_ref("Webhook"))}),
    "Categories": _object({"version": _SEQ, "categories": _map({"type": "object"})}),
    "Category": {"type": "object", "description": "The fields of one entry: docs/reference/categories.md."},
    "Preview": _object(dict.fromkeys(("title", "text", "link", "subject", "html"), _TEXT_OR_NULL)),
    "WebPushKey": _object({"public_key": _TEXT}),
    "Alive": _object({"alive": {"const": True}}),
    "Ready": _object({"ready": _FLAG, "checks": _object(_CHECKS)}),
}

ANSWERS: Final[dict[str, str]] = {
    "sendMessage": "Accepted",
    "sendMessages": "Outcomes",
    "readState": "State",
    "sync": "Sync",
    "readItem": "ItemStory",
    "readHistory": "History",
    "putDevice": "Device",
    "patchDevice": "Device",
    "getDevice": "Device",
    "listDevices": "Devices",
    "readPresence": "Presences",
    "revokeTokens": "Revoked",
    "putContact": "Contact",
    "patchContact": "Contact",
    "getContact": "Contact",
    "putPreferences": "Preferences",
    "patchPreferences": "Preferences",
    "getPreferences": "Preferences",
    "listSuppressions": "Suppressions",
    "suppressAddress": "Suppression",
    "listDeliveries": "Deliveries",
    "listDeadLetters": "DeadLetters",
    "purgeDeadLetters": "Purged",
    "replayDeadLetter": "Replayed",
    "createTicket": "Ticket",
    "flushUser": "Position",
    "flushAll": "Spread",
    "createKey": "NewKey",
    "listKeys": "Keys",
    "getKey": "Key",
    "rotateKey": "NewKey",
    "createWebhook": "NewWebhook",
    "listWebhooks": "Webhooks",
    "getWebhook": "Webhook",
    "patchWebhook": "Webhook",
    "rotateWebhook": "NewWebhook",
    "listCategories": "Categories",
    "applyCategories": "Categories",
    "rollBackCategories": "Categories",
    "readCategory": "Category",
    "putCategory": "Category",
    "previewCategory": "Preview",
    "readWebPushKey": "WebPushKey",
    "health": "Alive",
    "ready": "Ready",
}
"""Which schema the good answer of an operation has."""
