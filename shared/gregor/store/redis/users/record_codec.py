"""Packed values that Python shares with the scripts, in the layouts of ``lua/codec.lua``. Pure.

Other places have the same rules: see semantics.md, "Where each rule lives".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gregor.core.category_filter import pack_category_filter
from gregor.core.formats import UnknownFormat
from gregor.core.ids import BACKEND, EVERY_DEVICE, MAX_NAME_LENGTH, is_allowed
from gregor.core.items.codec import PackedItem, pack_item, unpack_item
from gregor.core.items.sync import (
    NO_EPOCH,
    ZERO_DIGEST,
    Cursor,
    HistoryEntry,
    Removal,
    StoredExternal,
    StoredItem,
    View,
)
from gregor.core.limits import Limits
from gregor.core.messages.model import Commit, Creation, RemovalReason, ResolvedInterval
from gregor.store.contract.store import UnreadableValue
from gregor.store.exported import RememberedInterval

_COMMIT = struct.Struct(">Q8sHHHccH3sQ24sQ32sH")
_LIVE, _AGES, _COUNTS = struct.Struct(">II"), struct.Struct(">QQQ"), struct.Struct(">IIIIHHIII")
_SPAN = struct.Struct(">QQBHH")
_READER = struct.Struct(">c?QQ3s")

REMEMBER, DRAIN, GENERAL, EXTRAS, TIMERS, GUARDED, REHEARSAL, RECORD_REMOVALS = 1, 2, 4, 8, 16, 32, 64, 128
TRACED, KNOWN = 256, 512
"""Option bits of a commit; `lua/commit/commit.lua` explains each of them."""


SEARCH_HERE: Final = b"w"
"""The script of the commit scans all live items for its intervals."""


def _pack_timers(creation: Creation) -> bytes:
    return b"".join(timer.kind.value.encode() + timer.at_us.to_bytes(7, "big") for timer in creation.timers)


_REASON: Final = {reason: reason.value.encode() for reason in RemovalReason}


def _kind(commit: Commit) -> bytes:
    """Return the letter of the commit's kind in the script."""
    if commit.creations:
        return b"u"
    if commit.external is not None:
        return b"e"
    if commit.is_reset:
        return b"f"
    if commit.forget_device is not None:
        return b"d"
    return b"r" if commit.remind is not None else b"k" if commit.keep else b"u"


# ---- arguments of a commit

_LENGTHS: Final = tuple(bytes((length,)) for length in range(MAX_NAME_LENGTH + 1))
"""The byte before a packed name: its length."""


def pack_span(span: ResolvedInterval) -> list[bytes | str]:
    """Return the arguments of one interval."""
    bits = (1 if span.is_open else 0) + (2 if span.is_prefix else 0)
    own = span.matches_own if span.is_open else ()
    arguments: list[bytes | str] = [_SPAN.pack(span.begin_us, span.end_us, bits, len(span.skip), len(own))]
    arguments.append(span.category)
    if span.skip:
        # Packed as they are stored: as arguments, each of up to 10,000 ids would cost Redis 1 µs.
        arguments.append(b"".join([_LENGTHS[len(each)] + each.encode() for each in sorted(span.skip)]))
    return [*arguments, *own]


@dataclass(frozen=True, slots=True)
class CommitLimits:
    """The bounds that the script needs, packed in its order; they are equal for all commits."""

    live: bytes
    ages: bytes
    counts: bytes


def commit_limits(limits: Limits) -> CommitLimits:
    """Return the packed bounds of a deployment (semantics.md, "Bounds")."""
    return CommitLimits(
        _LIVE.pack(limits.live, limits.live_bytes),
        _AGES.pack(limits.retention_us, limits.history_body_age_us, limits.external_age_us),
        _COUNTS.pack(
            limits.tombstones,
            limits.history_bodies,
            limits.external_count,
            limits.external_bytes,
            limits.spans,
            limits.spans_per_prefix,
            limits.skipped,
            limits.message_ids,
            limits.device_dismissals,
        ),
    )


