"""Intervals as facts: what one catches now and later, and how few of them need to be remembered (semantics.md L3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gregor.core.ids import BACKEND, covers
from gregor.core.messages.model import Creation, ResolvedInterval

from .model import Branch, ItemRecord, StoredInterval, UserState


def branch(span: ResolvedInterval) -> Branch:
    """What ``span`` is kept by."""
    return span.category, span.is_prefix


def matches(span: ResolvedInterval, item: Creation) -> bool:
    """Whether ``span`` speaks of ``item``, but for time: by category, and not in its ``skip``."""
    is_inside = covers(span.category, item.category) if span.is_prefix else span.category == item.category
    return is_inside and item.id not in span.skip


def catches_arrival(span: ResolvedInterval, item: Creation) -> bool:
    """Whether a remembered ``span`` catches an item that arrives after it.

    An open one spares what the server stamped: such an item came after the interval, whatever the clocks say.
    """
    if span.is_open and item.is_stamped:
        return False
    return matches(span, item) and span.begin_us <= item.created_us <= span.end_us


def catches_known(span: ResolvedInterval, record: ItemRecord, newest_seq: int | None) -> bool:
    """Whether ``span``, committed now, catches a live item: all that match where it is open, else those inside it.

    ``newest_seq``: the creation seq that it stops at because it repeats an earlier commit (``repeated``).
    """
    if newest_seq is not None and record.seq > newest_seq:
        return False
    is_inside = span.begin_us <= record.item.created_us and (span.is_open or record.item.created_us <= span.end_us)
    return is_inside and matches(span, record.item)


def repeated(span: ResolvedInterval, user: UserState) -> tuple[ResolvedInterval, int | None]:
    """The span that acts, and the greatest creation seq that it may take (``None``: any).

    Where the message is the repeat of a replace (its creations are known already, stamped by the server), the span acts
    as the open interval of that first commit.
    """
    named = [user.record(item_id) for item_id in span.matches_own]
    known = [record for record in named if record is not None]
    if not span.is_open or not named or len(known) < len(named):
        return span, None
    end_us = max(record.item.created_us for record in known)
    return replace(span, end_us=end_us), max(record.seq for record in known)


def absorbs(old: StoredInterval, new: StoredInterval) -> bool:
    """Whether ``old`` says all that ``new`` (of the same branch) says, to the same senders' effect, and as long."""
    has_scope = old.device in (new.device, BACKEND)
    covers_range = old.span.begin_us <= new.span.begin_us and new.span.end_us <= old.span.end_us
    is_as_strong = new.span.is_open or not old.span.is_open
    is_as_long = old.at_us >= new.at_us
    return has_scope and covers_range and is_as_strong and is_as_long and old.span.skip <= new.span.skip


def remember(spans: Iterable[StoredInterval], new: StoredInterval) -> tuple[StoredInterval, ...]:
    """The remembered intervals of one branch with ``new`` among them, none said twice, those that touch united."""
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
    """Whether both are closed, of one scope and ``skip``, with no µs between them."""
    is_alike = old.device == new.device and old.span.skip == new.span.skip
    is_closed = not (old.span.is_open or new.span.is_open)
    overlaps = old.span.begin_us <= new.span.end_us + 1 and new.span.begin_us <= old.span.end_us + 1
    return is_alike and is_closed and overlaps
