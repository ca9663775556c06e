"""A client's copy of one view, kept by applying sync objects and live frames."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import rfc8785

from gregor.core.items.sync import (
    Cursor,
    Delta,
    Full,
    StoredExternal,
    StoredItem,
    SyncResult,
    Unchanged,
    View,
    cursor_for,
)


class Replica:
    """The items of the view by id, the cursor, and the external messages received so far."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.items: dict[str, Any] = {}
        self.cursor: Cursor | None = None
        self.external: list[StoredExternal] = []

    def apply(self, answer: SyncResult) -> None:
        """Apply a sync object."""
        match answer:
            case Full():
                self.items = {entry.id: json.loads(entry.json) for entry in answer.items}
            case Delta():
                self._change({entry.id: json.loads(entry.json) for entry in answer.create}, answer.dismiss)
            case Unchanged():
                pass
        self.cursor = cursor_for(answer.epoch, self.view, answer.seq)
        self.external += answer.external

    def receive(self, frame: bytes) -> None:
        """Apply a live frame of the system ``gregor``. The caller keeps the order."""
        document = json.loads(frame)
        body = document["body"]
        self._change(body.get("create", {}), body.get("dismiss", {}).get("ids", ()))
        if "cursor" in document:
            tag, _, seq = document["cursor"].partition("-")
            self.cursor = Cursor(tag, int(seq))
        elif self.cursor is not None:
            self.cursor = Cursor(self.cursor.tag, document["seq"])

    def copy(self) -> Replica:
        """Return an equal, independent copy."""
        other = Replica(self.view)
        other.items, other.cursor, other.external = dict(self.items), self.cursor, list(self.external)
        return other

    @property
    def digest(self) -> bytes:
        """Return the digest as a client in any language computes it (semantics.md L10)."""
        lanes = [0] * 8
        for item_id, item in self.items.items():
            leaf = sha256(rfc8785.dumps([item_id, item])).digest()
            for lane in range(8):
                lanes[lane] = (lanes[lane] + int.from_bytes(leaf[4 * lane : 4 * lane + 4], "big")) % 2**32
        return b"".join(lane.to_bytes(4, "big") for lane in lanes)

    def _change(self, create: dict[str, Any], dismiss: Any) -> None:
        # Every entry must change the copy: a frame or delta that repeats an earlier one is a defect, too.
        assert not create.keys() & self.items.keys()
        assert set(dismiss) <= self.items.keys()
        self.items.update(create)
        for item_id in dismiss:
            del self.items[item_id]


def view_of(items: tuple[StoredItem, ...]) -> dict[str, Any]:
    """Return a full view as a replica holds it."""
    return {entry.id: json.loads(entry.json) for entry in items}