def commit_arguments(
    commit: Commit, limits: CommitLimits, options: int = 0, search: bytes = SEARCH_HERE
) -> list[bytes | str]:
    """Return ARGV of ``commit``; see ``lua/commit/commit.lua``. ``search``: how to find the items of intervals."""
    message_id = commit.message_id
    if message_id is not None and message_id.is_remembered:
        options |= REMEMBER
    is_limited = commit.ids or commit.spans or commit.forget_device is not None
    category_filter = commit.sender.category_filter if is_limited else None
    if message_id is not None or category_filter is not None:
        options |= EXTRAS
    has_timers = any(creation.timers for creation in commit.creations)
    if has_timers or commit.has_follow_up:
        options |= TIMERS
    options |= (GUARDED if commit.is_conditional else 0) | (RECORD_REMOVALS if commit.records_removals else 0)
    packed = _COMMIT.pack(
        commit.now_us,
        limits.live,
        len(commit.creations),
        len(commit.ids),
        len(commit.spans),
        _kind(commit),
        _REASON[commit.reason],
        options,
        commit.epoch_seed,
        commit.sender.issued_us,
        limits.ages,
        message_id.keep_us if message_id else 0,
        limits.counts,
        commit.spread_s,
    )
    arguments: list[bytes | str] = [packed + commit.sender.device.encode()]
    if options & EXTRAS:
        arguments.append(pack_category_filter(category_filter))
        arguments += (message_id.key, message_id.content) if message_id else ("", b"")
    _add_content(arguments, commit, search, has_timers=has_timers)
    if options & TRACED:
        arguments.append(commit.trace)
    return arguments


def pack_commit_fast(commit: Commit, limits: CommitLimits) -> bytes:
    """Return the first argument of a commit that only creates one item without timers."""
    packed = _COMMIT.pack(
        commit.now_us,
        limits.live,
        1,
        0,
        0,
        b"u",
        b"d",
        0,
        commit.epoch_seed,
        commit.sender.issued_us,
        limits.ages,
        0,
        limits.counts,
        commit.spread_s,
    )
    return packed + commit.sender.device.encode()


def _add_content(arguments: list[bytes | str], commit: Commit, search: bytes, *, has_timers: bool) -> None:
    """Append the arguments of the commit's content."""
    for creation in commit.creations:
        arguments += (creation.id, pack_item(creation))
        if has_timers:
            arguments.append(_pack_timers(creation))
    arguments += commit.ids
    if commit.spans:
        arguments.append(search)
    for span in commit.spans:
        arguments += pack_span(span)
    if commit.external:
        arguments += (commit.external.system, commit.external.body)
    elif commit.forget_device is not None:
        arguments.append(commit.forget_device)
    else:
        for name, number in (commit.remind,) if commit.remind is not None else commit.keep:
            arguments += (name, str(number))


_HEAD_KIND: Final = ord("H")
RECORD_KINDS: Final = frozenset([b"L", b"G", b"T"])
"""First bytes of stored records: live, gone, and dismissed before the creation."""
HEAD = ".h"
"""The field of a user's state that holds the head."""
COUNTS = ".c"
"""The field that holds the counts."""


# ---- head and counts


@dataclass(frozen=True, slots=True)
class UserHead:
    """The decoded head of a user. ``wake_us``: when housekeeping is due (0: never). ``live_bytes`` counts JSON."""

    epoch: bytes
    seq: int
    wake_us: int
    live_bytes: int
    digest: bytes


NO_HEAD = UserHead(NO_EPOCH, 0, 0, 0, ZERO_DIGEST)
"""The head of a user that was never seen."""


def decode_head(raw: bytes) -> UserHead:
    """Return the head from its 63 bytes. Raises ``UnreadableValue`` if it has another format."""
    if raw[0] != _HEAD_KIND:
        raise UnreadableValue("head", raw[0])
    return UserHead(
        epoch=raw[1:4],
        seq=int.from_bytes(raw[4:9], "big"),
        wake_us=_us(raw, 16),
        live_bytes=int.from_bytes(raw[25:28], "big"),
        digest=raw[31:63],
    )


def decode_floors(raw: bytes) -> tuple[int, int]:
    """Return the lowest seq from which a delta is possible, and the seq up to which external messages are not kept."""
    return int.from_bytes(raw[7:12], "big"), int.from_bytes(raw[17:22], "big")


def decode_device_dismissals(raw: bytes) -> int:
    """Return how many dismissals by single devices the counts record. Empty: no counts are stored."""
    return int.from_bytes(raw[40:44], "big")


def decode_gone_hidings(raw: bytes) -> int:
    """Return how many hidings of gone items began with their item. Empty: no counts are stored."""
    return int.from_bytes(raw[44:48], "big")


