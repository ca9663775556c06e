"""Builders of messages and of the commits that are planned from them, for short test bodies."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from gregor.core.items.sync import Cursor, Full, View, cursor_for
from gregor.core.limits import Limits
from gregor.core.messages.model import Commit, Sender
from gregor.core.messages.parse import parse_message
from gregor.core.messages.plan import plan
from gregor.store.contract.store import Store

SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
DAY_US = 24 * HOUR_US

NOW = 1_700_000_000
"""The time at which tests begin, in Unix seconds."""
NOW_US = NOW * SECOND_US
SEED = b"\x12\x34\x56"
LIMITS = Limits()

BACKEND = View()
BY_BACKEND = Sender()

Document = dict[str, Any]


def item(
    category: str = "news",
    *,
    created: float | None = None,
    expires: float | str | None = None,
    remind_at: Iterable[float | str] | None = None,
    for_device: str | None = None,
    body: Any = None,
) -> Document:
    """Return one entry of ``create``; times are in seconds."""
    given = {"created": created, "expires": expires, "remind_at": None if remind_at is None else list(remind_at)}
    times = {name: value for name, value in given.items() if value is not None}
    return {"category": category, "times": times, "for_device": for_device, "body": body}


def interval(
    category: str | None = None,
    *,
    prefix: str | None = None,
    begin: float | None = None,
    end: float | None = None,
    skip: Iterable[str] = (),
) -> Document:
    """Return one entry of ``dismiss.intervals``; times are in seconds."""
    entry = {"category": category, "category_prefix": prefix, "begin": begin, "end": end, "skip": list(skip)}
    return {name: value for name, value in entry.items() if value is not None}


def message(
    create: Mapping[str, Document] | None = None,
    ids: Iterable[str] = (),
    intervals: Iterable[Document] = (),
    message_id: str | None = None,
) -> Document:
    """Return a message of the system ``gregor`` that creates and dismisses."""
    body = {"create": dict(create or {}), "dismiss": {"ids": list(ids), "intervals": list(intervals)}}
    return {"system": "gregor", "body": body} | ({"id": message_id} if message_id else {})


def external(body: Any, system: str = "kbfs", message_id: str | None = None) -> Document:
    """Return a message of another system."""
    return {"system": system, "body": body} | ({"id": message_id} if message_id else {})


RESET: Document = {"system": "gregor", "body": {"flush": True}}


def planned(
    document: Document,
    sender: Sender = BY_BACKEND,
    now_us: int = NOW_US,
    limits: Limits = LIMITS,
    seed: bytes = SEED,
) -> Commit:
    """Plan a message of ``sender`` at ``now_us`` and return the commit. Raises ``Problem`` as ingest does."""
    return plan(parse_message(document, limits), sender, now_us, seed, limits)


def creating(*ids: str, now_us: int = NOW_US, sender: Sender = BY_BACKEND, **fields: Any) -> Commit:
    """Return the commit that creates ``ids``, all with the same ``fields`` of ``item``."""
    return planned(message({item_id: item(**fields) for item_id in ids}), sender, now_us)


async def raise_seq(store: Store, seq: int, uid: str = "alice") -> None:
    """Create items until the user has a seq: devices can only acknowledge what exists."""
    known = (await store.users.state(uid, BACKEND, NOW_US)).seq
    for number in range(known, seq):
        await store.users.commit(uid, creating(f"seq-{number + 1}"))


def dismissing(*ids: str, now_us: int = NOW_US, sender: Sender = BY_BACKEND) -> Commit:
    """Return the commit that dismisses ``ids``."""
    return planned(message(ids=ids), sender, now_us)


def sweeping(*intervals: Document, now_us: int = NOW_US, sender: Sender = BY_BACKEND) -> Commit:
    """Return the commit that dismisses ``intervals``."""
    return planned(message(intervals=intervals), sender, now_us)


def ids_of(full: Full) -> list[str]:
    """Return the ids of a full view, in its order."""
    return [entry.id for entry in full.items]


def cursor_of(full: Full, view: View = BACKEND) -> Cursor:
    """Return the cursor that a reader of ``view`` holds after ``full``."""
    return cursor_for(full.epoch, view, full.seq)


def document_of(raw: bytes) -> Document:
    """Parse a JSON document from the store or a frame."""
    document: Document = json.loads(raw)
    return document
