"""Executable specification: never runs in production. A user's agenda: the scheduled work of its items.

See semantics.md L7 and "Aggregation". An entry is a name and a time. Its name begins with the letter of its kind, as
in the Lua scripts: ``r<id>`` the next reminder, ``n<id>␀<index>␀<seq>`` the follow-up of one, ``p<id>`` push,
``q<id>`` mail, ``z<id>`` the item left, so its notifications are withdrawn, ``y<id>␀<device>`` a device hid it,
``o<id>`` its deliveries should be over, ``w<category>␀<for_device>`` an aggregation window. The expiry of an item is
in the item itself.

Other places have the same rules: see semantics.md, "Where each rule lives".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gregor.core.items.reminders import firing_reminders, is_before_expiry
from gregor.core.messages.model import Commit, Creation, ItemTimerKind, RemovalReason

from .model import ItemRecord, UserState

REMIND, FOLLOW, PUSH, MAIL, WINDOW, LEFT, HIDDEN, OVERDUE = "r", "n", "p", "q", "w", "z", "y", "o"

Changes = dict[str, int | None]
"""Name of an entry to its new time (µs); None removes it."""


def entries_opened(creation: Creation, now_us: int, entries: Mapping[str, int], *, has_room: bool) -> Changes:
    """Return the entries of an item that becomes live. An open window is not moved.

    ``has_room``: whether a new window may open. Otherwise the item waits for the window of a newer item.
    """
    changes: Changes = {}
    first_us = first_reminder_us(creation, now_us)
    if first_us is not None:
        changes[REMIND + creation.id] = first_us
    for timer in creation.timers:
        if timer.kind is not ItemTimerKind.WINDOW:
            changes[timer.kind.value + creation.id] = timer.at_us
        elif has_room and (window := window_entry(creation.category, creation.for_device)) not in entries:
            changes[window] = timer.at_us
    return changes


def count_entries(user: UserState) -> int:
    """Return the number of entries that decides whether a window may open.

    The scripts also count delayed messages and deliveries. Near the bound, the stores may differ by some windows.
    """
    expiring = sum(record.item.expires_us is not None for record in user.live.values())
    return len(user.agenda) + expiring + len(user.message_ids)


def entries_closed(record: ItemRecord, now_us: int, *, records_removals: bool) -> Changes:
    """Return the changes when an item leaves: its entries are removed; its notifications are to be withdrawn."""
    changes: Changes = {kind + record.item.id: None for kind in (REMIND, PUSH, MAIL)}
    if record.is_timed or records_removals:
        changes[LEFT + record.item.id] = now_us
    return changes


def entries_hidden(item_ids: Iterable[str], device: str, now_us: int) -> Changes:
    """Return the entries of items that a device hides, if a webhook wants that event."""
    return {f"{HIDDEN}{item_id}\0{device}": now_us for item_id in item_ids}


def entries_reminded(record: ItemRecord, index: int, seq: int, now_us: int, *, has_follow_up: bool) -> Changes:
    """Return the changes when a reminder fires: the next one takes its place, and there may be a follow-up."""
    item = record.item
    following = item.remind_at_us[index + 1 : index + 2]
    at_us = following[0] if following and is_before_expiry(item, following[0]) else None
    changes: Changes = {REMIND + item.id: at_us}
    if has_follow_up:
        changes[f"{FOLLOW}{item.id}\0{index}\0{seq}"] = now_us
    return changes


def is_next_reminder(entries: Mapping[str, int], record: ItemRecord, index: int) -> bool:
    """Return whether this reminder of a live item is the next one: each fires once, oldest first (L7)."""
    times = record.item.remind_at_us
    return index < len(times) and entries.get(REMIND + record.item.id) == times[index]


def window_entry(category: str, for_device: str | None) -> str:
    """Return the name of the window of a category and ``for_device``."""
    return f"{WINDOW}{category}\0{for_device or ''}"


def apply_changes(entries: dict[str, int], changes: Mapping[str, int | None]) -> None:
    """Apply changes to the entries in place."""
    for name, at_us in changes.items():
        if at_us is None:
            entries.pop(name, None)
        else:
            entries[name] = at_us


def first_reminder_us(item: Creation, now_us: int) -> int | None:
    """Return when the first reminder that fires is due, in Unix microseconds; None if no reminder fires."""
    fires = firing_reminders(item, now_us)
    return item.remind_at_us[fires[0]] if fires else None


def excess_records(records: Iterable[ItemRecord], category: str, most: int) -> list[ItemRecord]:
    """Return the oldest live items of exactly this category, except for the newest ``most``."""
    mine = sorted(
        (record for record in records if record.item.category == category),
        key=lambda record: (record.item.created_us, record.item.id),
    )
    return mine[: max(0, len(mine) - most)]


def expiry_commit(user: UserState, now_us: int, epoch_seed: bytes) -> Commit | None:
    """Return the commit that removes the items that have expired at ``now_us``, or None if none has (L6)."""
    expired = [
        (record.item.expires_us, item_id)
        for item_id, record in user.live.items()
        if record.item.expires_us is not None and record.item.expires_us <= now_us
    ]
    if not expired:
        return None
    return Commit(
        now_us, epoch_seed, ids=tuple(item_id for _, item_id in sorted(expired)), reason=RemovalReason.EXPIRED
    )
