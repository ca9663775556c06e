"""Effects: whether the outcome of a commit is the change that receipts and readers saw."""

from __future__ import annotations

from collections.abc import Iterable

from gregor.core.ids import GREGOR
from gregor.core.items.announcement import Announcement, AnnouncementKind
from gregor.core.items.sync import View
from gregor.core.messages.model import ExternalMessage, Receipt, Update
from gregor.history.evidence import SeenChange
from gregor.history.format import WireReceipt
from gregor.history.messages import SentMessage
from gregor.reference.commit import CommitOutcome
from gregor.reference.model import ItemRecord


def is_receipt_of(expected: Receipt, receipt: WireReceipt) -> bool:
    """Return whether a receipt on the wire equals the receipt of the model, in any order."""
    if expected.is_unchanged != receipt.unchanged or len(expected.created) != len(receipt.created):
        return False
    if len(expected.dismissed) != len(receipt.dismissed) or len(expected.ignored) != len(receipt.ignored):
        return False
    return (
        {*expected.created} == {*receipt.created}
        and {*expected.dismissed} == {*receipt.dismissed}
        and {item_id: why.value for item_id, why in expected.ignored} == receipt.ignored
    )


def may_explain(sent: SentMessage, seen: SeenChange) -> bool:
    """Return whether a message may be the cause of a change, by its time and content: cheaper than to apply it."""
    if seen.at and sent.invoked > seen.at:
        return False  # a reader saw the change before the message was sent
    content = sent.message.content
    if isinstance(content, ExternalMessage):
        return content.system == seen.system and content.body == seen.external
    if not isinstance(content, Update):
        return seen.is_flush
    if seen.system != GREGOR or seen.is_flush or seen.remind or not seen.created.keys() <= set(sent.created_ids):
        return False
    return bool(seen.created or content.intervals or not seen.gone.keys().isdisjoint(content.ids))


def explains(outcome: CommitOutcome, seen: SeenChange) -> bool:
    """Return whether a message had at least the effect that readers saw of a seq."""
    announcement = outcome.announcement
    if announcement is None or announcement.seq != seen.seq:
        return False
    if announcement.kind is AnnouncementKind.EXTERNAL:
        by_device = b',"device":"%s"' % announcement.sender.encode()
        return announcement.system == seen.system and announcement.body.removesuffix(by_device) == seen.external
    if announcement.kind is AnnouncementKind.RESET:
        return seen.is_flush
    if seen.system != GREGOR or seen.is_flush or seen.remind:
        return False
    reasons = {reason for item_id, reason in seen.gone.items() if item_id not in seen.created}
    return reasons <= {None, "dismissed", "interval"} and has_all(outcome, seen)


def has_all(outcome: CommitOutcome, seen: SeenChange) -> bool:
    """Return whether a commit has all arrivals and removals that readers saw at its seq."""
    records, seq = outcome.records, seen.seq
    if any(item_id not in records or records[item_id].seq != seq for item_id in seen.created):
        return False
    return all(item_id in records and _left_at(records[item_id], seq, reason) for item_id, reason in seen.gone.items())


def is_same_for_each_reader(outcome: CommitOutcome, changes: Iterable[SeenChange]) -> bool:
    """Return whether each reader that saw a seq saw exactly its share of the commit."""
    announcement = outcome.announcement
    if announcement is None or announcement.kind is not AnnouncementKind.UPDATE:
        return True
    for change in changes:
        if change.view is None:
            continue
        shown = _shown(announcement, change.view) if change.at else _shown_by_history(outcome, change.seq)
        if shown != ({*change.created}, {*change.gone}):
            return False
    return True


def _shown(announcement: Announcement, view: View) -> tuple[set[str], set[str]]:
    """Return the ids of the arrivals and removals that a live frame shows of a commit."""
    mine = [entry for entry in announcement.entries if entry.concerns(view)]
    created = {entry.id for entry in mine if entry.packed is not None}
    return created, {entry.id for entry in mine if entry.packed is None}


def _shown_by_history(outcome: CommitOutcome, seq: int) -> tuple[set[str], set[str]]:
    """Return the ids of the arrivals and removals that the history of the backend's view shows of a commit."""
    records = outcome.records
    created = {item_id for item_id, record in records.items() if record.seq == seq}
    return created, {item_id for item_id, record in records.items() if record.gone and record.gone.seq == seq}


def shows(record: ItemRecord, seq: int) -> bool:
    """Return whether the history of the backend's view shows a change of a record at ``seq``."""
    return record.seq == seq or (record.gone is not None and record.gone.seq == seq)


def _left_at(record: ItemRecord, seq: int, reason: str | None) -> bool:
    """Return whether a record left at ``seq``, for ``reason`` if it is known (frames do not say it)."""
    removals = [record.gone, *record.hidings.values()]
    return any(
        removal is not None and removal.seq == seq and reason in (None, removal.reason.wire_name)
        for removal in removals
    )


def is_dismissal(content: object) -> bool:
    """Return whether a message dismisses something."""
    return isinstance(content, Update) and bool(content.ids or content.intervals)
