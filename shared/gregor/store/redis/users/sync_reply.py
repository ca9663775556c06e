"""The reply of the script ``sync``, as one view sees it (semantics.md L9). Pure.

Other places have the same rules: see semantics.md, "Where each rule lives".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Final

from gregor.core.ids import Prefixes, is_allowed
from gregor.core.items.digest import add, total
from gregor.core.items.sync import (
    Cursor,
    Full,
    StoredExternal,
    StoredItem,
    View,
    cursor_for,
    is_full_smaller,
    is_initial_cursor,
)

from .record_codec import (
    NO_HEAD,
    LiveRecord,
    UserHead,
    decode_external,
    decode_floors,
    decode_gone,
    decode_head,
    decode_live,
    record_kind,
)

Change = tuple[tuple[StoredItem, ...], tuple[str, ...]]
"""Created items, and ids of removed ones; the net change."""


_DECODED_AT_ONCE: Final = 200
"""Records that one step decodes: 2 to 3 ms. A reply may have 6,000."""
_BYTES_AT_ONCE: Final = 262_144
"""Bytes of records after which a step ends. A record may have 16 KiB, and 9 KiB of hidings: they take up to 2 ms."""


class SyncReply:
    """One reply of ``sync``. ``epoch`` is the cursor's if the cursor belongs to this view, else empty.

    ``decode`` must run before anything else is asked. ``examined``: the records that the store examined for the reply.
    ``cpu_us``: the CPU time of the script, 0 without a category filter. ``hiding_bytes``: the bytes of hidings in the
    live records, after ``decode``.
    """

    def __init__(self, reply: Sequence[Any], view: View, cursor: Cursor | None, epoch: bytes) -> None:
        self._view = view
        self._cursor = cursor
        self.head: UserHead = NO_HEAD
        self._floor = self._external_floor = 0
        self._lanes = b""
        self._raw: Sequence[Any] = ()
        self._externals: Sequence[bytes] = ()
        self._what = b"f"
        self._live: list[LiveRecord] = []
        self._dismiss: list[str] = []
        self.examined = self.cpu_us = self.hiding_bytes = 0
        if reply[0] != b"none":
            self._what = reply[0]
            self.head = decode_head(reply[1])
            self._lanes = reply[2]
            self._floor, self._external_floor = decode_floors(reply[3])
            self._floor = max(self._floor, int(reply[4]))
            self._externals = reply[5]
            self._raw = reply[6:11]
            self.examined, self.cpu_us = reply[11:13] or (0, 0)
        self.is_valid = cursor is not None and epoch == self.head.epoch and self._floor <= cursor.seq <= self.head.seq
        if self.head is NO_HEAD and self.is_valid:
            self._what = b"u"

    def decode(self) -> Iterator[None]:
        """Decode the records of the view in steps; the caller may give other tasks a turn between them."""
        if not self._raw:
            return
        ids, seqs, records, members, gone = self._raw
        for some in _steps(records):
            if some.start:
                yield
            read = [
                decode_live(i.decode(), int(s), r) for i, s, r in zip(ids[some], seqs[some], records[some], strict=True)
            ]
            self.hiding_bytes += sum(len(live.item.hidings) for live in read)
            self._live += [live for live in read if live.is_in(self._view)]
        if self._cursor is None or not self.is_valid or self._what != b"d":
            return
        for some in _steps(gone):
            if some.start:
                yield
            self._dismiss += [
                member.split(b"\0")[0].decode()
                for member, raw in zip(members[some], gone[some], strict=True)
                if raw is not None and self._left(self._cursor.seq, member, raw)
            ]

    @property
    def beginning(self) -> Cursor | None:
        """The cursor to read from if the reader's copy is from before the user existed: external messages since
        then follow it.
        """
        if self.head is NO_HEAD or not is_initial_cursor(self._cursor, self._view):
            return None
        return cursor_for(self.head.epoch, self._view, 0)

    @cached_property
    def is_unchanged(self) -> bool:
        """Whether the view has not changed since the cursor."""
        return self._what == b"u" or (self._what == b"d" and self.is_valid and self.change() is None)

    @property
    def is_whole(self) -> bool:
        """Whether every live item was read."""
        return self._what == b"f" or (self._what == b"d" and self._view.category_filter is not None)

    @cached_property
    def digest(self) -> bytes:
        """The digest of the view; empty if the view has a category filter and the digest was not requested."""
        if self._view.category_filter is None or self.head is NO_HEAD:
            return add(self.head.digest, self._lanes) if self._lanes else self.head.digest
        return total(live.item.leaf for live in self._live) if self.is_whole else b""

    def change(self) -> Change | None:
        """Return the net change since the cursor; ``None`` if the cursor is invalid or nothing changed."""
        cursor = self._cursor
        if cursor is None or not self.is_valid or self._what != b"d":
            return None
        create = tuple(live.stored() for live in self._live if live.seq > cursor.seq)
        return (create, tuple(self._dismiss)) if create or self._dismiss else None

    @cached_property
    def _created_since(self) -> frozenset[str]:
        """Ids of the live items that are newer than the cursor, in the view or not."""
        since = self._cursor.seq if self._cursor else 0
        return frozenset(i.decode() for i, s in zip(self._raw[0], self._raw[1], strict=True) if int(s) > since)

    def _left(self, since: int, member: bytes, raw: bytes) -> bool:
        """Return whether the view had, at ``since``, the item that this entry reports as gone or hidden."""
        item_id, is_hiding, device = member.decode().partition("\0")
        view = self._view
        if is_hiding:
            if device != view.device or record_kind(raw) != b"L":
                return False
            live = decode_live(item_id, 0, raw)
            return live.is_for(view) and item_id not in self._created_since
        if record_kind(raw) != b"G":
            return False
        live = decode_gone(item_id, raw).live
        hidden = live.hidden(view)
        return live.seq <= since and live.is_for(view) and (hidden is None or hidden.seq > since)

    def is_full_smaller(self, change: Change) -> bool:
        """Whether the whole copy has fewer bytes than the change, by the user's count of live bytes."""
        return is_full_smaller(*change, self.head.live_bytes)

    def full(self, externals: tuple[StoredExternal, ...] = (), gap: bool = False) -> Full:
        """Return the whole view."""
        items = tuple(live.stored() for live in self._live)
        return Full(self.head.epoch, self.head.seq, self.digest, items, externals, gap)

    def externals(self, systems: Prefixes, oldest_us: int) -> tuple[tuple[StoredExternal, ...], bool]:
        """Return the external messages since the cursor, and whether some are lost (L13). Empty without a cursor."""
        if self._cursor is None:
            return (), False
        if not self.is_valid:
            return (), True
        read = [decode_external(raw) for raw in self._externals]
        kept = tuple(e for e, at_us in read if at_us > oldest_us and is_allowed(systems, e.system))
        gap = self._cursor.seq < self._external_floor or any(at_us <= oldest_us for _, at_us in read)
        return kept, gap


def _steps(records: Sequence[bytes | None]) -> Iterator[slice]:
    """Yield the parts of the records that are decoded in one step each."""
    start = size = 0
    for at, record in enumerate(records):
        if at - start == _DECODED_AT_ONCE or size > _BYTES_AT_ONCE:
            yield slice(start, at)
            start, size = at, 0
        size += len(record or b"")
    if records:
        yield slice(start, len(records))
