"""Messages as a client writes them, the receipts of them, and the rules that make a repeat harmless. Pure.

Every message is safe to send twice (docs/semantics.md L2): either its effect does not depend on the moment of arrival,
or it carries a message id.

Other places have the same rules: see semantics.md, "Where each rule lives".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from gregor.core.ids import EVERY_DEVICE, GREGOR, covers

from .changes import Item

Message = dict[str, Any]
"""A message (docs/reference/http.md): `{"system", "body"}`, and optionally `"id"`, `"device"` and `"not_before"`."""
Time = datetime | float
"""A moment: a `datetime` with a time zone, or Unix seconds."""
TimeOrOffset = datetime | timedelta | float | str
"""A moment, or an offset from the creation: a `timedelta`, or text such as `"+86400"`."""


# Receipts.


@dataclass(frozen=True, slots=True)
class MessageReceipt:
    """The server's answer to an accepted message."""

    seq: int | None = None
    """The sequence number after the message; None if the message waits for its `not_before`."""
    created: tuple[str, ...] = ()
    """Ids of the items that were created and are live."""
    dismissed: tuple[str, ...] = ()
    """Ids of the items that the message dismissed."""
    ignored: Mapping[str, str] = field(default_factory=dict)
    """Item ids that were not created, with the reason: `conflict`, `dismissed`, `expired`, `stale`, `duplicate`."""
    unchanged: bool = False
    """Whether the message had no effect."""
    message_id: str | None = None
    """The id of a message that waits for its `not_before`, as `cancel` takes it."""
    not_before: float | None = None
    """Unix seconds at which a waiting message takes effect."""
    dry_run: bool = False
    """Whether this is the receipt of a dry run: nothing was changed."""
    deliveries: tuple[Mapping[str, Any], ...] = ()
    """Dry run only: the notifications that the message would plan, each with a time or the reason for none."""
    replicas: int | None = None
    """How many replicas of the store have the message; None unless the producer has `replicated=True`."""
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The receipt as the server sent it."""


@dataclass(frozen=True, slots=True)
class CreateReceipt(MessageReceipt):
    """The receipt of one creation. `item_id` is the id that the item has from now on."""

    item_id: str = ""


def read_receipt(document: Mapping[str, Any]) -> MessageReceipt:
    """Return the receipt in a response."""
    return MessageReceipt(**_receipt_fields(document))


def read_create_receipt(item_id: str, document: Mapping[str, Any]) -> CreateReceipt:
    """Return the receipt in the response to a message that creates one item."""
    return CreateReceipt(**_receipt_fields(document), item_id=item_id)


def _receipt_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "seq": document.get("seq"),
        "created": tuple(document.get("created", ())),
        "dismissed": tuple(document.get("dismissed", ())),
        "ignored": document.get("ignored", {}),
        "unchanged": document.get("unchanged", False),
        "message_id": document.get("id"),
        "not_before": document.get("not_before"),
        "dry_run": document.get("dry_run", False),
        "deliveries": tuple(document.get("deliveries", ())),
        "replicas": document.get("replicas"),
        "document": document,
    }


def reason_not_created(item_id: str, receipt: MessageReceipt) -> str | None:
    """Return the reason why the item of a creation does not exist now; None if it does.

    A `duplicate` is a repeat of the same creation: the item exists.
    """
    reason = receipt.ignored.get(item_id)
    return None if reason == "duplicate" else reason


# Times and durations.


def unix_seconds(time: Time) -> float:
    """Return Unix seconds of a moment. Raises ValueError for a `datetime` without a time zone."""
    if not isinstance(time, datetime):
        return time
    if time.tzinfo is None:
        raise ValueError(f"{time!r} has no time zone; use datetime.now(UTC) or datetime(..., tzinfo=UTC)")
    return time.timestamp()


def time_or_offset(time: TimeOrOffset) -> float | str:
    """Return a moment as Unix seconds, or an offset as `"+<seconds>"`. Raises ValueError for a negative offset."""
    if isinstance(time, str):
        return time
    if not isinstance(time, timedelta):
        return unix_seconds(time)
    if time < timedelta(0):
        raise ValueError(f"{time!r} is negative; an offset counts from the creation of the item")
    return "+" + f"{time.total_seconds():.6f}".rstrip("0").rstrip(".")


def seconds_of(duration: timedelta | float) -> float:
    """Return the seconds of a duration."""
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


# Messages.


def gregor(**body: Any) -> Message:
    """Return a message that changes the state: `create=…`, `dismiss=…`, or `flush=True`; None values are left out."""
    return {"system": GREGOR, "body": {name: value for name, value in body.items() if value is not None}}


def creation(
    id_: str,
    category: str,
    body: Any = None,
    *,
    for_device: str | None = None,
    created: Time | None = None,
    expires: TimeOrOffset | None = None,
    remind_at: Sequence[TimeOrOffset] | None = None,
) -> Message:
    """Return a message that creates one item. Raises ValueError for a `datetime` without a time zone."""
    times = {
        "created": None if created is None else unix_seconds(created),
        "expires": None if expires is None else time_or_offset(expires),
        "remind_at": [time_or_offset(at) for at in remind_at] if remind_at else None,
    }
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
    end: Time | None = None,
    skip: Iterable[str] = (),
) -> Message:
    """Return a message that dismisses ids, and all items of a category or under a prefix, except `skip`.

    The prefix `""` matches every item.

    `end` limits the category or prefix to items that were created up to that moment.
    """
    dismiss: dict[str, Any] = {}
    if named := list(ids):
        dismiss["ids"] = named
    if category is not None or category_prefix is not None:
        last = None if end is None else unix_seconds(end)
        interval = {"category": category, "category_prefix": category_prefix, "end": last, "skip": sorted(skip) or None}
        dismiss["intervals"] = [{name: value for name, value in interval.items() if value is not None}]
    return gregor(dismiss=dismiss)


def snoozed(id_: str, item: Item, not_before: Time, device: str | None = None) -> Message:
    """Return a message that creates a copy of the item at `not_before`. Equal arguments make equal messages.

    Raises ValueError if the item expires before. If a `device` snoozes an item for every device (`"*"`), the copy is
    for that device alone.
    """
    returns_at = unix_seconds(not_before)
    times = item.get("times") or {}
    expires = times.get("expires")
    if expires is not None and expires <= returns_at:
        raise ValueError(f"{id_} expires before the snooze ends")
    copy = "snoozed:" + sha256(f"{id_}\0{returns_at!r}".encode()).hexdigest()[:32]
    for_device = device if device is not None and item.get("for_device") == EVERY_DEVICE else item.get("for_device")
    message = creation(
        copy,
        item["category"],
        item.get("body"),
        for_device=for_device,
        expires=expires,
        remind_at=[at for at in times.get("remind_at") or () if at > returns_at],
    )
    return {**message, "id": copy, "not_before": returns_at}


# Rules.


def needs_id(message: Mapping[str, Any]) -> bool:
    """Return whether only a message id makes a repeat harmless: the effect depends on the moment of arrival."""
    if message["system"] != GREGOR:
        return True
    body = message["body"]
    return bool(body.get("flush")) or any(is_open(interval, body) for interval in intervals(body))


def intervals(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the intervals that the body of a message dismisses."""
    return list((body.get("dismiss") or {}).get("intervals") or ())


def is_open(interval: Mapping[str, Any], body: Mapping[str, Any]) -> bool:
    """Return whether an interval has no `end`, and no creation in the same message that determines one."""
    own = body.get("create") or {}
    return interval.get("end") is None and not any(has_category(interval, item["category"]) for item in own.values())


def has_category(interval: Mapping[str, Any], category: str) -> bool:
    """Return whether the interval matches the category, regardless of time."""
    if (prefix := interval.get("category_prefix")) is not None:
        return covers(prefix.removesuffix("."), category)
    return bool(interval.get("category") == category)


def catches(interval: Mapping[str, Any], id_: str, item: Item) -> bool:
    """Return whether the interval dismisses the item, both ends included; an item without `created` is created now."""
    if id_ in (interval.get("skip") or ()) or not has_category(interval, item["category"]):
        return False
    created = (item.get("times") or {}).get("created")
    begin, end = interval.get("begin"), interval.get("end")
    if created is None:
        return end is None
    return (begin is None or begin <= created) and (end is None or created <= end)
