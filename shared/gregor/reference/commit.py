"""Executable specification: never runs in production. The effect of a commit on a user's state.

``decide`` raises ``Problem`` or returns all changes; ``apply_outcome`` applies them. So a message is applied as a
whole or not at all (semantics.md L5). In production ``commit.lua`` does the same; the property tests compare both. See
semantics.md, "Where each rule lives".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from msgspec import Struct, structs

from gregor.core.category_filter import pack_category_filter
from gregor.core.errors import Problem
from gregor.core.ids import BACKEND, is_allowed
from gregor.core.items import digest as digests
from gregor.core.items.announcement import Announcement, AnnouncementEntry, AnnouncementKind, DeviceScope
from gregor.core.items.codec import pack_item
from gregor.core.items.sync import NO_EPOCH, Removal, StoredExternal
from gregor.core.limits import FILTER_UNIT_BYTES, MAX_HIDINGS, Limits
from gregor.core.messages.model import Commit, Creation, IgnoredReason, Receipt, RemovalReason, ResolvedInterval, Sender

from . import agenda, retention
from . import intervals as spans
from .model import (
    DismissalEffect,
    IntervalKey,
    ItemRecord,
    KeptExternal,
    StoredInterval,
    Tombstone,
    UserState,
    dismissal_effect,
)

_FIRST_EPOCH = b"\0\0\1"


class CommitOutcome(Struct, frozen=True, gc=False):
    """All changes of one commit. ``announcement`` is None if it had no effect (receipt ``is_unchanged``).

    ``digest``: of the view of all devices after the commit.
    """

    receipt: Receipt
    announcement: Announcement | None
    records: Mapping[str, ItemRecord]
    tombstones: Mapping[str, tuple[Tombstone, ...]]
    spans: Mapping[IntervalKey, tuple[StoredInterval, ...]]
    epoch: bytes
    digest: bytes
    agenda: Mapping[str, int | None] = {}
    external: KeptExternal | None = None
    followed: str | None = None


def decide(user: UserState, commit: Commit, limits: Limits | None) -> CommitOutcome:
    """Return the changes of ``commit``. It does not look for expired items: see ``agenda.expiry_commit``.

    ``limits``: None for a commit that a server has accepted within its limits. Raises ``Problem``: ``id_reused``,
    ``state_full``, ``too_many_dismissals``.
    """
    draft = _CommitDraft(user, commit, None if limits is None else limits.agenda)
    if _is_repeat(user, commit):
        return draft.outcome()
    if commit.forget_device is not None:
        draft.forget(commit.forget_device)
    if commit.remind is not None:
        draft.remind(*commit.remind)
    for category, most in commit.keep:
        draft.keep(category, most)
    draft.dismiss_ids()
    for span in commit.spans:
        draft.dismiss_span(span)
    for creation in commit.creations:
        draft.create(creation)
    if commit.is_conditional and not draft.is_condition_met():
        return _CommitDraft(user, commit).outcome()
    if limits is not None:
        draft.check_bounds(limits)
    draft.check_hidings()
    return draft.outcome()


def apply_outcome(user: UserState, commit: Commit, outcome: CommitOutcome, limits: Limits) -> None:
    """Apply ``outcome`` to the state on which it was decided."""
    user.epoch, user.seq, user.digest = outcome.epoch, outcome.receipt.seq, outcome.digest
    for item_id, record in outcome.records.items():
        user.live.pop(item_id, None)
        user.gone.pop(item_id, None)
        user.tombstones.pop(item_id, None)
        (user.live if record.gone is None else user.gone)[item_id] = record
    for item_id, (*others, new) in outcome.tombstones.items():
        user.tombstones[item_id] = (*others, replace(new, seq=user.seq))
    user.spans.update(outcome.spans)
    agenda.apply_changes(user.agenda, outcome.agenda)
    if outcome.followed is not None:
        user.live[outcome.followed] = structs.replace(user.live[outcome.followed], has_follow_up=True)
    if outcome.external is not None:
        user.externals.append(outcome.external)
    if commit.forget_device is not None:
        user.forgotten[commit.forget_device] = user.seq
    known = commit.message_id
    if known is not None and known.is_remembered and not _is_repeat(user, commit):
        user.message_ids[known.key] = (known.content, known.keep_us)
    has_aging = outcome.external is not None or bool(outcome.tombstones)
    has_aging = has_aging or any(record.gone or record.hidings for record in outcome.records.values())
    first_us = retention.first_due(commit, outcome.spans, limits, has_aging=has_aging)
    user.collect_at_us = min(user.collect_at_us, first_us)


def _is_repeat(user: UserState, commit: Commit) -> bool:
    """Return whether this message was accepted before, by its id. Raises ``id_reused`` for other content (L2)."""
    if commit.message_id is None:
        return False
    content, until_us = user.message_ids.get(commit.message_id.key, (b"", 0))
    if until_us <= commit.now_us:
        return False
    if content != commit.message_id.content:
        raise Problem("id_reused", "This message id was used before with different content; use a new id.")
    return True


def _moved(digest: bytes, before: ItemRecord | None, after: ItemRecord) -> bytes:
    """Return the digest of the view of all devices after the record of one id changed."""
    if before is not None and before.gone is None and before.is_shared:
        digest = digests.subtract(digest, before.item.leaf)
    if after.gone is None and after.is_shared:
        digest = digests.add(digest, after.item.leaf)
    return digest


@dataclass(slots=True)
class _CommitDraft:
    """A commit that is being decided. The order of its dictionaries is the order in the announcement.

    ``most_entries``: entries of the agenda above which no window opens.
    """

    user: UserState
    commit: Commit
    most_entries: int | None = None
    seq: int = field(init=False)
    born: dict[str, ItemRecord] = field(default_factory=dict)
    ended: dict[str, ItemRecord] = field(default_factory=dict)
    hidden: dict[str, ItemRecord] = field(default_factory=dict)
    shown: dict[str, ItemRecord] = field(default_factory=dict)
    ignored: dict[str, IgnoredReason] = field(default_factory=dict)
    tombstones: dict[str, tuple[Tombstone, ...]] = field(default_factory=dict)
    spans: dict[IntervalKey, tuple[StoredInterval, ...]] = field(default_factory=dict)
    reminded: tuple[ItemRecord, int] | None = None

    def __post_init__(self) -> None:
        self.seq = self.user.seq + 1

    # ---- dismissals

    def forget(self, device: str) -> None:
        """End the device's own items, and show again the items that it hid (L8), of those that the caller may read."""
        own = [record for record in self.user.live.values() if record.item.for_device == device]
        for record in sorted(own, key=_by_creation):
            self.dismiss(record, self.commit.reason)
        for item_id, record in self.user.live.items():
            if device in record.hidings and is_allowed(self.commit.sender.category_filter, record.item.category):
                rest = {other: hiding for other, hiding in record.hidings.items() if other != device}
                self.shown[item_id] = structs.replace(record, hidings=rest)

    def remind(self, item_id: str, index: int) -> None:
        """Fire a reminder: once, and never for an item that is gone (L7)."""
        record = self.user.live.get(item_id)
        if record is not None and agenda.is_next_reminder(self.user.agenda, record, index):
            self.reminded = record, index

    def keep(self, category: str, most: int) -> None:
        """Remove the oldest items of a category that exceed its limit."""
        for record in agenda.excess_records(self.user.live.values(), category, most):
            self.dismiss(record, self.commit.reason)

    def is_condition_met(self) -> bool:
        """Return whether all aggregated items are live and hidden by no device, and their summary would be live."""
        folded = [self.ended.get(item_id) for item_id in self.commit.ids]
        is_whole = all(record is not None and not record.hidings for record in folded)
        return is_whole and all(
            creation.id in self.born and creation.id not in self.ignored for creation in self.commit.creations
        )

    def dismiss_ids(self) -> None:
        """Dismiss live items by id; remember the ids that are unknown."""
        for item_id in self.commit.ids:
            record = self.user.live.get(item_id)
            if record is not None:
                self.dismiss(record, self.commit.reason)
            elif item_id not in self.user.gone:
                new = Tombstone(self.commit.sender, self.commit.now_us)
                stones = [old for old in self.user.tombstones.get(item_id, ()) if old.sender != new.sender]
                self.tombstones[item_id] = (*stones, new)

    def dismiss_span(self, span: ResolvedInterval) -> None:
        """Dismiss the known items in an interval, and remember it for items that arrive later (L3)."""
        span, newest_seq = spans.resolve_repeat(span, self.user)
        named = {creation.id for creation in self.commit.creations}
        reason = RemovalReason.INTERVAL if self.commit.reason is RemovalReason.DISMISSED else self.commit.reason
        for record in sorted(self.user.live.values(), key=_by_creation):
            if record.item.id not in named and spans.catches_known(span, record, newest_seq):
                self.dismiss(record, reason)
        if span.begin_us > span.end_us:
            return  # open, and begins after its stamp: it acts on what is known only
        where = spans.interval_key(span)
        known = self.spans.get(where, self.user.spans.get(where, ()))
        at_us = max(self.commit.now_us, span.end_us)
        new = StoredInterval(self.commit.sender.device, replace(span, matches_own=()), at_us)
        self.spans[where] = spans.remember(known, new)

    def dismiss(self, record: ItemRecord, reason: RemovalReason) -> None:
        """Dismiss a live item by the sender, unless this commit did so already."""
        item_id, sender = record.item.id, self.commit.sender
        if item_id in self.ended or item_id in self.hidden or sender.device in record.hidings:
            return
        gone = Removal(self.commit.now_us, reason, sender.device or None, self.seq)
        match dismissal_effect(sender, record.item):
            case DismissalEffect.ENDS:
                self.ended[item_id] = structs.replace(record, gone=gone)
            case DismissalEffect.HIDES:
                hidings = {**record.hidings, sender.device: gone}
                self.hidden[item_id] = structs.replace(record, hidings=hidings)
            case DismissalEffect.NOTHING:
                pass

    # ---- creations

    def create(self, creation: Creation) -> None:
        """Record an unknown item, live or gone by earlier dismissals; or record why it is ignored."""
        known = self.user.record(creation.id)
        if known is not None:
            self.ignored[creation.id] = self._answer_known(known, creation)
            return
        record = self._on_arrival(creation)
        horizon_us = self.user.horizon_us
        is_old = not creation.is_stamped and horizon_us is not None and creation.created_us <= horizon_us
        if is_old and record.gone is None:
            self.ignored[creation.id] = IgnoredReason.STALE
            return
        self.born[creation.id] = record
        if record.gone is not None:
            self.ignored[creation.id] = (
                IgnoredReason.EXPIRED if record.gone.reason is RemovalReason.EXPIRED else IgnoredReason.DISMISSED
            )

    def _answer_known(self, known: ItemRecord, creation: Creation) -> IgnoredReason:
        if known.item.fingerprint != creation.fingerprint:
            return IgnoredReason.CONFLICT
        if known.gone is not None and known.gone.reason is RemovalReason.EXPIRED:
            return IgnoredReason.EXPIRED
        is_shown = known.gone is None and self.commit.sender.device not in known.hidings
        return IgnoredReason.DUPLICATE if is_shown else IgnoredReason.DISMISSED

    def _on_arrival(self, creation: Creation) -> ItemRecord:
        """Return the record of a new item: earlier dismissals and its expiry apply on arrival (L3, L6)."""
        hidings: dict[str, Removal] = {}
        ends: list[Removal] = []
        for device, reason, does in self._facts(creation):
            gone = Removal(self.commit.now_us, reason, device or None, self.seq)
            if does is DismissalEffect.ENDS:
                ends.append(gone)
            elif does is DismissalEffect.HIDES:
                hidings.setdefault(device, gone)
        if not ends and creation.expires_us is not None and creation.expires_us <= self.commit.now_us:
            ends.append(Removal(self.commit.now_us, RemovalReason.EXPIRED, None, self.seq))
        if ends:
            return ItemRecord(creation, self.seq, ends[0])  # no device needs to hide it
        return ItemRecord(creation, self.seq, None, hidings)

    def _facts(self, creation: Creation) -> list[tuple[str, RemovalReason, DismissalEffect]]:
        """Return the dismissals that match a new item: the backend's first, then by device; ids before intervals."""
        stones = [(stone.sender, RemovalReason.DISMISSED) for stone in self.user.tombstones.get(creation.id, ())]
        caught = [
            (Sender(remembered.device), RemovalReason.INTERVAL)
            for kept in self.user.spans.values()
            for remembered in kept
            if spans.catches_arrival(remembered.span, creation)
        ]
        facts = sorted(stones + caught, key=lambda fact: (fact[0].device, fact[1] is RemovalReason.INTERVAL))
        return [(sender.device, reason, dismissal_effect(sender, creation)) for sender, reason in facts]

    # ---- the end

    def check_hidings(self) -> None:
        """Raise if more devices dismissed one item, or one unknown id, than the store can record."""
        for item_id, stones in self.tombstones.items():
            if len(stones) > max(MAX_HIDINGS, len(self.user.tombstones.get(item_id, ()))):
                raise Problem("too_many_dismissals", f"At most {MAX_HIDINGS} devices may dismiss one unknown id.")
        if any(len(record.hidings) > MAX_HIDINGS for record in [*self.hidden.values(), *self.born.values()]):
            raise Problem("too_many_dismissals", f"At most {MAX_HIDINGS} devices may dismiss one item for themselves.")

    def check_bounds(self, limits: Limits) -> None:
        """Raise if this commit makes the net result exceed a limit (semantics.md, "Bounds")."""
        user = self.user
        added = [record for record in self.born.values() if record.gone is None]
        if added:
            live = [record for item_id, record in user.live.items() if item_id not in self.ended] + added
            live_bytes = sum(len(record.item.json) for record in live)
            if len(live) > limits.live or live_bytes > limits.live_bytes:
                raise Problem("state_full", f"At most {limits.live} items and {limits.live_bytes} bytes may be live.")
        stones = user.tombstones.keys() | self.tombstones.keys()
        if len(user.tombstones) < len(stones) > limits.tombstones:
            raise Problem("too_many_dismissals", f"At most {limits.tombstones} unknown ids are remembered.")
        before, after = self._device_dismissals()
        if before < after > limits.device_dismissals:
            raise Problem("too_many_dismissals", f"At most {limits.device_dismissals} dismissals by single devices.")
        known = self.commit.message_id
        if known is not None and known.is_remembered:
            keys = user.message_ids.keys() | {known.key}
            if len(user.message_ids) < len(keys) > limits.message_ids:
                raise Problem("too_many_dismissals", f"At most {limits.message_ids} message ids are remembered.")
        before, after = _count(user.spans), _count({**user.spans, **self.spans})
        if before < after > limits.spans or any(
            len(user.spans.get(where, ())) < len(kept) > limits.spans_per_prefix for where, kept in self.spans.items()
        ):
            raise Problem("too_many_dismissals", f"At most {limits.spans} intervals are remembered.")
        before, after = _count_skips(user.spans), _count_skips({**user.spans, **self.spans})
        if before < after > limits.skipped:
            raise Problem("too_many_dismissals", f"At most {limits.skipped} skipped ids are remembered.")

    def _device_dismissals(self) -> tuple[int, int]:
        """Return the number of dismissals by single devices, before this commit and after it."""
        user = self.user
        live = {**user.live, **self.shown, **self.hidden, **self.born}
        kept = [record for item_id, record in live.items() if record.gone is None and item_id not in self.ended]
        stones = {**user.tombstones, **self.tombstones}
        unknown = [senders for item_id, senders in stones.items() if item_id not in self.born]
        return count_by_device(user), _count_by_device(kept, unknown)

    def outcome(self) -> CommitOutcome:
        """Return all changes. Records in order: those shown again, hidden, ended, born. No id is in two of them."""
        records = {**self.shown, **self.hidden, **self.ended, **self.born}
        announcement, external, digest = None, None, self.user.digest
        if self._has_effect():
            for item_id, record in records.items():
                digest = _moved(digest, self.user.record(item_id), record)
            announcement = self._announcement(digest)
            if self.commit.external is not None:
                said = self.commit.external
                external = KeptExternal(self.commit.now_us, StoredExternal(self.seq, said.system, said.body))
        return CommitOutcome(
            receipt=self._receipt(announcement),
            announcement=announcement,
            records=records,
            tombstones=self.tombstones,
            spans=self.spans,
            epoch=self._epoch(),
            digest=digest,
            agenda=self._agenda(),
            external=external,
            followed=self.reminded[0].item.id if self.reminded and self.commit.has_follow_up else None,
        )

    def _agenda(self) -> agenda.Changes:
        """Return the changes of the user's agenda."""
        changes: agenda.Changes = {}
        count = agenda.count_entries(self.user)
        for record in self.born.values():
            if record.gone is None:
                has_room = self.most_entries is None or count + len(changes) < self.most_entries
                changes |= agenda.entries_opened(record.item, self.commit.now_us, self.user.agenda, has_room=has_room)
        for record in self.ended.values():
            changes |= agenda.entries_closed(record, self.commit.now_us, records_removals=self.commit.records_removals)
        if self.commit.records_removals:
            changes |= agenda.entries_hidden(self.hidden, self.commit.sender.device, self.commit.now_us)
        if self.reminded is not None:
            has_follow_up = self.commit.has_follow_up
            changes |= agenda.entries_reminded(
                *self.reminded, self.seq, self.commit.now_us, has_follow_up=has_follow_up
            )
        return changes

    def _has_effect(self) -> bool:
        commit = self.commit
        if _is_repeat(self.user, commit):
            return False
        is_always = commit.external is not None or commit.is_reset or commit.forget_device is not None
        return is_always or bool(self.born or self.ended or self.hidden or self.reminded)

    def _receipt(self, announcement: Announcement | None) -> Receipt:
        ignored = tuple(self.ignored.items())
        if announcement is None:
            return Receipt(self._epoch(), self.user.seq, is_unchanged=True, ignored=ignored)
        return Receipt(
            epoch=announcement.epoch,
            seq=self.seq,
            created=tuple(item_id for item_id in self.born if item_id not in self.ignored),
            dismissed=(*self.ended, *self.hidden),
            ignored=ignored,
        )

    def _announcement(self, digest: bytes) -> Announcement:
        user, commit = self.user, self.commit
        external = commit.external
        return Announcement(
            kind=self._kind(),
            epoch=self._epoch(),
            seq=self.seq,
            before=user.digest[:8],
            after=digest[:8],
            sender=commit.sender.device,
            reason=commit.reason,
            is_new_epoch=user.seq == 0,
            entries=tuple(self._entries()),
            system=external.system if external else "",
            body=external.body if external else b"",
            spread_s=commit.spread_s if commit.is_reset else 0,
            remind_at_us=self.reminded[0].item.remind_at_us[self.reminded[1]] if self.reminded else 0,
            trace=commit.trace,
        )

    def _kind(self) -> AnnouncementKind:
        if self.reminded is not None:
            return AnnouncementKind.REMIND
        return (
            AnnouncementKind.EXTERNAL
            if self.commit.external
            else AnnouncementKind.RESET
            if self.commit.is_reset
            else AnnouncementKind.UPDATE
        )

    def _epoch(self) -> bytes:
        seed = self.commit.epoch_seed if self.commit.epoch_seed != NO_EPOCH else _FIRST_EPOCH
        epoch = seed if self.user.epoch == NO_EPOCH else self.user.epoch
        if not self.commit.is_reset or _is_repeat(self.user, self.commit):
            return epoch
        following = int.from_bytes(epoch, "big") + 1
        return following.to_bytes(3, "big") if following < 1 << 24 else _FIRST_EPOCH

    def _entries(self) -> Iterable[AnnouncementEntry]:
        if self.reminded is not None:
            yield _entry(self.reminded[0])
        for record in self.born.values():
            if record.gone is None:
                yield _entry(record, pack_item(record.item))
        for record in self.ended.values():
            yield _entry(record)
        for record in self.hidden.values():
            yield AnnouncementEntry(
                record.item.id, record.item.category, None, DeviceScope.ONLY, (self.commit.sender.device,)
            )


