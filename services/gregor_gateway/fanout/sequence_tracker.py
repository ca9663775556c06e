"""PURE: what a process knows of one user's history, and how it finds that something was missed (semantics.md L12)."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from gregor.core.items.announcement import Announcement, AnnouncementKind, CreationFrame
from gregor.core.items.sync import NO_EPOCH, ZERO_DIGEST, UserPosition

LINK_BYTES = 8
"""The lanes of the digest that an announcement carries, from before and from after it."""


class Continuity(Enum):
    """How an announcement, or the store, stands to what is known."""

    NEXT = "follows what is known"
    SAME = "nothing is missing"
    LATE = "not above what is known: read in flight, or another history"
    GAP = "something between is missing"
    FORK = "another history: no copy can be trusted"


class StreamPosition(Struct, frozen=True, gc=False):
    """What was known at a moment. ``link``: the first lanes of the digest, ``None`` where they are not known yet."""

    epoch: bytes
    seq: int
    link: bytes | None = None

    @classmethod
    def of(cls, head: UserPosition | None) -> StreamPosition:
        """What the store says; a user never seen is an empty one."""
        if head is None:
            return cls(NO_EPOCH, 0, ZERO_DIGEST[:LINK_BYTES])
        return cls(head.epoch, head.seq, head.digest[:LINK_BYTES])


class SequenceTracker:
    """The last known mark of one user; ``None`` before the first read or announcement.

    ``since``: everything that was announced above it has been heard.
    """

    __slots__ = ("mark", "since")

    def __init__(self) -> None:
        self.mark: StreamPosition | None = None
        self.since = 0

    @property
    def seq(self) -> int:
        """Up to where the process has told its connections everything."""
        return self.mark.seq if self.mark is not None else 0

    def has(self, mark: StreamPosition) -> bool:
        """Whether everything up to a mark of the store has been told."""
        return self.mark is not None and self.mark.epoch == mark.epoch and self.mark.seq >= mark.seq

    def classify(self, announcement: Announcement) -> Continuity:
        """What an announcement means; ``follow`` takes it."""
        mark = self.mark
        if mark is None:
            return Continuity.NEXT
        if announcement.seq <= mark.seq:
            return Continuity.LATE
        is_same_epoch = announcement.epoch == mark.epoch
        if announcement.seq > mark.seq + 1:
            return Continuity.GAP if is_same_epoch else Continuity.FORK
        may_begin = announcement.kind is AnnouncementKind.RESET or (announcement.is_new_epoch and mark.seq == 0)
        is_linked = mark.link is None or announcement.before == mark.link
        return Continuity.NEXT if is_linked and (is_same_epoch or may_begin) else Continuity.FORK

    def advance(self, announcement: Announcement) -> None:
        """Everything up to this announcement is being told."""
        if self.mark is None:
            self.since = announcement.seq - 1
        self.mark = StreamPosition(announcement.epoch, announcement.seq, announcement.after)

    def advance_fast(self, plain: CreationFrame) -> bool:
        """Whether a plain announcement follows what is known; if so, it is taken. Else ``judge`` says what it is."""
        mark = self.mark
        if mark is None or plain.seq != mark.seq + 1 or plain.epoch != mark.epoch:
            return False
        if mark.link is not None and plain.before != mark.link:
            return False
        self.mark = StreamPosition(plain.epoch, plain.seq, plain.after)
        return True

    def settle(self, epoch: bytes, seq: int, then: StreamPosition | None) -> Continuity:
        """A sync was read. ``then``: what was known when the read began. The first one gives the mark."""
        if self.mark is None:
            self.mark, self.since = StreamPosition(epoch, seq), seq
            return Continuity.SAME
        if then is None:
            return Continuity.SAME if seq >= self.since else Continuity.GAP
        is_fork = seq < then.seq or epoch not in (then.epoch, self.mark.epoch)
        return Continuity.FORK if is_fork else Continuity.SAME

    def compare(self, there: StreamPosition, then: StreamPosition) -> Continuity:
        """What the store said, against what was known when it was asked (announcements may have come since)."""
        now = self.mark or then
        if there.epoch != then.epoch:
            if now.epoch == there.epoch:
                return Continuity.SAME
            return Continuity.GAP if then.epoch == NO_EPOCH else Continuity.FORK
        if there.seq < then.seq:
            return Continuity.FORK
        if there.seq > then.seq:
            return Continuity.SAME if now.seq >= there.seq else Continuity.GAP
        if then.link is not None and then.link != there.link:
            return Continuity.FORK
        if now == then:
            self.mark = there
        return Continuity.SAME