def decode_bodies(raw: bytes) -> tuple[int, int]:
    """Return a seq, and the number of gone items up to it that have a body. ``raw``: empty if no counts are stored."""
    trimmed_to, counted_to = int.from_bytes(raw[12:17], "big"), int.from_bytes(raw[48:53], "big")
    # As in collect.lua: no gone item up to `trimmed_to` has a body, and `bodies` is 0 unless `counted_to` is later.
    return (counted_to, int.from_bytes(raw[53:56], "big")) if counted_to > trimmed_to else (trimmed_to, 0)


def pack_reader(mode: str, cursor: Cursor | None, epoch: bytes, device: str, now_us: int, *, is_quick: bool) -> bytes:
    """Return ARGV of ``sync``; see ``lua/commit/sync.lua``."""
    seq = cursor.seq if cursor else 0
    return _READER.pack(mode.encode(), is_quick, now_us, seq, epoch) + device.encode()


def _us(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 7], "big")


# Not frozen: a full copy creates one for each item, and creating a frozen one takes twice as long.
# ---- live records


@dataclass(slots=True)
class LiveRecord:
    """A decoded live record."""

    id: str
    seq: int
    item: PackedItem

    @property
    def hidings(self) -> dict[str, Removal]:
        """The hiding of each device that dismissed the item for itself."""
        return _hidings(self.item.hidings)

    def is_for(self, view: View) -> bool:
        """Return whether the item is for the view's device, hidden or not, and in its categories."""
        device = self.item.device
        if device not in (BACKEND, EVERY_DEVICE, view.device) and view.device != BACKEND:
            return False
        return is_allowed(view.category_filter, self.item.category)

    def is_in(self, view: View) -> bool:
        """Return whether the view shows the item."""
        return self.is_for(view) and (not self.item.hidings or self.hidden(view) is None)

    def stored(self) -> StoredItem:
        """Return the item for callers of the store."""
        item = self.item
        return StoredItem(self.id, item.category, item.created_us, self.seq, item.json(), item.expires_us, item.leaf)

    @property
    def live(self) -> LiveRecord:
        """The record itself: live and gone records have the same interface."""
        return self

    def hidden(self, view: View) -> Removal | None:
        """Return when and how the view's device hid the item, or ``None``."""
        return find_hiding(self.item.hidings, view.device)

    def was_shown(self, view: View, at_us: int) -> bool:
        """Return whether the view had the item at a time, as far as is known now (semantics.md, "History")."""
        hidden, expires_us = self.hidden(view), self.item.expires_us
        is_over = (hidden is not None and hidden.at_us <= at_us) or (expires_us is not None and expires_us <= at_us)
        return self.item.created_us <= at_us and not is_over

    def entry(self, view: View) -> HistoryEntry:
        """Return the history entry of this view."""
        item = self.item
        return HistoryEntry(self.id, item.category, item.created_us, self.seq, item.json(), self.hidden(view))


def decode_live(item_id: str, seq: int, raw: bytes, start: int = 0) -> LiveRecord:
    """Return the live record that begins at ``start`` of ``raw``. Raises ``UnreadableValue``: another format."""
    try:
        item = unpack_item(raw, start)
    except UnknownFormat as error:
        raise UnreadableValue(error.kind, error.first) from error
    return LiveRecord(item_id, seq, item)


_LENGTHS_AT, _NAMES_AT = 20, 62


def packed_group(raw: bytes) -> tuple[int, bytes]:
    """Return the category and ``for_device`` of a live record as ``group_of`` does, without decoding the record."""
    category_length, device_length = raw[_LENGTHS_AT], raw[_LENGTHS_AT + 1]
    return category_length, raw[_NAMES_AT : _NAMES_AT + category_length + device_length]


def group_of(category: str, for_device: str | None) -> tuple[int, bytes]:
    """Return a category and a ``for_device`` in the form that ``packed_group`` finds."""
    return len(category.encode()), (category + (for_device or "")).encode()


_AFTER_DEVICE: Final = 13
"""Bytes of a hiding after the name of its device: seq 5, time 7, reason 1."""


def find_hiding(raw: bytes, device: str) -> Removal | None:
    """Return the hiding of one device among the packed ones of an item.

    The other hidings are not decoded: a user may have 10,000, which takes 17 ms.
    """
    if not raw or device == BACKEND:
        return None
    name = bytes((len(device),)) + device.encode()
    at, start = raw.find(name), 0
    while 0 <= start < at:
        start += 1 + raw[start] + _AFTER_DEVICE
        # A longer name may contain these bytes: compare whole names.
        if start > at:
            at = raw.find(name, start)
    return _hiding(raw, at) if at >= 0 else None


