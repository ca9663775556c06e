"""Branches: the surviving history of a user, and what failovers cut off.

A failover may lose the last messages that the old primary acknowledged. The new primary then uses their seqs again.
Each recorded failover may therefore cut off one branch; without a recorded failover there is one history. Messages
without a known outcome may be on a lost branch as well, so what readers saw of it is not compared with a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gregor.core.messages.model import ExternalMessage

from .evidence import SeenChange, UserEvidence
from .format import FaultOp, ReadOp, WireEntry
from .messages import SentMessage

SECOND_NS = 1_000_000_000


@dataclass(slots=True)
class LostBranch:
    """What one failover cut off.

    ``fork``: the first seq that readers may have seen on it. ``lost``: the acknowledged messages that did not survive.
    """

    failover: FaultOp
    fork: int
    lost: list[SentMessage] = field(default_factory=list)

    until: int = 0
    """The first seq of a message that was sent after the failover: before it, the two histories may be confused."""

    @property
    def uncertain(self) -> range:
        """The seqs that may belong to the lost branch or to the surviving history, unless there is a proof."""
        return range(self.fork, self.until)

    def may_hold(self, seq: int, at_ns: int) -> bool:
        """Return whether a reader may have seen ``seq`` of the lost branch at a moment."""
        return seq >= self.fork and _is_inside(at_ns, at_ns, self.failover)


@dataclass(slots=True)
class Branches:
    """Acknowledged messages and seen changes: those of the surviving history, and those that failovers lost.

    ``uncertain``: messages without an effect, such as the dismissal of an unknown id. A failover may have lost the
    dismissals that they stored.
    """

    surviving: list[SentMessage]
    changes: dict[int, list[SeenChange]]
    lost: list[LostBranch] = field(default_factory=list)
    uncertain: list[SentMessage] = field(default_factory=list)


def split_branches(
    acknowledged: Sequence[SentMessage], reads: Iterable[ReadOp], evidence: UserEvidence, failovers: Sequence[FaultOp]
) -> Branches:
    """Return the branches of a user. ``failovers``: those that concern the user, by time."""
    if not failovers:
        return Branches(list(acknowledged), evidence.changes)
    split = Branches(list(acknowledged), evidence.changes)
    final = _FinalState(reads, evidence)
    # The last failover first: what it lost cannot prove anything about those before it.
    for failover in reversed(failovers):
        split = _cut(split, LostBranch(failover, _fork(split, failover, final)), final)
    split.lost.reverse()
    return split


def _fork(split: Branches, failover: FaultOp, final: _FinalState) -> int:
    """Return the first seq that a failover may have lost: lost for certain, or used after it."""
    inside = [each for each in split.surviving if _is_inside(each.op.invoked, each.op.ended, failover)]
    after = [each.seq for each in split.surviving if each.has_effect and each.op.invoked > failover.ended]
    seen = [change for changes in split.changes.values() for change in changes]
    shown = [change for change in seen if change.at >= failover.ended and not change.is_empty]
    after += [change.seq for change in shown if not change.is_resumed or _replaces(change, inside)]
    first_after = min(after, default=1 << 60)
    # A lost flush shows in the epochs: those of later receipts are smaller.
    epochs = [int(each.epoch, 16) for each in split.surviving if each.epoch and each.op.invoked > failover.ended]
    epoch = min(epochs, default=1 << 24)
    lost = [
        each.seq
        for each in inside
        if each.has_effect and (final.lacks(each) or each.seq >= first_after or int(each.epoch, 16) > epoch)
    ]
    has_lost_flush = any(each.epoch and int(each.epoch, 16) > epoch for each in inside)
    lost += [
        change.seq
        for change in seen
        if change.is_flush
        and has_lost_flush
        and change.at < failover.began
        and _is_inside(change.at, change.at, failover)
    ]
    lost += [
        change.seq
        for change in seen
        if change.at and _is_inside(change.at, change.at, failover) and final.lacks_change(change)
    ]
    return min([first_after, *lost])


def _replaces(change: SeenChange, inside: Iterable[SentMessage]) -> bool:
    """Return whether an external message has the seq of another message, which the failover therefore lost."""
    for each in inside:
        if each.seq == change.seq and each.has_effect:
            content = each.message.content
            known = isinstance(content, ExternalMessage) and (content.system, content.body)
            return known != (change.system, change.external)
    return False


def _cut(split: Branches, lost: LostBranch, final: _FinalState) -> Branches:
    """Move everything at or after the fork that is not proved to have survived to the lost branch."""
    failover, fork = lost.failover, lost.fork
    inside = {id(each) for each in split.surviving if _is_inside(each.op.invoked, each.op.ended, failover)}
    sure = {each.seq for each in split.surviving if each.has_effect and id(each) not in inside}
    sure |= {each.seq for each in split.surviving if id(each) in inside and final.proves(each)}
    kept = Branches([], {}, [*split.lost, lost], split.uncertain)
    for each in split.surviving:
        is_before = each.op.ended < failover.began
        is_beyond = each.seq >= fork if each.has_effect else each.seq > fork or (each.seq == fork and is_before)
        is_lost = id(each) in inside and is_beyond and not final.proves(each)
        if is_lost and not is_before and not final.lacks(each):
            is_lost = each.seq in sure or each.seq > final.seq
        if not is_lost:
            kept.surviving.append(each)
        elif each.has_effect or final.lacks(each):
            lost.lost.append(each)
        else:
            kept.uncertain.append(each)
    for change in (change for changes in split.changes.values() for change in changes):
        is_inside = change.at and _is_inside(change.at, change.at, failover)
        is_lost = bool(is_inside) and change.seq >= fork and (change.at < failover.began or final.lacks_change(change))
        if not is_lost:
            kept.changes.setdefault(change.seq, []).append(change)
    _move_reused(kept, lost)
    # Seqs without an acknowledged message may be lost from right after the last one that is proved to be common.
    common = (each.seq for each in kept.surviving if each.op.ended < failover.began and final.proves(each))
    lost.fork = min(fork, max(common, default=0) + 1)
    after = (each.seq for each in kept.surviving if each.has_effect and each.op.invoked > failover.ended)
    lost.until = min(after, default=final.seq + 1)
    return kept


def _move_reused(kept: Branches, lost: LostBranch) -> None:
    """Move the earlier one of two surviving messages with the same seq, such as a message and its repeat."""
    last: dict[int, SentMessage] = {}
    for each in sorted((each for each in kept.surviving if each.has_effect), key=lambda each: each.op.ended):
        before = last.get(each.seq)
        if before is not None and _is_inside(before.op.invoked, before.op.ended, lost.failover):
            kept.surviving.remove(before)
            lost.lost.append(before)
        last[each.seq] = each


def _by_seq(entries: Iterable[WireEntry]) -> dict[int, set[str]]:
    shown: dict[int, set[str]] = {}
    for entry in entries:
        shown.setdefault(entry.seq, set()).add(entry.id)
        if entry.gone is not None:
            shown.setdefault(entry.gone.seq, set()).add(entry.id)
    return shown


def _is_inside(began: int, ended: int, failover: FaultOp) -> bool:
    """Return whether a failover may have lost what happened between two moments."""
    return began <= failover.ended and ended >= failover.began - failover.window_s * SECOND_NS


class _FinalState:
    """What the last complete reads show: the proof that a message survived, or that it did not."""

    def __init__(self, reads: Iterable[ReadOp], evidence: UserEvidence) -> None:
        self._evidence = evidence
        self._entries: dict[str, WireEntry] = {}
        self._shown: dict[int, set[str]] = {}
        self._read_at = self._state_at = self.seq = 0
        for op in reads:
            if op.outcome != "ok" or op.answer is None or op.device is not None or op.categories is not None:
                continue
            if op.kind == "history" and not op.partial and op.invoked >= self._read_at:
                self._entries = {entry.id: entry for entry in op.answer.entries}
                self._read_at = op.invoked
                self._shown = _by_seq(op.answer.entries)
            elif op.kind == "state" and op.answer.cursor and op.invoked >= self._state_at:
                self._state_at, self.seq = op.invoked, int(op.answer.cursor.rpartition("-")[2])

    def lacks(self, sent: SentMessage) -> bool:
        """Return whether an acknowledged message is certainly not in the final state."""
        if sent.has_effect and sent.op.ended < self._state_at and sent.seq > self.seq:
            return True
        return sent.op.ended < self._read_at and (self._has_other(sent) or not all(self._proofs(sent)))

    def _has_other(self, sent: SentMessage) -> bool:
        """Return whether the history shows the effect of another message at the same seq."""
        receipt = sent.op.receipt
        if receipt is None or not sent.has_effect:
            return False
        named = {*receipt.created, *receipt.dismissed, *receipt.ignored}
        return not self._shown.get(sent.seq, set()) <= named

    def lacks_change(self, change: SeenChange) -> bool:
        """Return whether a change that a reader saw is certainly not in the final state."""
        if change.at < self._state_at and change.seq > self.seq:
            return True
        if change.at >= self._read_at:
            return False
        entries = self._entries
        is_created = all(item_id in entries and entries[item_id].seq == change.seq for item_id in change.created)
        return not (is_created and all(self._is_gone_at(item_id, change.seq) for item_id in change.gone))

    def _is_gone_at(self, item_id: str, seq: int) -> bool:
        versions, entry = self._evidence.versions.get(item_id), self._entries.get(item_id)
        if entry is not None and versions and versions[-1].is_hidden_by_each:
            return True  # one device may have hidden it, which the backend's history does not show
        return entry is not None and entry.gone is not None and entry.gone.seq == seq

    def proves(self, sent: SentMessage) -> bool:
        """Return whether the history shows an effect of the message at its seq."""
        proofs = self._proofs(sent) if sent.has_effect else ()
        return bool(proofs) and all(proofs)

    def _proofs(self, sent: SentMessage) -> list[bool]:
        """Return for each effect that the history can show whether it shows it."""
        receipt = sent.op.receipt
        if receipt is None:
            return []
        proofs = []
        for item_id in receipt.created:
            entry = self._entries.get(item_id)
            proofs.append(entry is not None and entry.seq == sent.seq)
        for item_id, why in receipt.ignored.items():
            entry = self._entries.get(item_id)
            proofs += [entry is not None and entry.seq <= sent.seq] if why != "stale" else []
        for item_id in receipt.dismissed:
            versions = self._evidence.versions.get(item_id)
            if sent.sender.device and (not versions or versions[-1].is_hidden_by_each):
                continue  # the backend's history does not show what one device hides
            entry = self._entries.get(item_id)
            proofs.append(entry is not None and entry.gone is not None and entry.gone.seq == sent.seq)
        return proofs
