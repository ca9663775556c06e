"""Answers out: receipts, sync objects, states and history as the bytes that go to the peer (protocol.md).

Stored JSON is spliced in as it is, never parsed; names need no escape. Members that are empty or false are left out of
sync objects, as protocol.md says; the other answers always have all of theirs.
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


def encode_receipt(receipt: Receipt, view: View, is_external: bool) -> bytes:
    """What a commit did, for its sender, who sees ``view``. That of an external message has the position alone."""
    seq = receipt.seq
    position = f'{{"cursor":"{cursor_text(receipt.epoch, view, seq)}","seq":{seq}'
    unchanged = ',"unchanged":true}' if receipt.is_unchanged else "}"
    if is_external:
        return f"{position}{unchanged}".encode()
    created, dismissed = _listed(receipt.created), _listed(receipt.dismissed)
    ignored = ",".join([f'"{item_id}":"{why.value}"' for item_id, why in receipt.ignored]) if receipt.ignored else ""
    return f'{position},"created":{created},"dismissed":{dismissed},"ignored":{{{ignored}}}{unchanged}'.encode()


def encode_sync(answer: SyncResult, view: View, rendered: bytes = b"{}") -> bytes:
    """The sync object (L9), the same on every way out. ``unchanged`` has no digest: the client's own was right.

    ``rendered``: the words of its items for the reader's screen, as JSON; beside the items, so that no digest knows.
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


def encode_state(full: Full, view: View, badge: int, rendered: bytes | None = None) -> bytes:
    """The view now: position, digest, how many items count on a badge, and the items by ``created``, then id.

    ``rendered``: the words of the items, as JSON, where the reader asks for them.
    """
    return b'{"cursor":"%s","digest":"%s","badge":%d,"items":{%s}%s}' % (
        _cursor(full, view),
        full.digest.hex().encode(),
        badge,
        _items(full.items),
        _beside(rendered),
    )


def encode_state_at(full: Full, rendered: bytes | None = None) -> bytes:
    """The view as it was at a time: no position, for nothing can be resumed from there."""
    return b'{"digest":"%s","items":{%s}%s}' % (full.digest.hex().encode(), _items(full.items), _beside(rendered))


def encode_history(entries: Iterable[HistoryEntry], rendered: bytes | None = None) -> bytes:
    """A page of the history, in the order given."""
    return b'{"entries":[%s]%s}' % (b",".join(b"{%s}" % _entry(entry) for entry in entries), _beside(rendered))


def encode_item(entry: HistoryEntry, timeline: Iterable[TimelineEvent], rendered: bytes | None = None) -> bytes:
    """One item, live or gone, with what is known to have happened to it."""
    told = b",".join(event.json() for event in timeline)
    return b'{%s,"timeline":[%s]%s}' % (_entry(entry), told, _beside(rendered))


def without_body(item_json: bytes) -> bytes:
    """An item's JSON once its body went, everywhere it is shown: ``body`` null and ``trimmed`` true, canonical again.

    ``item_json`` is as ``packed.item_json`` makes it: what follows the body holds names and numbers only. What is
    trimmed already stays as it is.
    """
    if item_json.endswith(_TRIMMED):
        return item_json
    return b'{"body":null' + item_json[item_json.rindex(b',"category":"') : -1] + _TRIMMED


def _beside(rendered: bytes | None) -> bytes:
    return b"" if rendered is None else b',"rendered":' + rendered


def _entry(entry: HistoryEntry) -> bytes:
    item = without_body(entry.json) if entry.is_trimmed else entry.json
    gone = b"null" if entry.gone is None else _gone(entry.gone)
    return b'"id":"%s","item":%s,"seq":%d,"gone":%s' % (entry.id.encode(), item, entry.seq, gone)


def _gone(gone: Removal) -> bytes:
    return b'{"at":%s,"reason":"%s","device":%s,"seq":%d}' % (
        format_time(gone.at_us),
        gone.reason.word.encode(),
        _name_or_null(gone.device),
        gone.seq,
    )


def _body(answer: Delta | Full) -> bytes:
    """The members of a sync object's body; empty where there is nothing to tell."""
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
    """A device, or null where nobody or no device did it (the backend is no device)."""
    return b'"%s"' % name.encode() if name else b"null"


def _cursor(answer: SyncResult, view: View) -> bytes:
    return cursor_text(answer.epoch, view, answer.seq).encode()
