"""Executable specification: never runs in production. Retention: what is deleted, when, and how the horizon moves.

See semantics.md, "Where each rule lives", for L4 and "Bounds".
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile

from msgspec import structs

from gregor.core.items.digest import leaf
from gregor.core.limits import Limits
from gregor.core.messages.encode import without_body
from gregor.core.messages.model import Commit, Creation

from .model import NEVER_US, IntervalKey, ItemRecord, KeptExternal, StoredInterval, UserState

COLLECT_AT = 100
"""A commit collects by itself if the history exceeds its limit by this number of entries."""


def is_overfull(user: UserState, limits: Limits) -> bool:
    """Return whether a commit should collect at once."""
    return _entries(user) > limits.history + COLLECT_AT


def is_over(user: UserState, limits: Limits) -> bool:
    """Return whether the history, or its bodies, exceed their limits: then a read of the history collects first."""
    oldest_first = sorted(user.gone.values(), key=_by_end)
    may_be_bare = oldest_first[: max(0, len(oldest_first) - limits.history_bodies)]
    return _entries(user) > limits.history or not all(record.is_trimmed for record in may_be_bare)


def is_due(user: UserState, limits: Limits, now_us: int) -> bool:
    """Return whether something has expired by age: then a commit or read deletes it first, like due expiries."""
    if user.collect_at_us > now_us:
        return False
    user.collect_at_us = _next_due(user, limits)
    return user.collect_at_us <= now_us


def collect(user: UserState, limits: Limits, now_us: int) -> int:
    """Delete everything beyond its retention or limit, in place.

    Returns the number of deleted records, without bodies.
    """
    cut_us = now_us - limits.retention_us
    count = _collect_history(user, limits, now_us)
    count += _collect_tombstones(user, limits, now_us)
    count += _collect_spans(user, cut_us)
    count += _collect_message_ids(user, now_us)
    count += trim_externals(user, limits, now_us)
    _trim_bodies(user, limits, now_us)
    user.forgotten = {device: seq for device, seq in user.forgotten.items() if seq > user.floor}
    user.collect_at_us = _next_due(user, limits)
    return count


def first_due(
    commit: Commit, spans: Mapping[IntervalKey, tuple[StoredInterval, ...]], limits: Limits, *, has_aging: bool
) -> int:
    """Return a time before which nothing that ``commit`` adds, with its ``spans``, expires by age.

    ``has_aging``: whether it adds anything that ages from now on: gone items, tombstones, external messages.
    """
    shortest_us = min(limits.retention_us, limits.history_body_age_us, limits.external_age_us)
    ages = [commit.now_us + shortest_us] if has_aging else []
    ends = [remembered.at_us + limits.retention_us + 1 for kept in spans.values() for remembered in kept]
    keeps = [] if commit.message_id is None else [commit.message_id.keep_us]
    return min([*ages, *ends, *keeps], default=NEVER_US)


def _next_due(user: UserState, limits: Limits) -> int:
    """Return the first time at which a record is to be deleted, or a body."""
    retention_us = limits.retention_us
    moments = [max(stone.at_us for stone in stones) + retention_us for stones in user.tombstones.values()]
    moments += [kept.at_us + retention_us + 1 for spans in user.spans.values() for kept in spans]
    moments += [until_us for _, until_us in user.message_ids.values()]
    moments += [kept.at_us + limits.external_age_us for kept in user.externals]
    for record in user.gone.values():
        at_us = record.gone.at_us if record.gone else 0
        moments.append(at_us + (retention_us if record.is_trimmed else min(retention_us, limits.history_body_age_us)))
    return min(moments, default=NEVER_US)


def aged_externals(user: UserState, limits: Limits, now_us: int) -> list[KeptExternal]:
    """Return the external messages that have expired by ``now_us``, oldest first, collected or not."""
    return list(takewhile(lambda kept: kept.at_us <= now_us - limits.external_age_us, user.externals))


def trim_externals(user: UserState, limits: Limits, now_us: int) -> int:
    """Delete expired external messages, then the oldest beyond the limits. Returns their number."""
    kept = user.externals[len(aged_externals(user, limits, now_us)) :]
    while len(kept) > limits.external_count or _bytes(kept) > limits.external_bytes:
        kept = kept[1:]
    count = len(user.externals) - len(kept)
    if count:
        user.external_floor = user.externals[count - 1].external.seq
        user.externals = kept
    return count


def trimmed(item: Creation) -> Creation:
    """Return an item without its body: from then on the history shows it, and ``state_at`` hashes it."""
    json = without_body(item.json)
    return structs.replace(item, json=json, leaf=leaf(item.id, json))


def _collect_history(user: UserState, limits: Limits, now_us: int) -> int:
    cut_us = now_us - limits.retention_us
    oldest_first = sorted(user.gone.values(), key=_by_end)
    over, went = _entries(user) - limits.history, []
    for record in oldest_first:
        if over > 0 or (record.gone is not None and record.gone.at_us <= cut_us):
            went.append(record)
            over -= record.entries
    for record in went:
        del user.gone[record.item.id]
        user.floor = max(user.floor, _by_end(record)[0])
        at_us = record.gone.at_us if record.gone else now_us
        _raise_horizon(user, _covered_us(record.item.created_us, at_us, limits, now_us))
    return len(went)


def _entries(user: UserState) -> int:
    return sum(record.entries for record in user.gone.values())


def _collect_tombstones(user: UserState, limits: Limits, now_us: int) -> int:
    """Delete the tombstones of an id together, after the last one has expired: from then on none can be missed.

    Like a gone item, it raises the floor: the store deletes the hidings before it.
    """
    last_us = {item_id: max(stone.at_us for stone in stones) for item_id, stones in user.tombstones.items()}
    passed = [item_id for item_id, at_us in last_us.items() if at_us <= now_us - limits.retention_us]
    for item_id in passed:
        user.floor = max(user.floor, user.tombstones.pop(item_id)[-1].seq)
        # Its creation may have been this far ahead of the clocks at the moment of the dismissal.
        _raise_horizon(user, _covered_us(last_us[item_id] + limits.future_us, last_us[item_id], limits, now_us))
    return len(passed)


def _collect_spans(user: UserState, cut_us: int) -> int:
    count = 0
    for where, spans in list(user.spans.items()):
        kept = tuple(remembered for remembered in spans if remembered.at_us >= cut_us)
        for remembered in spans:
            if remembered.at_us < cut_us:
                _raise_horizon(user, remembered.span.end_us)
        count += len(spans) - len(kept)
        if kept:
            user.spans[where] = kept
        else:
            del user.spans[where]
    return count


def _collect_message_ids(user: UserState, now_us: int) -> int:
    passed = [key for key, (_, until_us) in user.message_ids.items() if until_us <= now_us]
    for key in passed:
        del user.message_ids[key]
    return len(passed)


def _trim_bodies(user: UserState, limits: Limits, now_us: int) -> None:
    newest_first = sorted(user.gone.values(), key=_by_end, reverse=True)
    for index, record in enumerate(newest_first):
        is_old = record.gone is not None and record.gone.at_us <= now_us - limits.history_body_age_us
        if not record.is_trimmed and (is_old or index >= limits.history_bodies):
            user.gone[record.item.id] = structs.replace(record, item=trimmed(record.item), is_trimmed=True)


def _covered_us(created_us: int, at_us: int, limits: Limits, now_us: int) -> int:
    """Return to where a forgotten record moves the horizon. ``at_us``: when its item, or its id, was dismissed.

    A record that ended before its ``created`` may be forgotten soon after it, or even before it. It must not make the
    present creations of other callers stale.
    """
    return at_us if created_us > at_us and created_us + limits.future_us > now_us else created_us


def _raise_horizon(user: UserState, at_us: int) -> None:
    user.horizon_us = at_us if user.horizon_us is None else max(user.horizon_us, at_us)


def _by_end(record: ItemRecord) -> tuple[int, str]:
    return record.gone.seq if record.gone else 0, record.item.id


def _bytes(externals: list[KeptExternal]) -> int:
    return sum(len(kept.external.system) + len(kept.external.body) for kept in externals)