def count_by_device(user: UserState) -> int:
    """Return the number of dismissals by single devices: of live items, and of unknown ids after the first one."""
    return _count_by_device(user.live.values(), user.tombstones.values())


def _entry(record: ItemRecord, packed: bytes | None = None) -> AnnouncementEntry:
    """Return the entry of an item that enters or leaves the views of the devices that see it."""
    item = record.item
    if not record.is_shared:
        return AnnouncementEntry(
            item.id, item.category, packed, DeviceScope.ONLY, (BACKEND, item.for_device or BACKEND)
        )
    if record.hidings:
        return AnnouncementEntry(item.id, item.category, packed, DeviceScope.ALL_BUT, tuple(sorted(record.hidings)))
    return AnnouncementEntry(item.id, item.category, packed)


def _by_creation(record: ItemRecord) -> tuple[int, str]:
    return record.seq, record.item.id


def _count(kept: Mapping[IntervalKey, tuple[StoredInterval, ...]]) -> int:
    return sum(map(len, kept.values()))


def _count_by_device(records: Iterable[ItemRecord], tombstones: Iterable[tuple[Tombstone, ...]]) -> int:
    tombstone_units = sum(len(stones) - 1 + sum(map(_filter_units, stones)) for stones in tombstones)
    return sum(len(record.hidings) for record in records) + tombstone_units


def _filter_units(stone: Tombstone) -> int:
    """Return as how many dismissals the category filter of a tombstone counts: one for each 512 bytes."""
    return len(pack_category_filter(stone.sender.category_filter)) // FILTER_UNIT_BYTES


def _count_skips(kept: Mapping[IntervalKey, tuple[StoredInterval, ...]]) -> int:
    return sum(len(remembered.span.skip) for spans in kept.values() for remembered in spans)
