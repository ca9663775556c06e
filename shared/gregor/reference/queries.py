"""Executable specification: never runs in production. Reads: sync, state, history (semantics.md L9, L13).

Nothing here changes a user. The caller has committed due expiries before, so no read shows an expired item (L6). See
semantics.md, "Where each rule lives".
"""

from __future__ import annotations

from collections.abc import Iterable

from gregor.core.ids import Prefixes, is_allowed
from gregor.core.items import digest as digests
from gregor.core.items.sync import (
    Cursor,
    Delta,
    Full,
    HistoryEntry,
    StoredExternal,
    StoredItem,
    SyncResult,
    Unchanged,
    View,
    cursor_for,
    is_full_smaller,
    is_initial_cursor,
)
from gregor.core.limits import Limits

from .model import ItemRecord, UserState
from .retention import aged_externals

Missed = tuple[tuple[StoredExternal, ...], bool]
"""The external messages since a cursor, and whether some were deleted."""


def answer_cursor(
    user: UserState,
    view: View,
    cursor: Cursor | None,
    digest: bytes | None,
    systems: Prefixes,
    limits: Limits,
    now_us: int,
) -> SyncResult:
    """Return the sync result for a copy of ``view`` at ``cursor``. The order of the cases is that of L9."""
    whole = state(user, view)
    is_valid = cursor is not None and is_known(user, view, cursor)
    since = cursor_for(user.epoch, view, 0) if is_initial_cursor(cursor, view) else cursor
    external, is_gap = _missed(user, view, since, systems, limits, now_us)
    full = Full(user.epoch, user.seq, whole.digest, whole.items, external, is_gap)
    if cursor is not None and not is_valid:
        return full
    create, dismiss = changes(user, view, cursor.seq) if cursor is not None else ((), ())
    if not create and not dismiss:
        is_equal = whole.digest == digest if digest is not None else cursor is not None
        return Unchanged(user.epoch, user.seq, whole.digest, external, is_gap) if is_equal else full
    if is_full_smaller(create, dismiss, user.live_bytes):
        return full
    return Delta(user.epoch, user.seq, whole.digest, create, dismiss, external, is_gap)


def is_known(user: UserState, view: View, cursor: Cursor) -> bool:
    """Return whether deltas from ``cursor`` are possible: same epoch and view, not ahead, not below the floor."""
    is_same = cursor.tag == cursor_for(user.epoch, view, 0).tag
    return is_same and max(user.floor, user.forgotten.get(view.device, 0)) <= cursor.seq <= user.seq


def changes(user: UserState, view: View, seq: int) -> tuple[tuple[StoredItem, ...], tuple[str, ...]]:
    """Return the items that entered ``view`` after ``seq``, by (created, id), and the ids that left, by (seq, id)."""
    create = stored(record for record in user.live.values() if record.seq > seq and record.is_in(view))
    dismiss = sorted(
        (gone.seq, record.item.id)
        for record in (*user.live.values(), *user.gone.values())
        if record.seq <= seq and record.is_of(view) and (gone := record.left(view)) is not None and gone.seq > seq
    )
    return create, tuple(item_id for _, item_id in dismiss)


def state(user: UserState, view: View) -> Full:
    """Return the whole view now."""
    return _full(user, (record for record in user.live.values() if record.is_in(view)))


def state_at(user: UserState, view: View, at_us: int) -> Full:
    """Return the view as it was at ``at_us``, from the current data (semantics.md, "History")."""
    return _full(user, (record for record in _of(user, view) if _was_in(record, view, at_us)))


def item(user: UserState, item_id: str, view: View) -> HistoryEntry | None:
    """Return one item, live or gone; None if it is unknown, or not for ``view``."""
    record = user.record(item_id)
    return _entry(record, view) if record is not None and record.is_of(view) else None


def history(user: UserState, view: View, before: tuple[int, str] | None, limit: int) -> list[HistoryEntry]:
    """Return up to ``limit`` items that are or were in ``view``, newest first by (seq, id), below ``before``."""
    entries = [_entry(record, view) for record in _of(user, view)]
    below = [entry for entry in entries if before is None or (entry.seq, entry.id) < before]
    return sorted(below, key=lambda entry: (entry.seq, entry.id), reverse=True)[:limit]


def stored(records: Iterable[ItemRecord]) -> tuple[StoredItem, ...]:
    """Return items for readers, in order of created, then id."""
    items = (
        StoredItem(
            id=record.item.id,
            category=record.item.category,
            created_us=record.item.created_us,
            seq=record.seq,
            json=record.item.json,
            expires_us=record.item.expires_us,
            leaf=record.item.leaf,
        )
        for record in records
    )
    return tuple(sorted(items, key=lambda entry: (entry.created_us, entry.id)))


def _full(user: UserState, records: Iterable[ItemRecord]) -> Full:
    items = stored(records)
    return Full(user.epoch, user.seq, digests.total(entry.leaf for entry in items), items)


def _of(user: UserState, view: View) -> list[ItemRecord]:
    return [record for record in (*user.live.values(), *user.gone.values()) if record.is_of(view)]


def _was_in(record: ItemRecord, view: View, at_us: int) -> bool:
    gone, expires_us = record.left(view), record.item.expires_us
    is_there = record.item.created_us <= at_us and (gone is None or gone.at_us > at_us)
    return is_there and (expires_us is None or expires_us > at_us)


def _entry(record: ItemRecord, view: View) -> HistoryEntry:
    return HistoryEntry(
        id=record.item.id,
        category=record.item.category,
        created_us=record.item.created_us,
        seq=record.seq,
        json=record.item.json,
        gone=record.left(view),
        is_trimmed=record.is_trimmed,
    )


def _missed(
    user: UserState, view: View, cursor: Cursor | None, systems: Prefixes, limits: Limits, now_us: int
) -> Missed:
    """Return the external messages since a cursor.

    There is a gap if some were deleted since, or the cursor is invalid (L13).
    """
    if cursor is None:
        return (), False
    if not is_known(user, view, cursor):
        return (), True
    aged = aged_externals(user, limits, now_us)
    floor = aged[-1].external.seq if aged else user.external_floor
    kept = (kept.external for kept in user.externals[len(aged) :])
    since = tuple(said for said in kept if said.seq > cursor.seq and is_allowed(systems, said.system))
    return since, cursor.seq < floor
