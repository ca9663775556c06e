"""What a message says, as sent, in one form: to tell a repeat from other content under the same id (semantics.md L2).

"As sent" is before stamps and category defaults, and with offsets as offsets; null, absent and ``[]`` are alike, and so
are other orders of what has no order. Hashes of this are stored: another form would make every repeat a conflict.
"""

from __future__ import annotations

from hashlib import sha256

from .model import ExternalMessage, Interval, Message, NewItem, Offset, Update

FINGERPRINT_BYTES = 8


def fingerprint(item: NewItem) -> bytes:
    """Eight bytes of a hash of an item's content as sent. Its id is not in it: repeats are compared by id."""
    return sha256(_item(item)).digest()[:FINGERPRINT_BYTES]


def content_hash(message: Message) -> bytes:
    """32 bytes over everything a message says, but for its own id and who sends it."""
    content = message.content
    if isinstance(content, Update):
        items = sorted(b'"%s":%s' % (item.id.encode(), _item(item)) for item in content.create)
        ids = sorted(content.ids)
        intervals = sorted(map(_interval, content.intervals))
        parts = [b"update", *items, b"", " ".join(ids).encode(), *intervals]
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
    """Microseconds, ``+`` and microseconds for an offset, ``-`` for none."""
    if when is None:
        return "-"
    return f"{when}" if isinstance(when, int) else f"+{when.us}"
