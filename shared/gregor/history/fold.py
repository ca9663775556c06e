"""Fold: one user's messages applied by seq to the reference model, and compared with their receipts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field

from gregor.core.errors import Problem
from gregor.core.ids import EVERY_DEVICE, GREGOR, covers
from gregor.core.items.announcement import AnnouncementKind
from gregor.core.items.sync import NO_EPOCH
from gregor.core.messages.model import Commit, ExternalMessage, Receipt, Update
from gregor.reference.commit import CommitOutcome, apply_outcome, decide
from gregor.reference.model import ItemRecord, UserState

from .anomalies import Anomaly
from .evidence import SeenChange, UserEvidence
from .format import WireReceipt
from .messages import LIMITS, Planner, SentMessage, describe
from .server_commits import ServerCommits
from .views import ReaderKey, ViewLog

Changes = Callable[[int], SeenChange | None]
"""Returns what readers saw of a seq."""


@dataclass(slots=True)
class Applied:
    """A message that took effect at a seq. ``ended``: the end of its request in ns; 0 if the server made the commit.

    ``is_guess``: no reader saw it at this seq; another message of unknown outcome may have it as well.
    """

    seq: int
    ended: int
    line: int
    words: str = ""
    is_guess: bool = False


@dataclass
class UserLog:
    """The history of one user: the model after the last seq, each view, and the findings.

    ``applied``: by seq. ``epochs``: the first seq of each epoch, with its six hex digits. ``history_until``: up
    to this seq, ``changes`` has every creation and removal, from a read of the whole history.
    """

    uid: str
    planner: Planner
    changes: Changes
    evidence: UserEvidence
    is_complete: bool
    history_until: int
    views: dict[ReaderKey, ViewLog]
    model: UserState = field(default_factory=UserState)
    applied: dict[int, Applied] = field(default_factory=dict)
    epochs: list[tuple[int, str]] = field(default_factory=list)
    findings: list[Anomaly] = field(default_factory=list)
    is_epoch_known: bool = False
    """Whether a receipt confirmed the epoch; before, it is a guess."""
    repeated: set[tuple[str, str]] = field(default_factory=set)
    """Sender and id of messages of which an acknowledged attempt had an effect: no earlier attempt had one."""
    pending: list[SentMessage] = field(default_factory=list)
    """Messages with an unknown outcome, and delayed ones, that have not been placed yet."""
    is_uncertain: Callable[[int], bool] = lambda _: False
    """Whether a seq lies where a failover may have confused two histories."""
    adopted: list[SentMessage] = field(default_factory=list)
    """Messages of which only a later receipt showed that they were applied, but not at which seq."""

    def __post_init__(self) -> None:
        self.server = ServerCommits(self.planner)

    @property
    def seq(self) -> int:
        """The last seq."""
        return self.model.seq

    @property
    def epoch(self) -> str:
        """The last epoch, as six hex digits."""
        return self.model.epoch.hex()

    def epoch_at(self, seq: int) -> str:
        """Return the epoch of a seq; empty before the first."""
        found = ""
        for first, epoch in self.epochs:
            if first > seq:
                break
            found = epoch
        return found

    def find(self, name: str, text: str, *lines: int) -> None:
        """Add a finding."""
        self.findings.append(Anomaly(name, self.uid, text, tuple(line for line in lines if line)))

    def may_be_hidden(self, item_id: str, device: str) -> bool:
        """Return whether a device may have dismissed an item for itself, by a message of unknown outcome.

        No reader sees the seq of such a message, and the history of the backend's view does not show its effect.
        """
        record = self.model.record(item_id)
        if record is None or not device or record.item.for_device != EVERY_DEVICE:
            return False
        category = record.item.category
        for sent in (*self.pending, *self.adopted):
            content = sent.message.content
            if sent.sender.device != device or not isinstance(content, Update):
                continue
            if item_id in content.ids or any(
                covers(each.category, category) if each.is_prefix else each.category == category
                for each in content.intervals
            ):
                return True
        return False

    # ---- the fold

    def fold(self, acknowledged: Sequence[SentMessage], last_seq: int, epoch: bytes = NO_EPOCH) -> None:
        """Apply all messages in the order of their seq, and fill the seqs between them up to ``last_seq``.

        ``epoch``: that of the first known position.
        """
        if epoch != NO_EPOCH:
            self.model.epoch = epoch
            self.epochs.append((0, epoch.hex()))
        for sent in acknowledged:
            if sent.message.id is not None and sent.has_effect:
                self.repeated.add((sent.sender.device, sent.message.id))
        for sent in sorted(acknowledged, key=_by_seq):
            effect = sent.has_effect
            self._fill(sent.seq - 1 if effect else sent.seq, sent)
            if effect and sent.seq <= self.seq:
                other = self.applied.get(sent.seq)
                words = f"seq {sent.seq} has two messages: {other.words if other else 'an effect'}; {describe(sent)}"
                self.find("duplicate", words, other.line if other else 0, sent.op.line)
                continue
            self._apply(sent)
        self._fill(last_seq, None)

    def _apply(self, sent: SentMessage) -> None:
        receipt = sent.op.receipt or WireReceipt()
        first: tuple[Commit, CommitOutcome] | None = None
        try:
            for commit in self.planner.commits(sent):
                outcome = decide(self.model, commit, LIMITS)
                if is_receipt_of(outcome.receipt, receipt):
                    self._accept(sent, commit, outcome)
                    return
                first = first or (commit, outcome)
            if first is None or self._accept_after_pending(sent, receipt):
                return
        except Problem as problem:
            self.find("wrong-receipt", f"the laws refuse {describe(sent)} with {problem.code}", sent.op.line)
            return
        self._explain_receipt(sent, receipt, first[1].receipt)
        self._accept(sent, *first)

    def _accept(self, sent: SentMessage, commit: Commit, outcome: CommitOutcome) -> None:
        is_guess = sent.is_external and self.is_uncertain(sent.seq)
        self._commit(commit, outcome, Applied(sent.seq, sent.op.ended, sent.op.line, is_guess=is_guess), sent)
        if sent.has_effect and self.seq < sent.seq:
            self.model.seq = sent.seq
        is_sure, self.is_epoch_known = self.is_epoch_known, self.is_epoch_known or sent.seq > 0
        if not sent.epoch or sent.epoch == self.epoch:
            return
        if is_sure:
            words = f"the epoch changed from {self.epoch} to {sent.epoch} without a flush; the older state is gone"
            self.find("lost-write", words, sent.op.line)
        self.model.epoch = bytes.fromhex(sent.epoch)
        self.epochs.append((self.seq, sent.epoch))

    def _accept_after_pending(self, sent: SentMessage, receipt: WireReceipt) -> bool:
        """Return whether a message without a known outcome explains a receipt: it was applied before, without a seq."""
        for before, trial in self._trials(sent):
            for commit in self.planner.commits(sent):
                outcome = decide(trial, commit, LIMITS)
                if is_receipt_of(outcome.receipt, receipt):
                    self._adopt(before, trial)
                    self._accept(sent, commit, outcome)
                    return True
        return False

    def _adopt(self, before: SentMessage, trial: UserState) -> None:
        """Take the state in which a pending message was applied, at a seq that was filled by a guess."""
        self.model = trial
        self.pending.remove(before)
        self.adopted.append(before)
        for log in self.views.values():
            log.recompute(self.model, self.seq, before.op.line)

    def _trials(self, sent: SentMessage) -> Iterator[tuple[SentMessage, UserState]]:
        """Yield each pending message that may have been applied before ``sent`` without a seq, and the state after it.

        Such a message dismissed what was not known yet: only its later effect shows that it was applied. Items that
        are live now may have come after it, so only the facts that it stores are added.
        """
        for before in list(self.pending):
            is_repeat = before.message.id is not None and before.message.id == sent.message.id
            is_relevant = is_repeat or is_dismissal(before.message.content)
            if before is sent or before.invoked > sent.op.ended or before.is_delayed or not is_relevant:
                continue
            commit = next(self.planner.commits(before))
            outcome = decide(self.model, commit, LIMITS)
            trial = _copy(self.model)
            trial.spans.update(outcome.spans)
            trial.tombstones.update(outcome.tombstones)
            known = commit.message_id
            if known is not None and known.is_remembered:
                trial.message_ids[known.key] = (known.content, known.keep_us)
            yield before, trial
            if before.sender.device and not any(_shows(r, outcome.receipt.seq) for r in outcome.records.values()):
                # It only hid items of its device, which the history of the backend's view does not show.
                trial = _copy(self.model)
                apply_outcome(trial, commit, outcome, LIMITS)
                trial.seq = self.model.seq
                yield before, trial

    def _commit(self, commit: Commit, outcome: CommitOutcome, applied: Applied, sent: SentMessage | None) -> None:
        """Apply the outcome of a commit to the model and to the views."""
        announcement = outcome.announcement
        if announcement is not None:
            leaves = {item_id: int.from_bytes(r.item.leaf, "big") for item_id, r in outcome.records.items()}
            for log in self.views.values():
                log.add(announcement, leaves, applied.ended, applied.line, is_silent=applied.is_guess)
            applied.seq = announcement.seq
            self.applied[announcement.seq] = applied
            applied.words = describe(sent) if sent is not None else applied.words
        before = self.model.epoch
        apply_outcome(self.model, commit, outcome, LIMITS)
        if self.model.epoch != before and self.model.epoch != NO_EPOCH:
            self.epochs.append((self.seq, self.epoch))
        if commit.forget_device is not None:
            self.server.note_forgotten(commit.forget_device)
            for log in self.views.values():
                if log.key.view.device == commit.forget_device:
                    log.recompute(self.model, self.seq, applied.line)

    # ---- seqs without an acknowledged message

    def _fill(self, until: int, following: SentMessage | None) -> None:
        while self.seq < until:
            seq = self.seq + 1
            seen = self.changes(seq)
            is_filled = seen is not None and not seen.is_empty and self._fill_from(seen)
            if not is_filled and not self._fill_by_deduction(seq, following):
                if self.is_complete and not self.is_uncertain(seq):
                    what = "" if seen is None or seen.is_empty else ", and no request explains what readers saw of it"
                    self.find("hole", f"no message has the seq {seq}{what}", seen.line if seen else 0)
                self.model.seq = seq

    def _fill_from(self, seen: SeenChange) -> bool:
        """Apply the message or the server's commit that explains a change that readers saw."""
        for sent in self.pending:
            if not _may_explain(sent, seen):
                continue
            if self._try(sent, seen.seq, lambda outcome: _explains(outcome, seen) and self._is_exact(outcome, seen)):
                self._check_not_before(sent, seen)
                return True
        for commit in self.server.of_change(self.model, seen):
            if self._try_server(commit, seen):
                return True
        if seen.remind:
            return self._explain_reminder(seen)
        if not self.is_complete or not (seen.created or seen.gone):
            return False
        if seen.created:
            self.find("aborted-read", f"no accepted message created {', '.join(seen.created)}", seen.line)
        live = [item_id for item_id in seen.gone if item_id in self.model.live]
        if live:
            self.find("lost-write", f"{', '.join(live)} left at seq {seen.seq} without a request", seen.line)
        return self._try_server(self.server.by_force(self.model, seen), seen, is_forced=True)

    def _explain_reminder(self, seen: SeenChange) -> bool:
        """Add the finding for a reminder that the laws do not allow (L7)."""
        for item_id in seen.remind:
            if item_id in self.model.live:
                self.find("twice", f"the reminder of {item_id} fired again at seq {seen.seq}", seen.line)
            else:
                self.find("resurrected", f"a reminder of {item_id} fired, which is not live", seen.line)
        self.model.seq = seen.seq
        return True

    def _try_server(self, commit: Commit, seen: SeenChange, *, is_forced: bool = False) -> bool:
        outcome = decide(self.model, commit, LIMITS)
        announcement = outcome.announcement
        if announcement is None or not (is_forced or _covers(outcome, seen)):
            return False
        for name, words in self.server.too_early(self.model, commit, seen):
            self.find(name, words, seen.line)
        self._commit(commit, outcome, Applied(seen.seq, 0, seen.line, "a commit of the server"), None)
        return True

    def _fill_by_deduction(self, seq: int, following: SentMessage | None) -> bool:
        """Fill a seq that no reader saw: by a flush, an unknown message, an expiry or a reminder that was due."""
        if following is not None and self.server.is_reset_due(self.model, following):
            commit = self.server.reset(self.model)
            self._commit(commit, decide(self.model, commit, LIMITS), Applied(seq, 0, 0, "a flush of all users"), None)
            return True
        until_us = None if following is None else self.planner.wall_us(following.op.ended)
        for commit in self.server.due(self.model, until_us, self.evidence.reminded):
            outcome = decide(self.model, commit, LIMITS)
            if self._may_be_unseen(outcome):
                self._commit(commit, outcome, Applied(seq, 0, 0, "a commit of the server", True), None)
                return True
        for sent in self.pending:
            if following is not None and sent.invoked > following.op.ended:
                continue
            if not self._is_seen_elsewhere(sent) and self._try(sent, seq, self._may_be_unseen, is_guess=True):
                return True
        return False

    def _is_seen_elsewhere(self, sent: SentMessage) -> bool:
        content, name = sent.message.content, sent.message.id
        if name is not None and (sent.sender.device, name) in self.repeated:
            return True
        return isinstance(content, ExternalMessage) and (content.system, content.body) in self.evidence.externals

    def _may_be_unseen(self, outcome: CommitOutcome) -> bool:
        """Return whether a message may have had an effect that no reader saw."""
        if outcome.announcement is None:
            return False
        seq = outcome.receipt.seq
        return seq > self.history_until or not any(_shows(record, seq) for record in outcome.records.values())

    def _is_exact(self, outcome: CommitOutcome, seen: SeenChange) -> bool:
        """Return whether a commit has no effect that the history would show, and does not."""
        if seen.seq > self.history_until:
            return True
        return all(
            item_id in seen.created or item_id in seen.gone or not _shows(record, seen.seq)
            for item_id, record in outcome.records.items()
        )

    def _try(
        self, sent: SentMessage, seq: int, is_right: Callable[[CommitOutcome], bool], *, is_guess: bool = False
    ) -> bool:
        """Apply a pending message at the next seq if its effect is the right one."""
        try:
            for commit in self.planner.commits(sent):
                if is_right(outcome := decide(self.model, commit, LIMITS)):
                    self._place(sent, seq, commit, outcome, is_guess=is_guess)
                    return True
            for before, trial in self._trials(sent) if sent.created_ids and not is_guess else ():
                for commit in self.planner.commits(sent):
                    if is_right(outcome := decide(trial, commit, LIMITS)):
                        self._adopt(before, trial)
                        self._place(sent, seq, commit, outcome)
                        return True
        except Problem:
            pass
        return False

    def _place(
        self, sent: SentMessage, seq: int, commit: Commit, outcome: CommitOutcome, *, is_guess: bool = False
    ) -> None:
        sent.placed_at = seq
        self.pending.remove(sent)
        self._commit(commit, outcome, Applied(seq, 0, sent.op.line, "", is_guess), sent)

    # ---- findings

    def _check_not_before(self, sent: SentMessage, seen: SeenChange) -> None:
        if sent.is_delayed and seen.at and self.planner.is_before(seen.at, sent.not_before_us):
            self.find("early", f"{describe(sent)} was committed before its not_before", sent.op.line, seen.line)

    def _explain_receipt(self, sent: SentMessage, receipt: WireReceipt, expected: Receipt) -> None:
        """Add the finding for a receipt that differs from that of the laws."""
        line, words = sent.op.line, describe(sent)
        reasons = {item_id: why.value for item_id, why in expected.ignored}
        for item_id in receipt.created:
            why = reasons.get(item_id)
            if why in ("dismissed", "expired", "stale"):
                self.find("resurrected", f"{item_id} was created again although it is {why}", line)
            elif why is not None:
                self.find("duplicate", f"{item_id} was created for a second time ({why})", line)
        lost = [item_id for item_id in receipt.dismissed if item_id not in expected.dismissed]
        missed = {*expected.created} - {*receipt.created} | {*expected.dismissed} - {*receipt.dismissed}
        done = {*receipt.created, *receipt.dismissed} & {*expected.created, *expected.dismissed}
        if missed and done:
            self.find("half", f"{words} was applied without {', '.join(sorted(missed))}", line)
        elif missed or lost or not self._has_line(line):
            listed = ", ".join(sorted(missed or lost)) or "the effect"
            kind = "duplicate" if expected.is_unchanged and sent.has_effect and not missed else "wrong-receipt"
            self.find(kind, f"the receipt of {words} differs from the laws in {listed}", line)

    def _has_line(self, line: int) -> bool:
        return any(line in found.lines for found in self.findings[-8:])


