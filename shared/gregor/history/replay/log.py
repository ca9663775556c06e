"""The log of one user: the reference model after the last seq, the history of each view, and the findings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gregor.core.ids import EVERY_DEVICE, covers
from gregor.core.items.digest import lanes
from gregor.core.items.sync import NO_EPOCH
from gregor.core.messages.model import Commit, Update
from gregor.history.anomalies import Anomaly
from gregor.history.messages import LIMITS, Planner, SentMessage, describe
from gregor.history.views import CommitChanges, ReaderKey, ViewLog
from gregor.reference.commit import CommitOutcome, apply_outcome
from gregor.reference.model import UserState


@dataclass(slots=True)
class Applied:
    """A message that took effect at a seq. ``ended``: the end of its request in ns; 0 if the server made the commit.

    ``is_guess``: no reader saw it at this seq; another message of unknown outcome may have it as well.
    """

    seq: int
    ended: int
    line: int
    by: SentMessage | str = ""
    is_guess: bool = False

    @property
    def words(self) -> str:
        """The message, or the server's commit, in a few words."""
        return self.by if isinstance(self.by, str) else describe(self.by)


@dataclass
class UserLog:
    """The replayed history of one user.

    Attributes:
        applied: The messages by seq.
        epochs: The first seq of each epoch, with its six hex digits.
        pending: Messages with an unknown outcome, and delayed ones, that have no seq yet.
        uncertain: Acknowledged messages without an effect; a failover may have lost what they stored.
        adopted: Messages of which only a later receipt showed that they were applied, but not at which seq.
    """

    uid: str
    planner: Planner
    views: dict[ReaderKey, ViewLog]
    model: UserState = field(default_factory=UserState)
    applied: dict[int, Applied] = field(default_factory=dict)
    epochs: list[tuple[int, str]] = field(default_factory=list)
    findings: list[Anomaly] = field(default_factory=list)
    pending: list[SentMessage] = field(default_factory=list)
    uncertain: list[SentMessage] = field(default_factory=list)
    adopted: list[SentMessage] = field(default_factory=list)

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

    def add_finding(self, name: str, text: str, *lines: int) -> None:
        """Report an anomaly. ``lines``: the lines of the history that prove it; 0 is ignored."""
        self.findings.append(Anomaly(name, self.uid, text, tuple(line for line in lines if line)))

    def start_epoch(self, epoch: bytes) -> None:
        """Note that the history is in an epoch from the present seq on."""
        self.model.epoch = epoch
        self.epochs.append((self.seq, epoch.hex()))

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

    def commit(self, commit: Commit, outcome: CommitOutcome, applied: Applied) -> None:
        """Apply the outcome of a commit to the model and to the views."""
        announcement = outcome.announcement
        if announcement is not None:
            leaves = {item_id: lanes(record.item.leaf) for item_id, record in outcome.records.items()}
            changes = CommitChanges(announcement, leaves, applied.ended, applied.line, is_silent=applied.is_guess)
            for view in self.views.values():
                changes.add_to(view)
            applied.seq = announcement.seq
            self.applied[announcement.seq] = applied
        before = self.model.epoch
        apply_outcome(self.model, commit, outcome, LIMITS)
        if self.model.epoch != before and self.model.epoch != NO_EPOCH:
            self.epochs.append((self.seq, self.epoch))
        if commit.forget_device is not None:
            self.recompute(applied.line, commit.forget_device)

    def adopt(self, before: SentMessage, trial: UserState) -> None:
        """Use ``trial`` as the model: the state in which ``before`` was applied.

        Its seq is unknown: the message has the seq of a guess.
        """
        self.model = trial
        self.adopted.append(before)
        self.recompute(before.op.line)

    def recompute(self, line: int, device: str | None = None) -> None:
        """Make the views of a device (None: all views) equal to the model."""
        for view in self.views.values():
            if device is None or view.key.view.device == device:
                view.recompute(self.model, self.seq, line)


def new_log(uid: str, planner: Planner, keys: Iterable[ReaderKey]) -> UserLog:
    """Return an empty log with these views."""
    return UserLog(uid, planner, {key: ViewLog(key) for key in keys})
