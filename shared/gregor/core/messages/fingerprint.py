"""Hashes of the content of a message as sent (semantics.md L2).

They distinguish a repeat from other content under the same id.

"As sent" is without server timestamps and category defaults, and with offsets as offsets. Null, absent and ``[]`` are
equal, and so are other orders of unordered members. The hashes are stored: a change of their form would turn every
repeat into a conflict. The limits of a sender belong to the content if they decide which items the message dismisses.
"""

from __future__ import annotations

from hashlib import sha256

from gregor.core.ids import Prefixes

from .model import ExternalMessage, Interval, Message, NewItem, Offset, Update

# 64 bits: two different contents of one id collide once in 10^19; a collision would only hide a conflict.
FINGERPRINT_BYTES = 8


def fingerprint(item: NewItem) -> bytes:
    """Return eight bytes of a hash of an item's content as sent. Its id is not included: repeats are compared by id."""
    return sha256(_item(item)).digest()[:FINGERPRINT_BYTES]


def content_hash(message: Message, category_filter: Prefixes = None) -> bytes:
    """Return 32 bytes of a hash of a message's content, without its own id and the name of its sender.

    ``category_filter``: the limits of its sender. Only a dismissal of ids depends on them.
    """
    content = message.content
    if isinstance(content, Update):
        items = sorted(b'"%s":%s' % (item.id.encode(), _item(item)) for item in content.create)
        ids = sorted(content.ids)
        intervals = sorted(map(_interval, content.intervals))
        parts = [b"update", *items, b"", " ".join(ids).encode(), *intervals]
        # Creations, intervals and systems outside of the limits are refused, so a repeat of those does the same. Ids
        # outside of them are skipped: the same ids with other limits dismiss other items.
        if ids and category_filter is not None:
            parts.append(b"only " + " ".join(category_filter).encode())
    elif isinstance(content, ExternalMessage):
        parts = [b"external", content.system.encode(), content.body]
    else:
        parts = [b"flush"]
    # No part holds a line feed: names cannot, and canonical JSON escapes it.
    return sha256(b"\n".join(parts)).digest()


def _item(item: NewItem) -> bytes:
    if item.created_us is None and item.expires is None and not item.remind_at:
        return f"{item.category} {item.for_device or ''} - - ".encode() + item.body  # as below, at once
    times = f"{_time(item.created_us)} {_time(item.expires)}"
    if item.remind_at:
        times += " " + " ".join(map(_time, item.remind_at))
    head = f"{item.category} {item.for_device or ''} {times} "
    return head.encode() + item.body


def _interval(interval: Interval) -> bytes:
    kind = "prefix" if interval.is_prefix else "category"
    begin, end = _time(interval.begin_us), _time(interval.end_us)
    return f"{kind} {interval.category} {begin} {end} {' '.join(sorted(interval.skip))}".encode()


def _time(when: int | Offset | None) -> str:
    """Return microseconds; ``+`` and microseconds for an offset; ``-`` if absent."""
    if when is None:
        return "-"
    return f"{when}" if isinstance(when, int) else f"+{when.us}"
