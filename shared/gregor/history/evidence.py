"""Evidence: the items and changes that the frames and reads of one user show, by seq."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from gregor.core.ids import EVERY_DEVICE, GREGOR
from gregor.core.items.digest import lanes, leaf, parse_digest
from gregor.core.items.sync import View
from gregor.core.json_text import canonical_json
from gregor.core.limits import SECOND_US

from .format import FrameOp, ReadOp, WireEntry, decode_body, decode_item, decode_json

# Texts of numbers that RFC 8785 and msgspec may write differently: 1.0, 1e16.
_ODD_NUMBER: Final = re.compile(rb"[0-9](?:\.0[,}\]]|[eE][-+0-9])")
_encode: Final = msgspec.json.Encoder(order="sorted").encode


class SeenItem(Struct, frozen=True):
    """One content of an item id, as a reader first got it at ``at`` (ns). ``leaf``: its share of a digest, as lanes."""

    id: str
    document: dict[str, Any]
    leaf: int
    at: int

    @property
    def created_us(self) -> int:
        """Its ``created`` in µs."""
        return time_us(self.document["times"]["created"])

    @property
    def is_hidden_by_each(self) -> bool:
        """Whether each device dismisses it for itself."""
        return bool(self.document.get("for_device") == EVERY_DEVICE)


class SeenChange(Struct):
    """What one frame, or the history, shows of one seq. ``at``: the time of the frame; 0 for the history.

    ``view``: of the reader; None if it does not show every change of this seq in its view. ``is_resumed``: a resumed
    connection got it, maybe long after the change.
    """

    seq: int
    line: int
    at: int = 0
    created: dict[str, SeenItem] = {}
    gone: dict[str, str | None] = {}
    remind: dict[str, float] = {}
    system: str = GREGOR
    external: bytes = b""
    is_flush: bool = False
    view: View | None = None
    is_resumed: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether it shows only that the seq exists."""
        return not (self.created or self.gone or self.remind or self.is_flush) and self.system == GREGOR


class UserEvidence:
    """Everything that the readers of one user saw.

    ``versions``: the contents of each item id; a second one is possible only after a failover. ``changes``: by seq.
    ``reminded``: the reminders (item, time) that readers saw. ``externals``: their external messages (system, body).
    """

    def __init__(self) -> None:
        self.versions: dict[str, list[SeenItem]] = {}
        self.changes: dict[int, list[SeenChange]] = {}
        self.reminded: set[tuple[str, float]] = set()
        self.externals: set[tuple[str, bytes]] = set()
        self._by_raw: dict[tuple[str, bytes], SeenItem] = {}

    def item(self, item_id: str, raw: bytes, at: int) -> SeenItem:
        """Return the item of a JSON text; equal texts give the same object."""
        key = item_id, raw
        seen = self._by_raw.get(key)
        if seen is None:
            decode_item(raw)  # raises if this is not an item
            document = decode_json(raw)
            digest = lanes(leaf(item_id, _canonical(raw, document)))
            seen = SeenItem(item_id, document, digest, at)
            self._by_raw[key] = seen
            versions = self.versions.setdefault(item_id, [])
            if all(digest != known.leaf for known in versions) and not (versions and document.get("trimmed")):
                versions.append(seen)
        return seen

    def items(self, items: dict[str, Any], at: int) -> dict[str, SeenItem]:
        """Return the items of a ``create`` or of a state."""
        return {item_id: self.item(item_id, bytes(raw), at) for item_id, raw in items.items()}

    def add_frame(self, op: FrameOp, view: View | None = None) -> SeenChange | None:
        """Note a live frame; None if the frame has no seq, or is a sync object (then its items are noted)."""
        frame = op.frame
        if frame.seq is None or frame.system is None:
            return None
        for each in frame.external:
            self._add_external(SeenChange(each.seq, op.line, op.at, is_resumed=True), each.system, each.body)
        if frame.sync is not None:
            return None
        change = SeenChange(frame.seq, op.line, op.at, view=view)
        if frame.system != GREGOR:
            self._add_external(change, frame.system, frame.body)
            return change
        body = decode_body(frame.body)
        if body.create:
            change.created = self.items(body.create, op.at)
        if body.dismiss.ids:
            change.gone = dict.fromkeys(body.dismiss.ids, body.dismiss.reason)
        if body.remind:
            change.remind = body.remind
            self.reminded.update(body.remind.items())
        change.is_flush = body.flush
        self.changes.setdefault(frame.seq, []).append(change)
        return change

    def _add_external(self, change: SeenChange, system: str, body: bytes | memoryview) -> None:
        change.system, change.external = system, canonical_json(decode_json(body))
        self.changes.setdefault(change.seq, []).append(change)
        self.externals.add((system, change.external))

    def add_history(self, op: ReadOp) -> None:
        """Note the creations and removals in a read of the history of the backend's view."""
        if op.answer is None or op.device is not None:
            return
        for entry in op.answer.entries:
            seen = self.item(entry.id, bytes(entry.item), op.ended)
            self._change_of(entry.seq, op).created[entry.id] = seen
            if entry.gone is not None:
                self._change_of(entry.gone.seq, op).gone[entry.id] = entry.gone.reason

    def _change_of(self, seq: int, op: ReadOp) -> SeenChange:
        changes = self.changes.setdefault(seq, [])
        for change in changes:
            if change.line == op.line:
                return change
        changes.append(SeenChange(seq, op.line, view=None if op.partial or op.categories is not None else View()))
        return changes[-1]

    def created_us(self, item_id: str) -> int | None:
        """Return the ``created`` that readers saw of an item: the last one, if a failover lost the first creation."""
        versions = self.versions.get(item_id)
        return versions[-1].created_us if versions else None


def _canonical(raw: bytes, document: Any) -> bytes:
    """Return the canonical JSON of an item; most servers' texts are canonical already, which is cheap to check."""
    if _encode(document) == raw and raw.isascii() and _ODD_NUMBER.search(raw) is None:
        return raw
    return canonical_json(document)


def merged(changes: Iterable[SeenChange]) -> SeenChange | None:
    """Return everything that several readers saw of one seq, as one change; None if there is nothing."""
    found: SeenChange | None = None
    for change in changes:
        if found is None:
            found = SeenChange(change.seq, change.line, change.at)
        found.at = min(filter(None, (found.at, change.at)), default=0)
        found.created.update(change.created)
        for item_id, reason in change.gone.items():
            found.gone[item_id] = found.gone.get(item_id) or reason
        found.remind.update(change.remind)
        found.is_flush = found.is_flush or change.is_flush
        if change.system != GREGOR:
            found.system, found.external = change.system, change.external
    return found


def history_entries(reads: Iterable[ReadOp]) -> Iterator[tuple[ReadOp, WireEntry]]:
    """Yield each entry of each read of the history."""
    for op in reads:
        for entry in op.answer.entries if op.answer is not None else ():
            yield op, entry


def digest_of_text(text: str) -> int:
    """Return a digest of the wire as ``lanes``; -1, which equals no digest, if it is malformed."""
    digest = parse_digest(text)
    return -1 if digest is None else lanes(digest)


def time_us(seconds: float) -> int:
    """Return Unix seconds of the wire in µs, rounded to the nearest."""
    whole = int(seconds)
    return whole * SECOND_US + round((seconds - whole) * SECOND_US)
