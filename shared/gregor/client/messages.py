"""Messages as a client writes them, and what makes any of them safe to send twice (semantics.md L2). PURE."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from gregor.core.ids import EVERY_DEVICE, GREGOR, covers

from .changes import Item

Message = dict[str, Any]
"""`{"system", "body"}` and perhaps `"id"`, as protocol.md has it."""


def gregor(**body: Any) -> Message:
    """A message of the state: `create=…`, `dismiss=…`, or `flush=True`; what is None is left out."""
    return {"system": GREGOR, "body": {name: value for name, value in body.items() if value is not None}}


def creation(
    id_: str,
    category: str,
    body: Any = None,
    *,
    for_device: str | None = None,
    created: float | None = None,
    expires: float | str | None = None,
    remind_at: Sequence[float | str] | None = None,
) -> Message:
    """A message that creates one item. Times are Unix seconds; `expires` and reminders also `"+<seconds>"`."""
    times = {"created": created, "expires": expires, "remind_at": list(remind_at) if remind_at else None}
    item = {
        "times": {name: value for name, value in times.items() if value is not None} or None,
        "for_device": for_device,
        "category": category,
        "body": body,
    }
    return gregor(create={id_: {name: value for name, value in item.items() if value is not None}})


def dismissal(
    ids: Iterable[str] = (),
    *,
    category: str | None = None,
    category_prefix: str | None = None,
    end: float | None = None,
    skip: Iterable[str] = (),
) -> Message:
    """A message that dismisses ids, and all items of a category or under a prefix (`""`: everything) but `skip`."""
    dismiss: dict[str, Any] = {}
    if named := list(ids):
        dismiss["ids"] = named
    if category is not None or category_prefix is not None:
        interval = {"category": category, "category_prefix": category_prefix, "end": end, "skip": sorted(skip) or None}
        dismiss["intervals"] = [{name: value for name, value in interval.items() if value is not None}]
    return gregor(dismiss=dismiss)


def snoozed(id_: str, item: Item, not_before: float, device: str | None = None) -> Message:
    """A message that brings an item back at a time, as a copy under an id of its own; the same call, the same message.

    What expires by then cannot come back: `ValueError`. A `"*"` item that one `device` puts off comes back to it alone.
    """
    times = item.get("times") or {}
    expires = times.get("expires")
    if expires is not None and expires <= not_before:
        raise ValueError(f"{id_} expires before it would come back")
    copy = "snoozed:" + sha256(f"{id_}\0{not_before!r}".encode()).hexdigest()[:32]
    for_device = device if device is not None and item.get("for_device") == EVERY_DEVICE else item.get("for_device")
    message = creation(
        copy,
        item["category"],
        item.get("body"),
        for_device=for_device,
        expires=expires,
        remind_at=[at for at in times.get("remind_at") or () if at > not_before],
    )
    return {**message, "id": copy, "not_before": not_before}


def needs_id(message: Mapping[str, Any]) -> bool:
    """Whether the effect would depend on the moment of arrival, so that only a message id makes it idempotent."""
    if message["system"] != GREGOR:
        return True
    body = message["body"]
    return bool(body.get("flush")) or any(is_loose(interval, body) for interval in intervals(body))


def intervals(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The intervals of a message's body."""
    return list((body.get("dismiss") or {}).get("intervals") or ())


def is_loose(interval: Mapping[str, Any], body: Mapping[str, Any]) -> bool:
    """Whether an interval has neither an `end` nor a creation of its own message to take one from."""
    own = body.get("create") or {}
    return interval.get("end") is None and not any(is_of(interval, item["category"]) for item in own.values())


def is_of(interval: Mapping[str, Any], category: str) -> bool:
    """Whether the interval matches that category, whatever the time."""
    if (prefix := interval.get("category_prefix")) is not None:
        return covers(prefix.removesuffix("."), category)
    return bool(interval.get("category") == category)


def catches(interval: Mapping[str, Any], id_: str, item: Item) -> bool:
    """Whether the interval dismisses that item, both ends included; an absent `created` is now."""
    if id_ in (interval.get("skip") or ()) or not is_of(interval, item["category"]):
        return False
    created = (item.get("times") or {}).get("created")
    begin, end = interval.get("begin"), interval.get("end")
    if created is None:
        return end is None
    return (begin is None or begin <= created) and (end is None or created <= end)
