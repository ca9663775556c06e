"""PURE: what waits to be written to one connection, in order and within a bound.

Live frames count against the bound, and are dropped past it: one resync replaces them. A sync object is outside the
bound and goes alone. Everything else (receipts, problems, pings) counts, but is never dropped; what stood behind
something that was dropped waits for the resync, for it may speak of it.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class EnqueueResult(Enum):
    """What became of something that was put in."""

    QUEUED = "waits"
    DROPPED = "live frames and syncs were dropped: a resync must follow"
    FULL = "over the bound with what may not be dropped"


PLAIN: Final = -1
"""In place of the seq of a frame that is no change of the view."""
_Entry = tuple[int, int, str | None, bytes]
"""Seq (or ``PLAIN``), bytes that count (none of a sync), tag where it is a new one, packed frame."""


class SendQueue:
    """The queue of one connection. ``written_tag`` and ``written_seq``: the cursor that the client will have.

    ``entries``: what waits, ``None`` where nothing does.
    """

    __slots__ = ("_bytes", "_is_plain", "_late", "_most_bytes", "_next_tag", "entries", "written_seq", "written_tag")

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._is_plain = True
        self.entries: list[_Entry] | None = None
        self._late: list[_Entry] | None = None
        self._next_tag: str | None = None
        self.written_tag = ""
        self.written_seq = 0

    @property
    def is_idle(self) -> bool:
        """Whether what comes next may be written past it: nothing waits, and the cursor keeps its tag."""
        return self.entries is None and self._late is None and self._next_tag is None

    def put(self, packed: bytes, seq: int = PLAIN) -> EnqueueResult:
        """Queue a live frame (``seq``), or a frame that is never dropped."""
        if self.entries is None:
            self.entries = []
        size = len(packed)
        self.entries.append((seq, size, self._next_tag, packed))
        if seq == PLAIN or self._next_tag is not None:
            self._is_plain = False
            self._next_tag = None
        self._bytes += size
        if self._bytes <= self._most_bytes:
            return EnqueueResult.QUEUED
        self._drop()
        return EnqueueResult.DROPPED if self._bytes <= self._most_bytes else EnqueueResult.FULL

    def set_next_tag(self, tag: str) -> None:
        """The live frame that is put next carries a cursor of this tag."""
        self._next_tag = tag

    def put_sync(self, packed: bytes, tag: str, seq: int) -> None:
        """Queue a sync object."""
        if self.entries is None:
            self.entries = []
        self.entries.append((seq, 0, tag, packed))
        self._is_plain = False
        self.entries += self._late or ()
        self._late = None

    def confirm_cursor(self, tag: str, seq: int) -> None:
        """The client has this cursor already, without a sync."""
        if self._late is not None:
            self.entries, self._late = [*(self.entries or ()), *self._late], None
        elif not self.written_tag and self.entries is None:
            self.written_tag, self.written_seq = tag, seq

    def take(self, most_bytes: int) -> list[bytes]:
        """What to write next: up to a sync object, or to about ``most_bytes``; empty where nothing waits."""
        entries = self.entries
        if entries is None:
            return []
        if len(entries) == 1:
            seq, size, tag, packed = entries[0]
            self.entries = None
            self._is_plain = self._late is None
            self._bytes -= size
            self._note(seq, tag)
            return [packed]
        if self._is_plain and self._bytes <= most_bytes:
            self.written_seq, self._bytes, self.entries = entries[-1][0], 0, None
            return [entry[3] for entry in entries]
        taken: list[bytes] = []
        total = 0
        for seq, size, tag, packed in entries:
            taken.append(packed)
            total += len(packed)
            self._bytes -= size
            self._note(seq, tag)
            if not size or total >= most_bytes:
                break
        self.entries = entries[len(taken) :] or None
        self._is_plain = self.entries is None and self._late is None
        return taken

    def _note(self, seq: int, tag: str | None) -> None:
        if seq != PLAIN:
            self.written_seq = seq
            if tag is not None:
                self.written_tag = tag

    def _drop(self) -> None:
        entries = self.entries or []
        self._is_plain = False
        first = next((at for at, entry in enumerate(entries) if entry[0] != PLAIN), len(entries))
        plain = [entry for entry in entries[first:] if entry[0] == PLAIN]
        self._late = [*(self._late or ()), *plain] or None
        self.entries = entries[:first] or None
        self._bytes = sum(entry[1] for entry in (*entries[:first], *(self._late or ())))
