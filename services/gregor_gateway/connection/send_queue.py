"""The bounded send queue of one connection: backpressure for slow consumers. Pure.

Live frames count against the bound and are dropped beyond it; one sync replaces them. A sync object does not count, and
is written alone. Other frames (receipts, problems, pings) count but are never dropped. If they were queued behind a
dropped frame, they wait for the sync, because they may refer to that frame.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class EnqueueResult(Enum):
    """The result of adding a frame."""

    QUEUED = "queued"
    DROPPED = "live frames and syncs were dropped; a sync must follow"
    FULL = "frames that cannot be dropped exceed the bound"


NO_SEQ: Final = -1
"""Marks a frame that does not change the view, in place of its seq."""
_Entry = tuple[int, int, str | None, bytes]
"""Seq or ``NO_SEQ``, bytes that count against the bound, tag if it changes, packed frame."""


class SendQueue:
    """The send queue. ``written_tag`` and ``written_seq``: the client's cursor after the frames written so far.

    ``entries``: the queued frames; ``None`` if there are none, which saves an empty list for each idle connection.
    """

    __slots__ = (
        "_after_sync",
        "_bytes",
        "_is_uniform",
        "_max_bytes",
        "_next_tag",
        "entries",
        "written_seq",
        "written_tag",
    )

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._is_uniform = True
        self.entries: list[_Entry] | None = None
        self._after_sync: list[_Entry] | None = None
        self._next_tag: str | None = None
        self.written_tag = ""
        self.written_seq = 0

    @property
    def is_idle(self) -> bool:
        """Whether the next live frame may bypass the queue: it is empty, and the tag of the cursor does not change."""
        return self.entries is None and self._after_sync is None and self._next_tag is None

    def put(self, packed: bytes, seq: int = NO_SEQ) -> EnqueueResult:
        """Queue a live frame with its seq, or a frame that is never dropped (``NO_SEQ``)."""
        if self.entries is None:
            self.entries = []
        size = len(packed)
        self.entries.append((seq, size, self._next_tag, packed))
        if seq == NO_SEQ or self._next_tag is not None:
            self._is_uniform = False
            self._next_tag = None
        self._bytes += size
        if self._bytes <= self._max_bytes:
            return EnqueueResult.QUEUED
        self._drop_live()
        return EnqueueResult.DROPPED if self._bytes <= self._max_bytes else EnqueueResult.FULL

    def set_next_tag(self, tag: str) -> None:
        """Give the next live frame a cursor with this tag."""
        self._next_tag = tag

    def put_sync(self, packed: bytes, tag: str, seq: int) -> None:
        """Queue a sync object and the frames that waited for it. ``tag`` and ``seq``: its cursor."""
        if self.entries is None:
            self.entries = []
        self.entries.append((seq, 0, tag, packed))
        self._is_uniform = False
        self.entries += self._after_sync or ()
        self._after_sync = None

    def confirm_cursor(self, tag: str, seq: int) -> None:
        """Record that the client already has this cursor, so no sync object is sent."""
        if self._after_sync is not None:
            self.entries, self._after_sync = [*(self.entries or ()), *self._after_sync], None
        # Only the first confirmation sets the cursor: later ones follow frames that moved it.
        elif not self.written_tag and self.entries is None:
            self.written_tag, self.written_seq = tag, seq

    def take(self, max_bytes: int) -> list[bytes]:
        """Remove and return the frames of the next write: up to a sync object, or about ``max_bytes``."""
        entries = self.entries
        if entries is None:
            return []
        # The common case: one frame a sweep.
        if len(entries) == 1:
            seq, size, tag, packed = entries[0]
            self.entries = None
            self._is_uniform = self._after_sync is None
            self._bytes -= size
            self._record(seq, tag)
            return [packed]
        # Live frames only, below one write: no loop over the entries.
        if self._is_uniform and self._bytes <= max_bytes:
            self.written_seq, self._bytes, self.entries = entries[-1][0], 0, None
            return [entry[3] for entry in entries]
        taken: list[bytes] = []
        total = 0
        for seq, size, tag, packed in entries:
            taken.append(packed)
            total += len(packed)
            self._bytes -= size
            self._record(seq, tag)
            # A sync object (size 0) ends the write: it does not count, and may be larger than the bound.
            if not size or total >= max_bytes:
                break
        self.entries = entries[len(taken) :] or None
        self._is_uniform = self.entries is None and self._after_sync is None
        return taken

    def _record(self, seq: int, tag: str | None) -> None:
        if seq != NO_SEQ:
            self.written_seq = seq
            if tag is not None:
                self.written_tag = tag

    def _drop_live(self) -> None:
        entries = self.entries or []
        self._is_uniform = False
        # Frames before the first live one keep their place; what was queued behind it waits for the sync.
        first = next((at for at, entry in enumerate(entries) if entry[0] != NO_SEQ), len(entries))
        plain = [entry for entry in entries[first:] if entry[0] == NO_SEQ]
        self._after_sync = [*(self._after_sync or ()), *plain] or None
        self.entries = entries[:first] or None
        self._bytes = sum(entry[1] for entry in (*entries[:first], *(self._after_sync or ())))
