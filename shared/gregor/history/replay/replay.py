"""Replay: one user's acknowledged messages applied by seq to the reference model, and compared with their receipts."""

from __future__ import annotations

from collections.abc import Sequence

from gregor.core.errors import Problem
from gregor.core.items.sync import NO_EPOCH
from gregor.core.messages.model import Commit, Receipt
from gregor.history.format import WireReceipt
from gregor.history.messages import SentMessage, describe
from gregor.reference.commit import CommitOutcome, decide

from .effects import is_receipt_of
from .gaps import Gaps
from .log import Applied, UserLog


class Replay:
    """Applies acknowledged messages to a log. ``gaps`` fills the seqs between them."""

    def __init__(self, log: UserLog, gaps: Gaps) -> None:
        self._log = log
        self._gaps = gaps
        # Whether a receipt has confirmed the epoch. Until then, the epoch is a guess.
        self._is_epoch_known = False

    def run(self, acknowledged: Sequence[SentMessage], last_seq: int, epoch: bytes = NO_EPOCH) -> None:
        """Apply all messages in the order of their seq, and fill the seqs between them up to ``last_seq``.

        ``epoch``: the epoch of the first known position.
        """
        log, gaps = self._log, self._gaps
        if epoch != NO_EPOCH:
            log.start_epoch(epoch)
        gaps.expect(acknowledged)
        for sent in sorted(acknowledged, key=_by_seq):
            effect = sent.has_effect
            gaps.fill(sent.seq - 1 if effect else sent.seq, sent)
            if effect and sent.seq <= log.seq:
                other = log.applied.get(sent.seq)
                words = f"seq {sent.seq} has two messages: {other.words if other else 'an effect'}; {describe(sent)}"
                log.add_finding("duplicate", words, other.line if other else 0, sent.op.line)
                continue
            self._apply(sent)
            if effect:
                gaps.passed(sent)
        gaps.fill(last_seq, None)

    def _apply(self, sent: SentMessage) -> None:
        log = self._log
        receipt = sent.op.receipt or WireReceipt()
        first: tuple[Commit, CommitOutcome] | None = None
        try:
            for commit in log.planner.commits(sent):
                outcome = decide(log.model, commit, None)
                if is_receipt_of(outcome.receipt, receipt):
                    self._accept(sent, commit, outcome)
                    return
                first = first or (commit, outcome)
            if first is None or self._accept_after_pending(sent, receipt):
                return
        except Problem as problem:
            log.add_finding("wrong-receipt", f"the laws refuse {describe(sent)} with {problem.code}", sent.op.line)
            return
        self._explain_receipt(sent, receipt, first[1].receipt)
        self._accept(sent, *first)

    def _accept(self, sent: SentMessage, commit: Commit, outcome: CommitOutcome) -> None:
        log = self._log
        is_guess = sent.is_external and self._gaps.is_uncertain(sent.seq)
        log.commit(commit, outcome, Applied(sent.seq, sent.op.ended, sent.op.line, sent, is_guess))
        if sent.has_effect and log.seq < sent.seq:
            log.model.seq = sent.seq
        is_sure, self._is_epoch_known = self._is_epoch_known, self._is_epoch_known or sent.seq > 0
        if not sent.epoch or sent.epoch == log.epoch:
            return
        if is_sure:
            words = f"the epoch changed from {log.epoch} to {sent.epoch} without a flush; the older state is gone"
            log.add_finding("lost-write", words, sent.op.line)
        log.start_epoch(bytes.fromhex(sent.epoch))

    def _accept_after_pending(self, sent: SentMessage, receipt: WireReceipt) -> bool:
        """Return whether a message without a known outcome explains a receipt: it was applied before, without a seq."""
        for before, trial in self._gaps.trials(sent):
            for commit in self._log.planner.commits(sent):
                outcome = decide(trial, commit, None)
                if is_receipt_of(outcome.receipt, receipt):
                    self._gaps.adopt(before, trial)
                    self._accept(sent, commit, outcome)
                    return True
        return False

    def _explain_receipt(self, sent: SentMessage, receipt: WireReceipt, expected: Receipt) -> None:
        """Add the finding for a receipt that differs from that of the laws."""
        log, line, words = self._log, sent.op.line, describe(sent)
        reasons = {item_id: why.value for item_id, why in expected.ignored}
        for item_id in receipt.created:
            why = reasons.get(item_id)
            if why in ("dismissed", "expired", "stale"):
                log.add_finding("resurrected", f"{item_id} was created again although it is {why}", line)
            elif why is not None:
                log.add_finding("duplicate", f"{item_id} was created for a second time ({why})", line)
        lost = [item_id for item_id in receipt.dismissed if item_id not in expected.dismissed]
        missed = {*expected.created} - {*receipt.created} | {*expected.dismissed} - {*receipt.dismissed}
        done = {*receipt.created, *receipt.dismissed} & {*expected.created, *expected.dismissed}
        if missed and done:
            log.add_finding("half", f"{words} was applied without {', '.join(sorted(missed))}", line)
        elif missed or lost or not self._has_line(line):
            listed = ", ".join(sorted(missed or lost)) or "the effect"
            kind = "duplicate" if expected.is_unchanged and sent.has_effect and not missed else "wrong-receipt"
            log.add_finding(kind, f"the receipt of {words} differs from the laws in {listed}", line)

    def _has_line(self, line: int) -> bool:
        return any(line in found.lines for found in self._log.findings[-8:])


def _by_seq(sent: SentMessage) -> tuple[int, bool, int]:
    return sent.seq, not sent.has_effect, sent.op.invoked
