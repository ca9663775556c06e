"""A device's copy of its view. Pure: sync objects and live frames go in, changes come out; time is an argument.

The copy contains only items that the server sent (docs/semantics.md L11), and its digest proves it (L10). The outbox
overlays the messages that the server has not confirmed yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from gregor.core.ids import covers
from gregor.core.items import digest as core_digest
from gregor.core.items.sync import ZERO_DIGEST
from gregor.core.json_text import canonical_json

from .changes import Change, Created, Dismissed, ExternalGap, ExternalReceived, FlushAnnounced, Item, Reminded, Synced

SYNC_KINDS = ("full", "delta", "unchanged")


class Mirror:
    """The items of one view, their position (cursor), and the digest that proves them."""

    def __init__(self) -> None:
        self.cursor: str | None = None
        """The position to resume from; None before the first sync."""
        self.uncounted: tuple[str, ...] = ()
        """Category prefixes whose items do not count for the badge."""
        self.needs_full = False
        """Whether the digest did not match; only a full copy repairs that."""
        self._items: dict[str, Item] = {}
        self._digest = ItemDigest()

    @property
    def items(self) -> Mapping[str, Item]:
        """The copy as the server sent it, including items that expired locally but not yet on the server."""
        return self._items

    @property
    def digest(self) -> str:
        """The digest of the copy, as 64 hex digits (L10)."""
        return self._digest.hex

    @property
    def seq(self) -> int:
        """The number in the cursor; 0 before the first sync."""
        return int(self.cursor.rpartition("-")[2]) if self.cursor else 0

    def apply(self, frame: Mapping[str, Any]) -> list[Change]:
        """Apply one sync object or live frame and return the changes, in order. Other frames change nothing."""
        if "sync" in frame:
            return list(self._sync(frame))
        if "system" in frame and "seq" in frame:
            return list(self._live(frame))
        welcome = frame.get("welcome", frame)
        if isinstance(welcome, Mapping) and "uncounted" in welcome:
            self.uncounted = tuple(welcome["uncounted"])
        return []

    def visible(self, now_us: int) -> dict[str, Item]:
        """Return the copy without items that have expired by the local clock, bound included (L6)."""
        return {id_: item for id_, item in self._items.items() if not is_expired(item, now_us)}

    def badge(self, now_us: int) -> int:
        """Return the number of visible items, without those of the uncounted categories."""
        return count(self.visible(now_us), self.uncounted)

    def due(self, now_us: int) -> dict[str, Item]:
        """Visible items with a reminder in the past, even if the remind frame was missed (L7)."""
        return {
            id_: item
            for id_, item in self.visible(now_us).items()
            if any(_us(at) <= now_us for at in item["times"].get("remind_at", ()))
        }

    def snapshot(self) -> dict[str, Any]:
        """Return the copy as JSON values, to keep over a restart of the process."""
        return {"cursor": self.cursor, "items": self._items, "uncounted": list(self.uncounted)}

    @classmethod
    def restore(cls, snapshot: Mapping[str, Any]) -> Mirror:
        """Return a copy from a snapshot. Its digest is computed again, so the next sync detects a damaged snapshot."""
        mirror = cls()
        mirror.cursor = snapshot["cursor"]
        mirror.uncounted = tuple(snapshot["uncounted"])
        for id_, item in snapshot["items"].items():
            mirror._put(id_, item, leaf(id_, item))
        return mirror

    def _sync(self, document: Mapping[str, Any]) -> Iterator[Change]:
        kind, body = document["sync"], document.get("body") or {}
        if kind not in SYNC_KINDS:
            raise ValueError(f"unknown kind of sync object: {kind!r}")
        create: Mapping[str, Item] = body.get("create") or {}
        if kind != "full" and self._is_ahead_of(document["cursor"]):
            yield Synced(kind, not self.needs_full)
            return
        # The server answers a wrong digest at its own position with a full copy.
        was_wrong = not self.needs_full and document["cursor"] == self.cursor and self._differs(document)
        if kind == "full":
            yield from self._replace(create)
        else:
            yield from self._patch(create, body.get("dismiss") or {})
        # A live frame may have overtaken the answer to a resync, which repeats its external message.
        known = self.seq if self._has_tag_of(document["cursor"]) else 0
        self.cursor = document["cursor"]
        if "uncounted" in document:
            self.uncounted = tuple(document["uncounted"])
        if document.get("external_gap"):
            yield ExternalGap()
        for external in document.get("external", ()):
            if external["seq"] > known:
                yield ExternalReceived(external["system"], external["seq"], external["body"])
        is_wrong = self._differs(document)
        # An unproven copy stays unproven until a full copy arrives, even if a later delta carries no digest.
        self.needs_full = is_wrong or (self.needs_full and kind != "full")
        yield Synced(kind, not is_wrong and not was_wrong)

    def _differs(self, document: Mapping[str, Any]) -> bool:
        """Return whether the digest of a sync object is not that of the copy."""
        return bool(document.get("digest", self.digest) != self.digest)

    def _live(self, frame: Mapping[str, Any]) -> Iterator[Change]:
        seq: int = frame["seq"]
        if seq <= self.seq and "cursor" not in frame:
            return
        if frame["system"] == "gregor":
            body = frame["body"]
            yield from self._patch(body.get("create") or {}, body.get("dismiss") or {})
            for id_, at in (body.get("remind") or {}).items():
                if id_ in self._items:
                    yield Reminded(id_, self._items[id_], at)
            if body.get("flush"):
                yield FlushAnnounced(frame.get("spread", 30))
        else:
            yield ExternalReceived(frame["system"], seq, frame["body"])
        self._move(frame.get("cursor"), seq)

    def _is_ahead_of(self, cursor: str) -> bool:
        """Return whether the copy is past this position: the object was delayed or repeated.

        After a fork of the history the server sends a full copy instead (L12).
        """
        return self._has_tag_of(cursor) and int(cursor.rpartition("-")[2]) < self.seq

    def _has_tag_of(self, cursor: str) -> bool:
        return self.cursor is not None and self.cursor.rpartition("-")[0] == cursor.rpartition("-")[0]

    def _move(self, cursor: str | None, seq: int) -> None:
        """Move the cursor after a live frame: to the frame's own, else to the last one with its number replaced."""
        if cursor is not None:
            self.cursor = cursor
        elif self.cursor is not None:
            self.cursor = f"{self.cursor.rpartition('-')[0]}-{seq}"

    # An item with equal content stays untouched: its readers would otherwise see it leave and return.
    def _replace(self, create: Mapping[str, Item]) -> Iterator[Change]:
        yield from self._patch(create, {"ids": [id_ for id_, item in self._items.items() if create.get(id_) != item]})

    def _patch(self, create: Mapping[str, Item], dismiss: Mapping[str, Any]) -> Iterator[Change]:
        gone = dict.fromkeys(dismiss.get("ids", ()))
        # All leaves before the first change: an item without canonical JSON ends the frame, which must change nothing.
        leaves = {id_: leaf(id_, item) for id_, item in create.items() if id_ not in self._items or id_ in gone}
        for id_ in gone:
            if id_ in self._items:
                yield Dismissed(id_, self._drop(id_), dismiss.get("reason"))
        for id_, each in leaves.items():
            self._put(id_, create[id_], each)
            yield Created(id_, create[id_])

    def _put(self, id_: str, item: Item, item_leaf: bytes) -> None:
        self._digest.add(item_leaf)
        self._items[id_] = item

    def _drop(self, id_: str) -> Item:
        item = self._items.pop(id_)
        self._digest.remove(leaf(id_, item))
        return item