def _hidings(raw: bytes) -> dict[str, Removal]:
    at = 0
    hidings: dict[str, Removal] = {}
    while at < len(raw):
        hiding = _hiding(raw, at)
        hidings[hiding.device or ""] = hiding
        at += 1 + raw[at] + _AFTER_DEVICE
    return hidings


def _hiding(raw: bytes, at: int) -> Removal:
    """Return the hiding that begins at ``at``."""
    end = at + 1 + raw[at]
    reason = RemovalReason(chr(raw[end + 12]))
    return Removal(_us(raw, end + 5), reason, raw[at + 1 : end].decode(), int.from_bytes(raw[end : end + 5], "big"))


def record_kind(raw: bytes) -> bytes:
    """Return the letter of a stored record: ``L`` live, ``G`` gone, ``T`` tombstone.

    Raises ``UnreadableValue`` if the record has another format.
    """
    letter = raw[:1]
    if letter not in RECORD_KINDS:
        raise UnreadableValue("record", raw[0])
    return letter


# ---- gone records, external messages


@dataclass(frozen=True, slots=True)
class GoneRecord:
    """A decoded gone record: the item as it was, and its removal."""

    live: LiveRecord
    gone: Removal

    def was_shown(self, view: View, at_us: int) -> bool:
        """Return whether the view had the item at a time, as far as is known now."""
        return self.gone.at_us > at_us and self.live.was_shown(view, at_us)

    def entry(self, view: View) -> HistoryEntry:
        """Return the history entry. Its end is the hiding if the view lost the item before it was removed for all."""
        live, item = self.live, self.live.item
        gone = live.hidden(view) or self.gone
        is_trimmed = not item.body
        return HistoryEntry(live.id, item.category, item.created_us, live.seq, item.json(), gone, is_trimmed=is_trimmed)


def decode_gone(item_id: str, raw: bytes) -> GoneRecord:
    """Return a gone record. Raises ``UnreadableValue`` if it has another format."""
    if raw[:1] != b"G":
        raise UnreadableValue("record", raw[0])
    length = raw[19]
    device_name = raw[20 : 20 + length].decode()
    live = decode_live(item_id, int.from_bytes(raw[6:11], "big"), raw, 20 + length)
    gone = Removal(
        at_us=_us(raw, 11),
        reason=RemovalReason(chr(raw[18])),
        device=device_name or None,
        seq=int.from_bytes(raw[1:6], "big"),
    )
    return GoneRecord(live, gone)


def decode_tombstones(raw: bytes) -> Iterator[tuple[int, str, str]]:
    """Yield time (µs), device and packed category filter of each dismissal of an unknown id."""
    at = 1
    while at < len(raw):
        device_end = at + 8 + raw[at + 7]
        filter_end = device_end + 2 + int.from_bytes(raw[device_end : device_end + 2], "big")
        yield _us(raw, at), raw[at + 8 : device_end].decode(), raw[device_end + 2 : filter_end].decode()
        at = filter_end


def decode_intervals(field: bytes, raw: bytes) -> Iterator[RememberedInterval]:
    """Yield the remembered intervals of a field: ``s:`` and a prefix, or ``s=`` and a category."""
    at = 0
    while at < len(raw):
        device_end = at + 2 + raw[at + 1]
        device = raw[at + 2 : device_end].decode()
        begin_us, end_us, accepted_us = (_us(raw, device_end + 7 * i) for i in range(3))
        skip, count = [], int.from_bytes(raw[device_end + 21 : device_end + 23], "big")
        at = device_end + 23
        for _ in range(count):
            skip.append(raw[at + 1 : at + 1 + raw[at]].decode())
            at += 1 + raw[at]
        category, is_prefix = field[2:].decode(), field[:2] == b"s:"
        yield RememberedInterval(category, is_prefix, device, begin_us, end_us, accepted_us, tuple(skip))


def decode_external(raw: bytes) -> tuple[StoredExternal, int]:
    """Return a stored external message and its time (µs)."""
    length = raw[12]
    external = StoredExternal(int.from_bytes(raw[:5], "big"), raw[13 : 13 + length].decode(), raw[13 + length :])
    return external, int.from_bytes(raw[5:12], "big")