def is_receipt_of(expected: Receipt, receipt: WireReceipt) -> bool:
    """Return whether a receipt on the wire says what the model says."""
    if expected.is_unchanged != receipt.unchanged or len(expected.created) != len(receipt.created):
        return False
    if len(expected.dismissed) != len(receipt.dismissed) or len(expected.ignored) != len(receipt.ignored):
        return False
    return (
        {*expected.created} == {*receipt.created}
        and {*expected.dismissed} == {*receipt.dismissed}
        and {item_id: why.value for item_id, why in expected.ignored} == receipt.ignored
    )


def _explains(outcome: CommitOutcome, seen: SeenChange) -> bool:
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
    return reasons <= {None, "dismissed", "interval"} and _covers(outcome, seen)


def _may_explain(sent: SentMessage, seen: SeenChange) -> bool:
    """Return whether the content of a message fits to a change that readers saw. It is cheaper than to apply it."""
    content = sent.message.content
    if isinstance(content, ExternalMessage):
        return content.system == seen.system and content.body == seen.external
    if not isinstance(content, Update):
        return seen.is_flush
    if seen.system != GREGOR or seen.is_flush or seen.remind or not seen.created.keys() <= set(sent.created_ids):
        return False
    return bool(seen.created or content.intervals or not seen.gone.keys().isdisjoint(content.ids))


