"""Sequence tracking: the position of one user's history in this process, and the detection of gaps and forks (L12).

Pure: no I/O, no clock.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from gregor.core.items.announcement import Announcement, AnnouncementKind, CreationFrame
from gregor.core.items.sync import NO_EPOCH, ZERO_DIGEST, UserPosition

LINK_BYTES = 8
"""Bytes of the digest, before and after it, that an announcement carries."""


class Continuity(Enum):
    """The relation of an announcement, or of the store, to the known position."""

    NEXT = "follows the known position"
    SAME = "equal"
    LATE = "not above the known position: already covered by a sync, or another history"
    GAP = "announcements are missing"
    FORK = "another history: every copy is invalid"
    UNPROVEN = "equal, but perhaps in another history: the link does not cover items of one device"


class StreamPosition(Struct, frozen=True, gc=False):
    """A position in a user's history. ``link``: the first lanes of the digest there; ``None`` if unknown."""

    epoch: bytes
    seq: int
    link: bytes | None = None

    @classmethod
    def of(cls, head: UserPosition | None) -> StreamPosition:
        """Return the position that the store reports; an unknown user has the empty one."""
        if head is None:
            return cls(NO_EPOCH, 0, ZERO_DIGEST[:LINK_BYTES])
        return cls(head.epoch, head.seq, head.digest[:LINK_BYTES])


class SequenceTracker:
    """The last known position of one user; ``None`` before the first read or announcement.

    After an interruption the subscription may belong to another server, which may lack the last messages of the old
    one. The histories of both servers then differ from some seq on, although the epoch is the same. An equal seq does
    not prove equal items. An equal link proves equal items for all devices, but not those that only one device sees.
    Therefore a position that was reached shortly before the interruption proves nothing (``mark``).

    Attributes:
        since: The seq above which every announcement was received.
        is_interrupted: Whether the subscription is interrupted.
        is_moved: Whether the subscription moved to another server, and the position was not compared since.
    """

    __slots__ = ("_is_replicated", "_marked_seq", "_old_seq", "is_interrupted", "is_moved", "position", "since")

    def __init__(self) -> None:
        self.position: StreamPosition | None = None
        self.since = 0
        self.is_interrupted = False
        self.is_moved = False
        # The seq at the last mark and at the mark before it. The position is replicated if both marks saw it.
        self._marked_seq = self._old_seq = -1
        self._is_replicated = False

    @property
    def seq(self) -> int:
        """The seq up to which announcements were delivered to the connections."""
        return self.position.seq if self.position is not None else 0

    def covers(self, position: StreamPosition) -> bool:
        """Return whether announcements were delivered up to a position of the store."""
        return self.position is not None and self.position.epoch == position.epoch and self.position.seq >= position.seq

    # ---- interruptions

    @property
    def is_doubtful(self) -> bool:
        """Whether the store and the announcements may belong to another history than the position."""
        return self.is_interrupted or self.is_moved

    @property
    def is_subscribed_elsewhere(self) -> bool:
        """Whether the subscription is active at another server, whose position was not compared since."""
        return self.is_moved and not self.is_interrupted

    def mark(self) -> None:
        """Remember the position; called at long intervals. A position that two marks saw counts as replicated."""
        self._old_seq, self._marked_seq = self._marked_seq, self.seq

    def interrupt(self) -> None:
        """Handle the loss of the subscription."""
        if not self.is_doubtful:
            self._is_replicated = self.seq == self._old_seq
        self.is_interrupted = True

    def resume(self, *, same_server: bool) -> None:
        """Handle the return of the subscription. Compare with the store afterwards."""
        if not same_server:
            if not self.is_doubtful:
                self._is_replicated = self.seq == self._old_seq
            self.is_moved = True
        self.is_interrupted = False

    def trust(self) -> None:
        """Trust the position again: it was compared with the store of the new server, and repaired if necessary."""
        if not self.is_interrupted:
            self.is_moved = False

    # ---- announcements

    def classify(self, announcement: Announcement) -> Continuity:
        """Return how an announcement relates to the known position. ``advance`` accepts it."""
        position = self.position
        if position is None:
            return Continuity.NEXT
        if announcement.seq <= position.seq:
            return Continuity.LATE
        is_same_epoch = announcement.epoch == position.epoch
        if announcement.seq > position.seq + 1:
            is_gap = is_same_epoch and not self.is_doubtful
            return Continuity.GAP if is_gap else Continuity.FORK
        may_begin = announcement.kind is AnnouncementKind.RESET or (announcement.is_new_epoch and position.seq == 0)
        # The digest links each announcement to the one before: an equal seq of another history does not match.
        is_linked = position.link is None or announcement.before == position.link
        return Continuity.NEXT if is_linked and (is_same_epoch or may_begin) else Continuity.FORK

    def advance(self, announcement: Announcement) -> None:
        """Move to the position of an announcement that is being delivered."""
        if self.position is None:
            self.since = announcement.seq - 1
        self.position = StreamPosition(announcement.epoch, announcement.seq, announcement.after)

    def advance_fast(self, creation: CreationFrame) -> bool:
        """Advance if a creation follows the known position; return whether it does. Hot path.

        General twin: ``classify`` with ``advance``. Benchmark, test and condition: see ``UserChannel._deliver_fast``.
        """
        position = self.position
        if position is None or creation.seq != position.seq + 1 or creation.epoch != position.epoch:
            return False
        if position.link is not None and creation.before != position.link:
            return False
        self.position = StreamPosition(creation.epoch, creation.seq, creation.after)
        return True

    # ---- reads

    def confirm_sync(self, epoch: bytes, seq: int, then: StreamPosition | None) -> Continuity:
        """Compare with a sync that was read. ``then``: the known position when the read began.

        The first sync sets the position.
        """
        if self.position is None:
            self.position, self.since = StreamPosition(epoch, seq), seq
            return Continuity.SAME
        # The position was set by an announcement during the read: the sync must not be older than that.
        if then is None:
            return Continuity.SAME if seq >= self.since else Continuity.GAP
        is_fork = seq < then.seq or epoch not in (then.epoch, self.position.epoch)
        return Continuity.FORK if is_fork else Continuity.SAME

    def compare(self, stored: StreamPosition, then: StreamPosition) -> Continuity:
        """Compare with the position of the store. ``then``: the known position when the store was asked.

        Announcements may have arrived since. ``trust`` follows when the result has been handled.
        """
        continuity = self._compare(stored, then)
        if self.is_subscribed_elsewhere and not self._is_replicated:
            return Continuity.UNPROVEN if continuity is Continuity.SAME else Continuity.FORK
        is_void = then.epoch == NO_EPOCH  # every history continues an empty copy
        return Continuity.FORK if continuity is Continuity.GAP and self.is_doubtful and not is_void else continuity

    def _compare(self, stored: StreamPosition, then: StreamPosition) -> Continuity:
        now = self.position or then
        if stored.epoch != then.epoch:
            if now.epoch == stored.epoch:
                return Continuity.SAME
            return Continuity.GAP if then.epoch == NO_EPOCH else Continuity.FORK
        if stored.seq < then.seq:
            return Continuity.FORK
        if stored.seq > then.seq:
            return Continuity.SAME if now.seq >= stored.seq else Continuity.GAP
        if then.link is not None and then.link != stored.link:
            return Continuity.FORK
        if now == then:
            self.position = stored
        return Continuity.SAME
