"""Gaps: the seqs without an acknowledged message, and the message or commit of the server that has each of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace

from gregor.core.errors import Problem
from gregor.core.messages.model import Commit, ExternalMessage
from gregor.history.evidence import SeenChange, UserEvidence, merged
from gregor.history.messages import LIMITS, SentMessage, describe
from gregor.reference.commit import CommitOutcome, apply_outcome, decide
from gregor.reference.model import UserState

from .effects import explains, has_all, is_dismissal, is_same_for_each_reader, may_explain, shows
from .log import Applied, UserLog
from .server_commits import ServerCommits


class Gaps:
    """Fills the seqs between acknowledged messages.

    Args:
        changes: What readers saw, by seq.
        server: The commits that no request made.
        history_until: Up to this seq, ``changes`` has every creation and removal, from a read of the whole history.
        is_complete: Whether every writer is recorded, so that an unexplained seq is an anomaly.
        uncertain: The ranges of seqs in which a failover may have confused two histories.
    """

    def __init__(
        self,
        log: UserLog,
        evidence: UserEvidence,
        changes: Mapping[int, Sequence[SeenChange]],
        server: ServerCommits,
        *,
        history_until: int,
        is_complete: bool,
        uncertain: Sequence[range],
    ) -> None:
        self.repeated: set[tuple[str, str]] = set()
        """Sender and id of messages of which an acknowledged attempt had an effect: no earlier attempt had one."""
        self._unchanged: set[tuple[str, str | None]] = set()
        self._latest_invoked = 0
        self._first_executions: list[SentMessage] = []
        self._log = log
        self._evidence = evidence
        self._changes = changes
        self._server = server
        self._history_until = history_until
        self._is_complete = is_complete
        self._uncertain = uncertain
        # The first seq of each part of a gap that needs its own explanation.
        bounds = {history_until + 1, *(bound for each in uncertain for bound in (each.start, each.stop))}
        self._borders = sorted(bounds.union(changes))

    def is_uncertain(self, seq: int) -> bool:
        """Return whether a seq lies where a failover may have confused two histories."""
        return any(seq in each for each in self._uncertain)

    def fill(self, until: int, following: SentMessage | None) -> None:
        """Explain all seqs up to one. ``following``: the acknowledged message after them; None at the end."""
        log = self._log
        while log.seq < until:
            seq = log.seq + 1
            changes = self._changes.get(seq, ())
            seen = merged(changes)
            is_filled = seen is not None and not seen.is_empty and self._fill_from(seen, changes, following)
            if not is_filled and not self._fill_by_deduction(seq, following):
                last = self._last_like(seq, until)
                if self._is_complete and not self.is_uncertain(seq):
                    what = "" if seen is None or seen.is_empty else ", and no request explains what readers saw of it"
                    seqs = f"seq {seq}" if last == seq else f"seqs {seq} to {last}"
                    log.add_finding("hole", f"no message has the {seqs}{what}", seen.line if seen else 0)
                log.model.seq = last

    def _last_like(self, seq: int, until: int) -> int:
        """Return the last seq, up to ``until``, that is as unexplained as ``seq``.

        No reader saw any of them, and the model stays the same, so each would fail for the same reason. A gap of any
        length takes one step.
        """
        # The first seq proves nothing about the second one: a flush needs a state before it.
        if seq == 1 or seq in self._changes:
            return seq
        border = bisect_right(self._borders, seq)
        return min(until, self._borders[border] - 1) if border < len(self._borders) else until

    def expect(self, acknowledged: Iterable[SentMessage]) -> None:
        """Prepare for these acknowledged messages. Call it once, before ``fill``."""
        for sent in acknowledged:
            if sent.message.id is not None and sent.has_effect:
                self.repeated.add((sent.sender.device, sent.message.id))
            if sent.op.receipt is not None and sent.op.receipt.unchanged:
                self._unchanged.add((sent.sender.device, sent.message.id))
                self._first_executions.append(replace(sent, is_first_execution=True))

    def passed(self, sent: SentMessage) -> None:
        """Note that an acknowledged message was applied: all later seqs were given after its request began."""
        self._latest_invoked = max(self._latest_invoked, sent.op.invoked)

    def _pending_before(self, following: SentMessage | None) -> list[SentMessage]:
        """Return the messages that may have the next seq: sent before the end of the request that has a later seq."""
        self._first_executions = [
            sent
            for sent in self._first_executions
            if sent.seq > self._log.seq and sent.op.ended >= self._latest_invoked
        ]
        pending = (*self._log.pending, *self._first_executions)
        found = [sent for sent in pending if following is None or sent.invoked <= following.op.ended]
        # The latest message first: one that is unanswered for long has most probably failed.
        found.sort(key=self._effective_from, reverse=True)
        return found

    def _effective_from(self, sent: SentMessage) -> int:
        """Return the moment from which a message may take effect, in ns."""
        return max(sent.invoked, self._log.planner.at_ns(sent.not_before_us)) if sent.is_delayed else sent.invoked

    # ---- seqs that readers saw

    def _fill_from(self, seen: SeenChange, changes: Sequence[SeenChange], following: SentMessage | None) -> bool:
        """Apply the message or the server's commit that explains a change that readers saw."""
        candidates = [sent for sent in self._pending_before(following) if may_explain(sent, seen)]

        def has_effect(outcome: CommitOutcome) -> bool:
            return explains(outcome, seen) and self._is_exact(outcome, seen)

        def is_exactly_seen(outcome: CommitOutcome) -> bool:
            return has_effect(outcome) and is_same_for_each_reader(outcome, changes)

        for is_right in (is_exactly_seen, has_effect):
            for sent in candidates:
                if self._try(sent, seen.seq, is_right):
                    self._check_not_before(sent, seen)
                    return True
        return any(
            self._try_server(commit, seen) for commit in self._server.of_change(self._log.model, seen)
        ) or self._fill_with_finding(seen)

    def _fill_with_finding(self, seen: SeenChange) -> bool:
        """Add the finding for a change that nothing explains, and apply exactly what readers saw."""
        log = self._log
        if seen.remind:
            return self._explain_reminder(seen)
        if not self._is_complete or not (seen.created or seen.gone):
            return False
        if seen.created:
            log.add_finding("aborted-read", f"no accepted message created {', '.join(seen.created)}", seen.line)
        live = [item_id for item_id in seen.gone if item_id in log.model.live]
        if live:
            log.add_finding("lost-write", f"{', '.join(live)} left at seq {seen.seq} without a request", seen.line)
        return self._try_server(self._server.by_force(log.model, seen), seen, is_forced=True)

    def _explain_reminder(self, seen: SeenChange) -> bool:
        """Add the finding for a reminder that the laws do not allow (L7)."""
        log = self._log
        for item_id in seen.remind:
            if item_id in log.model.live:
                log.add_finding("twice", f"the reminder of {item_id} fired again at seq {seen.seq}", seen.line)
            else:
                log.add_finding("resurrected", f"a reminder of {item_id} fired, which is not live", seen.line)
        log.model.seq = seen.seq
        return True

    def _try_server(self, commit: Commit, seen: SeenChange, *, is_forced: bool = False) -> bool:
        log = self._log
        outcome = decide(log.model, commit, None)
        if outcome.announcement is None or not (is_forced or has_all(outcome, seen)):
            return False
        for name, words in self._server.too_early(log.model, commit, seen):
            log.add_finding(name, words, seen.line)
        self._commit_by_server(commit, outcome, Applied(seen.seq, 0, seen.line, "a commit of the server"))
        return True

    def _is_exact(self, outcome: CommitOutcome, seen: SeenChange) -> bool:
        """Return whether readers saw each effect of a commit that the history of the backend's view shows."""
        if seen.seq > self._history_until:
            return True
        return all(
            item_id in seen.created or item_id in seen.gone or not shows(record, seen.seq)
            for item_id, record in outcome.records.items()
        )

    # ---- seqs that no reader saw

    def _fill_by_deduction(self, seq: int, following: SentMessage | None) -> bool:
        """Fill a seq that no reader saw: by a flush, an unknown message, an expiry or a reminder that was due."""
        log, server = self._log, self._server
        if following is not None and server.is_reset_due(log.model, following):
            commit = server.reset(log.model)
            applied = Applied(seq, 0, 0, "a flush of all users")
            self._commit_by_server(commit, decide(log.model, commit, None), applied)
            return True
        # First, because such a message was executed before its repeat, while a due reminder may still come later.
        proven = [sent for sent in self._pending_before(following) if self._is_proven(sent)]
        if any(self._try(sent, seq, self._may_be_unseen, is_guess=True) for sent in proven):
            return True
        until_us = None if following is None else log.planner.wall_us(following.op.ended)
        for commit in server.due(log.model, until_us, self._evidence.reminded):
            outcome = decide(log.model, commit, None)
            if self._may_be_unseen(outcome):
                self._commit_by_server(commit, outcome, Applied(seq, 0, 0, "a commit of the server", True))
                return True
        for sent in self._pending_before(following):
            # A flush shows in the epoch of the following message.
            if sent.is_flush and following is not None and following.epoch:
                continue
            if not self._is_seen_elsewhere(sent) and self._try(sent, seq, self._may_be_unseen, is_guess=True):
                return True
        return False

    def _is_proven(self, sent: SentMessage) -> bool:
        """Return whether an acknowledged repeat shows that a message without an answer was executed before it."""
        name = sent.message.id
        return name is not None and (sent.sender.device, name) in self._unchanged and not self._is_seen_elsewhere(sent)

    def _is_seen_elsewhere(self, sent: SentMessage) -> bool:
        content, name = sent.message.content, sent.message.id
        if name is not None and (sent.sender.device, name) in self.repeated:
            return True
        return isinstance(content, ExternalMessage) and (content.system, content.body) in self._evidence.externals

    def _may_be_unseen(self, outcome: CommitOutcome) -> bool:
        """Return whether a message may have had an effect that no reader saw."""
        if outcome.announcement is None:
            return False
        seq = outcome.receipt.seq
        return seq > self._history_until or not any(shows(record, seq) for record in outcome.records.values())

    # ---- applying

    def _commit_by_server(self, commit: Commit, outcome: CommitOutcome, applied: Applied) -> None:
        self._log.commit(commit, outcome, applied)
        if commit.forget_device is not None:
            self._server.note_forgotten(commit.forget_device)

    def _try(
        self, sent: SentMessage, seq: int, is_right: Callable[[CommitOutcome], bool], *, is_guess: bool = False
    ) -> bool:
        """Apply a pending message at the next seq if its effect is the right one."""
        log = self._log
        try:
            for commit in log.planner.commits(sent):
                if is_right(outcome := decide(log.model, commit, None)):
                    self._place(sent, seq, commit, outcome, is_guess=is_guess)
                    return True
            for before, trial in self.trials(sent) if sent.created_ids and not is_guess else ():
                for commit in log.planner.commits(sent):
                    if is_right(outcome := decide(trial, commit, None)):
                        self.adopt(before, trial)
                        self._place(sent, seq, commit, outcome)
                        return True
        except Problem:
            pass
        return False

    def _place(
        self, sent: SentMessage, seq: int, commit: Commit, outcome: CommitOutcome, *, is_guess: bool = False
    ) -> None:
        sent.placed_at = seq
        (self._first_executions if sent.is_first_execution else self._log.pending).remove(sent)
        self._log.commit(commit, outcome, Applied(seq, 0, sent.op.line, sent, is_guess))

    def trials(self, sent: SentMessage) -> Iterator[tuple[SentMessage, UserState]]:
        """Yield each message that may have been applied before ``sent`` without a seq, and the state after it.

        Such a message dismissed what was not known yet: only its later effect shows that it was applied. Items that
        are live now may have come after it, so only the facts that it stores are added. It may also be the first
        execution of a message whose receipt is that of a repeat.
        """
        model, planner = self._log.model, self._log.planner
        for before in (*self._log.pending, *self._log.uncertain, *self._first_executions):
            is_repeat = before.message.id is not None and before.message.id == sent.message.id
            is_relevant = is_repeat or is_dismissal(before.message.content)
            # A delayed message takes effect long after its request.
            is_later = before.invoked > sent.op.ended and not sent.is_delayed
            if before is sent or is_later or before.is_delayed or not is_relevant:
                continue
            commit = next(planner.commits(before))
            outcome = decide(model, commit, None)
            trial = _copy(model)
            trial.spans.update(outcome.spans)
            trial.tombstones.update(outcome.tombstones)
            known = commit.message_id
            if known is not None and known.is_remembered:
                trial.message_ids[known.key] = (known.content, known.keep_us)
            yield before, trial
            if before.sender.device and not any(shows(r, outcome.receipt.seq) for r in outcome.records.values()):
                # It only hid items of its device, which the history of the backend's view does not show.
                trial = _copy(model)
                apply_outcome(trial, commit, outcome, LIMITS)
                trial.seq = model.seq
                yield before, trial

    def adopt(self, before: SentMessage, trial: UserState) -> None:
        """Use the state of a trial from now on. ``before``: the message that it applies."""
        for messages in (self._log.pending, self._log.uncertain, self._first_executions):
            if before in messages:
                messages.remove(before)
                break
        self._log.adopt(before, trial)

    def _check_not_before(self, sent: SentMessage, seen: SeenChange) -> None:
        if sent.is_delayed and seen.at and self._log.planner.is_before(seen.at, sent.not_before_us):
            words = f"{describe(sent)} was committed before its not_before"
            self._log.add_finding("early", words, sent.op.line, seen.line)


def _copy(user: UserState) -> UserState:
    """Return a copy of a state; its records are frozen."""
    twin = copy(user)
    for name in ("live", "gone", "tombstones", "spans", "message_ids", "forgotten", "agenda"):
        setattr(twin, name, dict(getattr(user, name)))
    twin.externals = list(user.externals)
    return twin
