"""The history of one view: its changes by seq, and the digest after each of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import NamedTuple

from gregor.core.ids import GREGOR, Prefixes, is_allowed
from gregor.core.items.announcement import Announcement, AnnouncementKind
from gregor.core.items.sync import View
from gregor.core.times import format_time
from gregor.reference.model import UserState
from gregor.reference.queries import state

from .evidence import SeenChange, add_lanes, subtract_lanes


class ReaderKey(NamedTuple):
    """What one reader sees: a view, and the external systems."""

    view: View
    systems: Prefixes = None


@dataclass(slots=True)
class ViewChange:
    """A change of a view. ``ended``: when its request had ended (ns); 0 if the server made the change.

    ``created``: item id to leaf. ``is_silent``: no frame has to show it. ``line``: the request.
    """

    seq: int
    ended: int
    line: int
    created: dict[str, int] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    system: str = GREGOR
    external: bytes = b""
    remind: tuple[str, bytes] | None = None
    is_flush: bool = False
    is_silent: bool = False

    def is_shown_by(self, seen: SeenChange) -> bool:
        """Return whether a live frame shows exactly this change."""
        if self.system != seen.system or self.external != seen.external or self.is_flush != seen.is_flush:
            return False
        if self.created.keys() != seen.created.keys() or len(self.gone) != len(seen.gone):
            return False
        if any(self.created[item_id] != item.leaf for item_id, item in seen.created.items()):
            return False
        if self.gone and set(self.gone) != seen.gone.keys():
            return False
        if self.remind is None:
            return not seen.remind
        item_id, at = self.remind
        return seen.remind.keys() == {item_id} and float(at) == seen.remind[item_id]


class ViewLog:
    """All changes of one view, in the order of their seq."""

    __slots__ = ("changes", "key", "seqs", "sums")

    def __init__(self, key: ReaderKey) -> None:
        self.key = key
        self.seqs: list[int] = []
        self.sums: list[int] = []
        self.changes: list[ViewChange] = []

    @property
    def sum(self) -> int:
        """The digest after the last change."""
        return self.sums[-1] if self.sums else 0

    def sum_at(self, seq: int) -> int:
        """Return the digest after ``seq``."""
        index = bisect_right(self.seqs, seq)
        return self.sums[index - 1] if index else 0

    def index_of(self, seq: int) -> int:
        """Return the place of the first change at or after ``seq``."""
        return bisect_left(self.seqs, seq)

    def between(self, after: int, until: int) -> list[ViewChange]:
        """Return the changes after one seq, up to another one inclusive."""
        return self.changes[bisect_right(self.seqs, after) : bisect_right(self.seqs, until)]

    def is_delta_empty(self, after: int, until: int) -> bool:
        """Return whether the changes between two seqs cancel each other, so that a sync object shows none of them."""
        if self.sum_at(after) != self.sum_at(until):
            return False
        return not any(change.is_flush or change.system != GREGOR for change in self.between(after, until))

    def last_shown(self, place: int, *, with_reminders: bool) -> ViewChange | None:
        """Return the last change before a place that a frame has to show."""
        while place:
            change = self.changes[place - 1]
            if not change.is_silent and (with_reminders or change.remind is None):
                break
            place -= 1
        return self.changes[place - 1] if place else None

    def items_at(self, seq: int) -> dict[str, int]:
        """Return item id to leaf after ``seq``. It replays the view: only for the report of an anomaly."""
        items: dict[str, int] = {}
        for change in self.between(-1, seq):
            for item_id in change.gone:
                items.pop(item_id, None)
            items.update(change.created)
        return items

    def add(
        self, announcement: Announcement, leaves: dict[str, int], ended: int, line: int, *, is_silent: bool = False
    ) -> None:
        """Add the change that an announcement makes to this view, if any. ``leaves``: of the items in it."""
        change = ViewChange(announcement.seq, ended, line, is_silent=is_silent)
        view, total = self.key.view, self.sum
        match announcement.kind:
            case AnnouncementKind.EXTERNAL:
                if not is_allowed(self.key.systems, announcement.system):
                    return
                by_device = b',"device":"%s"' % announcement.sender.encode()
                change.system, change.external = announcement.system, announcement.body.removesuffix(by_device)
            case AnnouncementKind.RESET:
                change.is_flush = True
            case _:
                mine = [entry for entry in announcement.entries if entry.concerns(view)]
                if not mine:
                    return
                if announcement.kind is AnnouncementKind.REMIND:
                    change.remind = mine[0].id, format_time(announcement.remind_at_us)
                else:
                    change.created = {e.id: leaves[e.id] for e in mine if e.packed is not None}
                    change.gone = tuple(e.id for e in mine if e.packed is None)
                    for leaf in change.created.values():
                        total = add_lanes(total, leaf)
                    for item_id in change.gone:
                        total = subtract_lanes(total, leaves[item_id])
        self.append(change, total)

    def append(self, change: ViewChange, total: int) -> None:
        """Add a change, and the digest after it."""
        self.seqs.append(change.seq)
        self.sums.append(total)
        self.changes.append(change)

    def recompute(self, user: UserState, seq: int, line: int) -> None:
        """Add the change that makes the view equal to ``user``, without a frame (a device was forgotten)."""
        full = state(user, self.key.view)
        if int.from_bytes(full.digest, "big") == self.sum:
            return
        before = self.items_at(seq)
        now = {item.id: int.from_bytes(item.leaf, "big") for item in full.items}
        change = ViewChange(seq, 0, line, is_silent=True)
        change.created = {item_id: leaf for item_id, leaf in now.items() if item_id not in before}
        change.gone = tuple(item_id for item_id in before if item_id not in now)
        if change.created or change.gone:
            self.append(change, int.from_bytes(full.digest, "big"))
