"""A user's agenda: when which of its items asks for what (semantics.md L7, "Aggregation"; architecture.md, "Time").

An entry is a name and a time. The name begins with the letter of what is to be done, as in the Redis store's scripts:
``r<id>`` the next reminder, ``n<id>␀<index>␀<seq>`` what follows one, ``p<id>`` push, ``q<id>`` mail, ``z<id>`` it has
left: what was told of it is taken back, ``y<id>␀<device>`` a device hid it, ``o<id>`` its deliveries should be over,
``w<category>␀<for_device>`` an aggregation window. Expiries are told by the items themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gregor.core.items.reminders import first_reminder_us, is_before_expiry
from gregor.core.messages.model import Commit, Creation, ItemTimerKind, RemovalReason

from .model import ItemRecord, UserState

REMIND, FOLLOW, PUSH, MAIL, WINDOW, LEFT, HIDDEN, OVERDUE = "r", "n", "p", "q", "w", "z", "y", "o"

Changes = dict[str, int | None]
"""Entry to its new time (µs), or ``None`` where it goes."""


def opened(creation: Creation, now_us: int, standing: Mapping[str, int]) -> Changes:
    """The entries that an item asks for as it becomes live. A window that is open already is not moved."""
    changes: Changes = {}
    first_us = first_reminder_us(creation, now_us)
    if first_us is not None:
        changes[REMIND + creation.id] = first_us
    for timer in creation.timers:
        if timer.kind is not ItemTimerKind.WINDOW:
            changes[timer.kind.value + creation.id] = timer.at_us
        elif (window := window_of(creation.category, creation.for_device)) not in standing:
            changes[window] = timer.at_us
    return changes


def closed(record: ItemRecord, now_us: int, *, is_watched: bool) -> Changes:
    """The entries that go as an item leaves, and the one that comes: what was told of it is to be taken back."""
    changes: Changes = {kind + record.item.id: None for kind in (REMIND, PUSH, MAIL)}
    if record.is_timed or is_watched:
        changes[LEFT + record.item.id] = now_us
    return changes


def hidden(item_ids: Iterable[str], device: str, now_us: int) -> Changes:
    """The entries that come as a device hides items from itself, where somebody wants to hear of it."""
    return {f"{HIDDEN}{item_id}\0{device}": now_us for item_id in item_ids}


def reminded(record: ItemRecord, index: int, seq: int, now_us: int, *, has_follow_up: bool) -> Changes:
    """What becomes of the entry of a reminder that fires: the next one takes its place; something may follow it."""
    item = record.item
    following = item.remind_at_us[index + 1 : index + 2]
    at_us = following[0] if following and is_before_expiry(item, following[0]) else None
    changes: Changes = {REMIND + item.id: at_us}
    if has_follow_up:
        changes[f"{FOLLOW}{item.id}\0{index}\0{seq}"] = now_us
    return changes


def is_standing(entries: Mapping[str, int], record: ItemRecord, index: int) -> bool:
    """Whether this reminder of a live item is the one that waits: each fires once, oldest first (L7)."""
    times = record.item.remind_at_us
    return index < len(times) and entries.get(REMIND + record.item.id) == times[index]


def window_of(category: str, for_device: str | None) -> str:
    """The entry of the window of a category and ``for_device``."""
    return f"{WINDOW}{category}\0{for_device or ''}"


def apply(entries: dict[str, int], changes: Mapping[str, int | None]) -> None:
    """Put changes in force."""
    for name, at_us in changes.items():
        if at_us is None:
            entries.pop(name, None)
        else:
            entries[name] = at_us


def surplus(records: Iterable[ItemRecord], category: str, most: int) -> list[ItemRecord]:
    """The oldest live items of exactly this category, so that ``most`` of it stay."""
    mine = sorted(
        (record for record in records if record.item.category == category),
        key=lambda record: (record.item.created_us, record.item.id),
    )
    return mine[: max(0, len(mine) - most)]


def expiry(user: UserState, now_us: int, epoch_seed: bytes) -> Commit | None:
    """The commit that ends the items that have expired by ``now_us``, the bound included; ``None`` for none (L6)."""
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