def _covers(outcome: CommitOutcome, seen: SeenChange) -> bool:
    """Return whether a commit has all arrivals and removals that readers saw at its seq."""
    records, seq = outcome.records, seen.seq
    if any(item_id not in records or records[item_id].seq != seq for item_id in seen.created):
        return False
    return all(item_id in records and _left_at(records[item_id], seq, reason) for item_id, reason in seen.gone.items())


def _shows(record: ItemRecord, seq: int) -> bool:
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


def _copy(user: UserState) -> UserState:
    """Return a copy of a state; its records are frozen."""
    twin = copy(user)
    for name in ("live", "gone", "tombstones", "spans", "message_ids", "forgotten", "agenda"):
        setattr(twin, name, dict(getattr(user, name)))
    twin.externals = list(user.externals)
    return twin


def _by_seq(sent: SentMessage) -> tuple[int, bool, int]:
    return sent.seq, not sent.has_effect, sent.op.invoked


def new_log(
    uid: str,
    evidence: UserEvidence,
    planner: Planner,
    changes: Changes,
    keys: Iterable[ReaderKey],
    *,
    is_complete: bool,
    history_until: int,
) -> UserLog:
    """Return an empty log with these views."""
    views = {key: ViewLog(key) for key in keys}
    return UserLog(uid, planner, changes, evidence, is_complete, history_until, views)
