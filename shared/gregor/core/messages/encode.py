"""Responses as JSON: receipts, sync objects, states and history (http.md, "Reads").

Stored JSON is inserted as it is, without parsing; names need no escape. Sync objects omit empty and false members. All
other responses have all their members.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from gregor.core.items.sync import (
    Delta,
    Full,
    HistoryEntry,
    Removal,
    StoredExternal,
    StoredItem,
    SyncResult,
    Unchanged,
    View,
    cursor_text,
)
from gregor.core.notify.timeline import TimelineEvent
from gregor.core.times import format_time

from .model import Receipt

_TRIMMED: Final = b',"trimmed":true}'


# ---- responses


def encode_receipt(receipt: Receipt, view: View, is_external: bool) -> bytes:
    """Return the receipt for a sender whose view is ``view``.

    The receipt of an external message has only the position.
    """
    seq = receipt.seq
    position = f'{{"cursor":"{cursor_text(receipt.epoch, view, seq)}","seq":{seq}'
    unchanged = ',"unchanged":true}' if receipt.is_unchanged else "}"
    if is_external:
        return f"{position}{unchanged}".encode()
    created, dismissed = _listed(receipt.created), _listed(receipt.dismissed)
    ignored = ",".join([f'"{item_id}":"{why.value}"' for item_id, why in receipt.ignored]) if receipt.ignored else ""
    return f'{position},"created":{created},"dismissed":{dismissed},"ignored":{{{ignored}}}{unchanged}'.encode()


def encode_sync(answer: SyncResult, view: View, rendered: bytes = b"{}") -> bytes:
    """Return the sync object (L9), the same on every transport.

    ``unchanged`` has no digest: if the client named a digest, it equals that of the view. See ``with_digest``.

    ``rendered``: titles and texts of its items as JSON. They are not part of an item, so digests do not include them.
    """
    word = b"unchanged" if isinstance(answer, Unchanged) else b"delta" if isinstance(answer, Delta) else b"full"
    parts = [b'{"system":"gregor","sync":"%s","seq":%d,"cursor":"%s"' % (word, answer.seq, _cursor(answer, view))]
    if not isinstance(answer, Unchanged):
        parts.append(b',"digest":"%s"' % answer.digest.hex().encode())
        body = _body(answer)
        if body:
            parts.append(b',"body":{%s}' % body)
        if rendered != b"{}":
            parts.append(b',"rendered":' + rendered)
    if answer.external:
        parts.append(b',"external":[%s]' % b",".join(map(_external, answer.external)))
    if answer.external_gap:
        parts.append(b',"external_gap":true')
    parts.append(b"}")
    return b"".join(parts)


def with_digest(frame: bytes, digest: bytes) -> bytes:
    """Return an ``unchanged`` sync object with the digest of the view, for a client that must compare it."""
    return frame[:-1] + b',"digest":"%s"}' % digest.hex().encode()


def with_external(frame: bytes, messages: Sequence[bytes]) -> bytes:
    """Return a sync object that has no external messages with these, which are live frames."""
    return frame[:-1] + b',"external":[%s]}' % b",".join(messages) if messages else frame


def encode_state(full: Full, view: View, badge: int, rendered: bytes | None = None) -> bytes:
    """Return the current view: position, digest, badge count, and items ordered by ``created``, then id.

    ``rendered``: titles and texts of the items as JSON, if the reader asks for them.
    """
    return b'{"cursor":"%s","digest":"%s","badge":%d,"items":{%s}%s}' % (
        _cursor(full, view),
        full.digest.hex().encode(),
        badge,
        _items(full.items),
        _beside(rendered),
    )


def encode_state_at(full: Full, rendered: bytes | None = None) -> bytes:
    """Return the view at an earlier time. It has no position: nothing can be resumed from there."""
    return b'{"digest":"%s","items":{%s}%s}' % (full.digest.hex().encode(), _items(full.items), _beside(rendered))


def encode_history(entries: Iterable[HistoryEntry], rendered: bytes | None = None) -> bytes:
    """Return a page of the history, in the given order."""
    return b'{"entries":[%s]%s}' % (b",".join(b"{%s}" % _entry(entry) for entry in entries), _beside(rendered))


def encode_item(entry: HistoryEntry, timeline: Iterable[TimelineEvent], rendered: bytes | None = None) -> bytes:
    """Return one item, live or gone, with its timeline."""
    told = b",".join(event.json() for event in timeline)
    return b'{%s,"timeline":[%s]%s}' % (_entry(entry), told, _beside(rendered))


def without_body(item_json: bytes) -> bytes:
    """Return an item's JSON after its body was deleted: ``body`` null and ``trimmed`` true, canonical again.

    ``item_json`` is from ``codec.item_json``: only names and numbers follow the body. A trimmed item stays as it is.
    """
    if item_json.endswith(_TRIMMED):
        return item_json
    return b'{"body":null' + item_json[item_json.rindex(b',"category":"') : -1] + _TRIMMED


# ---- parts of a response


def _beside(rendered: bytes | None) -> bytes:
    return b"" if rendered is None else b',"rendered":' + rendered


def _entry(entry: HistoryEntry) -> bytes:
    item = without_body(entry.json) if entry.is_trimmed else entry.json
    gone = b"null" if entry.gone is None else _gone(entry.gone)
    return b'"id":"%s","item":%s,"seq":%d,"gone":%s' % (entry.id.encode(), item, entry.seq, gone)


def _gone(gone: Removal) -> bytes:
    return b'{"at":%s,"reason":"%s","device":%s,"seq":%d}' % (
        format_time(gone.at_us),
        gone.reason.wire_name.encode(),
        _name_or_null(gone.device),
        gone.seq,
    )


def _body(answer: Delta | Full) -> bytes:
    """Return the members of a sync object's body; empty if there are no changes."""
    created, dismissed = (answer.create, answer.dismiss) if isinstance(answer, Delta) else (answer.items, ())
    parts = []
    if created:
        parts.append(b'"create":{%s}' % _items(created))
    if dismissed:
        parts.append(b'"dismiss":{"ids":%s}' % _names(dismissed))
    return b",".join(parts)


def _items(items: Sequence[StoredItem]) -> bytes:
    ordered = sorted(items, key=_by_creation) if len(items) > 1 else items
    return b",".join([b'"%s":%s' % (item.id.encode(), item.json) for item in ordered])


def _by_creation(item: StoredItem) -> tuple[int, str]:
    return item.created_us, item.id


def _external(message: StoredExternal) -> bytes:
    return b'{"system":"%s","seq":%d,"body":%s}' % (message.system.encode(), message.seq, message.body)


def _names(names: Sequence[str]) -> bytes:
    return _listed(names).encode()


def _listed(names: Sequence[str]) -> str:
    return '["' + '","'.join(names) + '"]' if names else "[]"


def _name_or_null(name: str | None) -> bytes:
    """Return a device; null for the backend and for the server, which are not devices."""
    return b'"%s"' % name.encode() if name else b"null"


def _cursor(answer: SyncResult, view: View) -> bytes:
    return cursor_text(answer.epoch, view, answer.seq).encode()
