"""The examples of the OpenAPI document: a friend joins.

Requests have relative times, so that they work whenever they are sent. Responses have fixed ones.
"""

from __future__ import annotations

from typing import Any, Final

from gregor.core.items.digest import digest_items
from gregor.core.json_text import canonical_json

ITEM_ID: Final = "5d44d2ad9aabab30"
FRIEND: Final[dict[str, Any]] = {
    "times": {"created": 1457056447, "expires": 1488592477, "remind_at": [1457402098]},
    "for_device": None,
    "category": "user.joined",
    "body": {
        "social_media_name": "bob@twitter",
        "keybase": "kbob",
        "uid": "f8da58e5a6d0d0800f361bc139015a19",
    },
}
DIGEST: Final = digest_items([(ITEM_ID, canonical_json(FRIEND))]).hex()

NEW_FRIEND: Final[dict[str, Any]] = {
    "times": {"expires": "+30d", "remind_at": ["+4d"]},
    "category": "user.joined",
    "body": FRIEND["body"],
}
MESSAGE: Final = {"system": "gregor", "body": {"create": {ITEM_ID: NEW_FRIEND}}}
RECEIPT: Final = {"cursor": "5f1c0a-1", "seq": 1, "created": [ITEM_ID], "dismissed": [], "ignored": {}}
BATCH: Final = [
    {"uid": "alice", **MESSAGE},
    {"uids": ["alice", "bob"], "system": "kbfs.favorites", "body": {"action": "delete", "tlf": "/private/alice,max"}},
]
BATCH_ANSWER: Final = [
    {"line": 0, "uid": "alice", "receipt": RECEIPT},
    {"line": 1, "uid": "alice", "receipt": {"cursor": "5f1c0a-2", "seq": 2}},
    {"line": 1, "uid": "bob", "receipt": {"cursor": "77b2e4-1", "seq": 1}},
]
STATE: Final = {"cursor": "5f1c0a-1", "digest": DIGEST, "badge": 1, "items": {ITEM_ID: FRIEND}}
SYNC: Final = {
    "system": "gregor",
    "sync": "full",
    "seq": 1,
    "cursor": "5f1c0a-1",
    "digest": DIGEST,
    "body": {"create": {ITEM_ID: FRIEND}},
}
GONE: Final = {"at": 1457056500.25, "reason": "dismissed", "device": "phone", "seq": 2}
ITEM: Final = {
    "id": ITEM_ID,
    "item": FRIEND,
    "seq": 1,
    "gone": GONE,
    "timeline": [
        {"at": 1457056447, "event": "created"},
        {"at": 1457056457, "event": "planned", "channel": "apns", "device": "tablet", "n": 0, "intent": "item"},
        {
            "at": 1457056457.5,
            "event": "sent",
            "channel": "apns",
            "device": "tablet",
            "n": 0,
            "intent": "item",
            "detail": "200",
        },
        {"at": 1457056499.5, "event": "acked", "device": "phone", "n": 0},
        {"at": 1457056500.25, "event": "dismissed", "device": "phone", "detail": "dismissed"},
    ],
}
HISTORY: Final = {"entries": [{"id": ITEM_ID, "item": FRIEND, "seq": 1, "gone": GONE}]}
REGISTRATION: Final = {
    "platform": "ios",
    "push": {"provider": "apns", "token": "740f4707bebcf74f9b7c25d48e3358945f6aa01d", "topic": "com.example.app"},
    "locale": "en-GB",
}
DEVICE: Final = {
    "platform": "ios",
    "push": {"provider": "apns", "token": "…a01d", "topic": "com.example.app", "sandbox": False},
    "locale": "en-GB",
    "online": True,
    "foreground": False,
    "last_seen": 1457056500,
}
CONTACT: Final = {
    "email": "alice@example.com",
    "locale": "it-IT",
    "timezone": "Europe/Rome",
    "quiet_hours": {"from": "22:00", "to": "07:00"},
}
QUIET: Final = {"timezone": "Europe/Rome", "quiet_hours": {"from": "22:00", "to": "07:00"}}
PREFERENCES: Final = {"user": {"push": True, "email": False}, "*": {"push": False}}
SUPPRESSION: Final = {"email": "alice@example.com", "reason": "bounce", "since": 1457056457}
DELIVERY: Final[dict[str, Any]] = {
    "id": "YWxpY2UvNWQ0NGQyYWQ5YWFiYWIzMC9pdGVtLzAvcGhvbmUvYXBucw",
    "item": ITEM_ID,
    "intent": "item",
    "channel": "apns",
    "device": "phone",
    "state": "sent",
    "reason": None,
    "n": 0,
    "next": None,
    "attempts": [{"at": 1457056457, "status": "200", "provider_id": "f4e2d7", "detail": ""}],
}
DEAD_LETTER: Final[dict[str, Any]] = {
    "uid": "alice",
    **DELIVERY,
    "state": "dead",
    "attempts": [{"at": 1457056457, "status": "400", "provider_id": None, "detail": "BadDeviceToken"}],
    "at": 1457056457,
}
KEY: Final = {
    "id": "k3f9a1c2d4e5",
    "scopes": ["ingest"],
    "prefixes": None,
    "rate": None,
    "created": 1457056447,
    "systems": None,
    "expires": None,
    "addresses": None,
    "last_used": 1457056500,
}
NEW_KEY: Final = {**KEY, "key": "gk_k3f9a1c2d4e5_<secret>"}
AUDIT_EVENT: Final = {
    "at": 1457056447,
    "key": "k3f9a1c2d4e5",
    "act": "deleteUser",
    "target": {"uid": "2bd806c97f0e00af1a1fc3328fa763a9"},
    "outcome": "ok",
    "request_id": "5d44d2ad9aabab30",
    "client": "192.0.2.7",
}
WEBHOOK: Final = {
    "id": "wh_1f2e3d4c5b6a",
    "url": "https://example.com/gregor",
    "events": ["item.dismissed"],
    "category_prefix": ["user"],
    "name": None,
    "created": 1457056447,
    "enabled": True,
    "disabled": None,
}
NEW_WEBHOOK: Final = {**WEBHOOK, "secret": "whsec_<base64>"}
JOB: Final = {
    "id": "flush-5be1c1",
    "kind": "flush",
    "state": "done",
    "params": {"spread": 30},
    "done": 1024,
    "total": 1024,
    "created": 1457056500,
    "changed": 1457056501,
    "reason": None,
    "result": None,
}
UPGRADE: Final = {
    "state": "finished",
    "written": 1,
    "newest": 1,
    "oldest": 1,
    "release": "0.2.0",
    "processes": [
        {
            "process": "ingest-7d4f:1:5be1c1a0",
            "service": "ingest",
            "release": "0.2.0",
            "reads": [1, 1],
            "writes": 1,
            "blocks": False,
        }
    ],
}
BROADCAST_JOB: Final = {
    **JOB,
    "id": "broadcast-5be1c1",
    "kind": "broadcast",
    "state": "waiting",
    "params": {"system": "kbfs.favorites", "body": {"action": "reload"}, "spread": 60, "audience": "online"},
    "done": 0,
    "total": 0,
}
AUDIT_JOB: Final = {
    **JOB,
    "id": "audit-5be1c1",
    "kind": "audit",
    "state": "waiting",
    "params": {},
    "done": 0,
    "total": 0,
}
PRESENCE: Final = {"alice": {"online": True, "foreground": False, "last_seen": 1457056500}}
ENTRY: Final = {
    "title": "{{ body.keybase }} just joined",
    "expires_after": "365d",
    "remind_after": ["4d"],
    "push": {"after": "10s", "sound": "default"},
    "email": {"after": "15m", "unless": "foreground"},
}
CATEGORIES: Final[dict[str, Any]] = {"version": 8, "categories": {"user.joined": ENTRY}}
PREVIEW: Final = {
    "title": "kbob just joined",
    "text": None,
    "link": "app://people/kbob",
    "subject": "kbob just joined",
    "html": None,
}

DELAYED_MESSAGES: Final[dict[str, Any]] = {
    "messages": [{"id": "m1", "not_before": 1457060000, "system": "gregor", "device": "phone", "accepted": 1457056500}]
}

EXPORT: Final = (
    '{"kind":"begin","version":1,"uid":"alice","at":1457056500}\n'
    '{"kind":"position","cursor":"77b2e4-1"}\n'
    '{"kind":"end","counts":{"begin":1,"position":1}}\n'
)