def is_expired(item: Item, now_us: int) -> bool:
    """Return whether the item is past its expiry, bound included (L6)."""
    expires = item["times"].get("expires")
    return expires is not None and _us(expires) <= now_us


def count(items: Mapping[str, Item], uncounted: tuple[str, ...]) -> int:
    """Return the badge of these items: the number of items outside of the uncounted categories."""
    return sum(1 for item in items.values() if not any(covers(prefix, item["category"]) for prefix in uncounted))


def _us(seconds: float) -> int:
    """Return Unix seconds of the wire as µs, rounded to the nearest."""
    return math.floor(seconds * 1_000_000 + 0.5)


# The digest.


class ItemDigest:
    """The digest of a set of items, updated as items come and go (docs/semantics.md L10).

    It covers every field as received, including fields that this version of the client does not know.
    """

    def __init__(self) -> None:
        self._sum = ZERO_DIGEST

    @property
    def hex(self) -> str:
        """The digest as 64 hex digits; zeros for an empty set."""
        return self._sum.hex()

    def add(self, item_leaf: bytes) -> None:
        """Add the leaf of an item to the set."""
        self._sum = core_digest.add(self._sum, item_leaf)

    def remove(self, item_leaf: bytes) -> None:
        """Remove the leaf of an item that was added before."""
        self._sum = core_digest.subtract(self._sum, item_leaf)


def leaf(id_: str, item: Mapping[str, Any]) -> bytes:
    """Return the 32 bytes that one item contributes."""
    return core_digest.leaf(id_, canonical_json(item))


def digest_of(items: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the digest of these items, as 64 hex digits."""
    return core_digest.digest_items((id_, canonical_json(item)) for id_, item in items.items()).hex()
