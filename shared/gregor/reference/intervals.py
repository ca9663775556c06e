"""Executable specification: never runs in production. Intervals of dismissals (semantics.md L3).

It also merges stored intervals, to keep them few. See semantics.md, "Where each rule lives".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gregor.core.ids import BACKEND, covers
from gregor.core.messages.model import Creation, ResolvedInterval

from .model import IntervalKey, ItemRecord, StoredInterval, UserState


def interval_key(span: ResolvedInterval) -> IntervalKey:
    """Return the key under which an interval is stored."""
    return span.category, span.is_prefix


def matches(span: ResolvedInterval, item: Creation) -> bool:
    """Return whether an interval matches an item, except by time: by category, and not in its ``skip``."""
    is_inside = covers(span.category, item.category) if span.is_prefix else span.category == item.category
    return is_inside and item.id not in span.skip


def catches_arrival(span: ResolvedInterval, item: Creation) -> bool:
    """Return whether a stored interval dismisses an item that arrives after it.

    An open interval spares items whose time the server set: they came after the interval, whatever the clocks say.
    """
    if span.is_open and item.is_stamped:
        return False
    return matches(span, item) and span.begin_us <= item.created_us <= span.end_us


def catches_known(span: ResolvedInterval, record: ItemRecord, newest_seq: int | None) -> bool:
    """Return whether an interval that is committed now dismisses a live item. An open interval has no end.

    ``newest_seq``: the last creation that it may dismiss, if it repeats an earlier commit (``resolve_repeat``).
    """
    if newest_seq is not None and record.seq > newest_seq:
        return False
    is_inside = span.begin_us <= record.item.created_us and (span.is_open or record.item.created_us <= span.end_us)
    return is_inside and matches(span, record.item)


def resolve_repeat(span: ResolvedInterval, user: UserState) -> tuple[ResolvedInterval, int | None]:
    """Return the interval to apply, and the greatest creation seq that it may dismiss (None: any).

    If the message repeats a replacement (its creations are known, with server times), the interval acts as the open
    interval of the first commit.
    """
    named = [user.record(item_id) for item_id in span.matches_own]
    known = [record for record in named if record is not None]
    if not span.is_open or not named or len(known) < len(named):
        return span, None
    end_us = max(record.item.created_us for record in known)
    return replace(span, end_us=end_us), max(record.seq for record in known)


def absorbs(old: StoredInterval, new: StoredInterval) -> bool:
    """Return whether ``old`` (of the same key) covers all effects of ``new``: sender, range, strength, retention."""
    has_scope = old.device in (new.device, BACKEND)
    covers_range = old.span.begin_us <= new.span.begin_us and new.span.end_us <= old.span.end_us
    is_as_strong = new.span.is_open or not old.span.is_open
    is_as_long = old.at_us >= new.at_us
    return has_scope and covers_range and is_as_strong and is_as_long and old.span.skip <= new.span.skip


def remember(spans: Iterable[StoredInterval], new: StoredInterval) -> tuple[StoredInterval, ...]:
    """Return the stored intervals of one key with ``new``: without redundant ones, and with adjacent ones merged."""
    kept = list(spans)
    if any(absorbs(old, new) for old in kept):
        return tuple(kept)
    while (partner := next((old for old in kept if _touches(old, new)), None)) is not None:
        kept.remove(partner)
        begin_us = min(partner.span.begin_us, new.span.begin_us)
        end_us = max(partner.span.end_us, new.span.end_us)
        span = replace(new.span, begin_us=begin_us, end_us=end_us)
        new = replace(new, span=span, at_us=max(partner.at_us, new.at_us))
    return (*(old for old in kept if not absorbs(new, old)), new)


def _touches(old: StoredInterval, new: StoredInterval) -> bool:
    """Return whether both are closed, have the same device and ``skip``, and leave no microsecond between them."""
    is_alike = old.device == new.device and old.span.skip == new.span.skip
    is_closed = not (old.span.is_open or new.span.is_open)
    overlaps = old.span.begin_us <= new.span.end_us + 1 and new.span.begin_us <= old.span.end_us + 1
    return is_alike and is_closed and overlaps
