"""The history of one view: its changes by seq, and the digest after each of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from copy import copy
from typing import NamedTuple

from msgspec import Struct

from gregor.core.ids import GREGOR, Prefixes, is_allowed
from gregor.core.items.announcement import Announcement, AnnouncementEntry, AnnouncementKind, DeviceScope
from gregor.core.items.digest import add_lanes, lanes, subtract_lanes, sum_lanes
from gregor.core.items.sync import View
from gregor.core.times import format_time
from gregor.reference.model import UserState
from gregor.reference.queries import state

from .evidence import SeenChange


class ReaderKey(NamedTuple):
    """What one reader sees: a view, and the external systems."""

    view: View
    systems: Prefixes = None


class ViewChange(Struct):
    """A change of a view. ``ended``: when its request had ended (ns); 0 if the server made the change.

    ``created``: item id to leaf. ``is_silent``: no frame has to show it. ``line``: the request.
    """

    seq: int
    ended: int
    line: int
    created: dict[str, int] = {}
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


class CommitChanges:
    """The changes that one commit makes to views. Views that see all of it share one change.

    ``leaves``: item id to leaf, for the items of the announcement. ``ended``, ``line`` and ``is_silent``: see
    ``ViewChange``.
    """

    def __init__(
        self, announcement: Announcement, leaves: dict[str, int], ended: int, line: int, *, is_silent: bool = False
    ) -> None:
        self._announcement = announcement
        self._is_for_all = all(entry.scope is DeviceScope.EVERY for entry in announcement.entries)
        self._leaves = leaves
        self._blank = ViewChange(announcement.seq, ended, line, is_silent=is_silent)
        self._whole: tuple[ViewChange, int] | None = None

    def add_to(self, view: ViewLog) -> None:
        """Add the change of a view to it, if there is one."""
        made = self._of(view.key)
        if made is not None:
            view.append(made[0], add_lanes(view.sum, made[1]))

    def _of(self, key: ReaderKey) -> tuple[ViewChange, int] | None:
        """Return the change of a view, and what it adds to the digest; None if the view does not change."""
        view, entries, kind = key.view, self._announcement.entries, self._announcement.kind
        if kind is AnnouncementKind.EXTERNAL:
            if not is_allowed(key.systems, self._announcement.system):
                return None
        elif kind is not AnnouncementKind.RESET:
            is_whole = self._is_for_all and view.category_filter is None
            mine = entries if is_whole else tuple([entry for entry in entries if entry.concerns(view)])
            if not mine:
                return None
            if len(mine) < len(entries):
                return self._made(mine)
        if self._whole is None:
            self._whole = self._made(entries)
        return self._whole

    def _made(self, entries: tuple[AnnouncementEntry, ...]) -> tuple[ViewChange, int]:
        announcement, change = self._announcement, copy(self._blank)
        match announcement.kind:
            case AnnouncementKind.EXTERNAL:
                by_device = b',"device":"%s"' % announcement.sender.encode()
                change.system, change.external = announcement.system, announcement.body.removesuffix(by_device)
            case AnnouncementKind.RESET:
                change.is_flush = True
            case AnnouncementKind.REMIND:
                change.remind = entries[0].id, format_time(announcement.remind_at_us)
            case AnnouncementKind.UPDATE:
                leaves = self._leaves
                change.created = {each.id: leaves[each.id] for each in entries if each.packed is not None}
                change.gone = tuple([each.id for each in entries if each.packed is None])
                added, removed = sum_lanes(change.created.values()), sum_lanes([leaves[each] for each in change.gone])
                return change, subtract_lanes(added, removed)
        return change, 0


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

    def append(self, change: ViewChange, total: int) -> None:
        """Add a change, and the digest after it."""
        self.seqs.append(change.seq)
        self.sums.append(total)
        self.changes.append(change)

    def recompute(self, user: UserState, seq: int, line: int) -> None:
        """Add the change that makes the view equal to ``user``, without a frame (a device was forgotten)."""
        full = state(user, self.key.view)
        total = lanes(full.digest)
        if total == self.sum:
            return
        before = self.items_at(seq)
        now = {item.id: lanes(item.leaf) for item in full.items}
        change = ViewChange(seq, 0, line, is_silent=True)
        change.created = {item_id: leaf for item_id, leaf in now.items() if item_id not in before}
        change.gone = tuple(item_id for item_id in before if item_id not in now)
        if change.created or change.gone:
            self.append(change, total)
