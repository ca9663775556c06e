"""Requests: the order of their effects in time, and what reads over HTTP returned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gregor.core.ids import BACKEND, normalize_prefixes
from gregor.core.items.digest import sum_lanes
from gregor.core.items.sync import View
from gregor.history.anomalies import Anomaly
from gregor.history.branches import Branches
from gregor.history.evidence import UserEvidence, digest_of_text, time_us
from gregor.history.format import ReadOp, WireAnswer
from gregor.history.messages import SentMessage, describe
from gregor.history.replay.log import UserLog
from gregor.history.views import ReaderKey

from .differences import differences


def read_key(op: ReadOp) -> ReaderKey:
    """Return the view that a read shows."""
    categories = None if op.categories is None else normalize_prefixes(op.categories)
    return ReaderKey(View(op.device or BACKEND, categories))


def check_order(uid: str, sent: Sequence[SentMessage]) -> Iterator[Anomaly]:
    """Yield the requests that began after another one had ended, and are ordered before it (L1)."""
    by_end = sorted(sent, key=lambda each: each.op.ended)
    latest: SentMessage | None = None
    place = 0
    for each in sorted(sent, key=lambda each: each.op.invoked):
        while place < len(by_end) and by_end[place].op.ended < each.op.invoked:
            if latest is None or by_end[place].seq > latest.seq:
                latest = by_end[place]
            place += 1
        if latest is not None and each.seq < latest.seq + each.has_effect:
            text = (
                f"{describe(each)} has seq {each.seq}, but began after seq {latest.seq} was acknowledged"
                f" ({describe(latest)})"
            )
            yield Anomaly("order-vs-time", uid, text, (latest.op.line, each.op.line))


_LAST_READS = 4
"""The last reads of a user decide whether a message is lost, or a read was only answered by an older copy."""


def _seqs(reads: Sequence[ReadOp]) -> Iterator[int]:
    for op in reads:
        if op.answer is not None and op.answer.cursor:
            yield int(op.answer.cursor.rpartition("-")[2])


class ReadCheck:
    """Checks the reads of one user against the replayed history."""

    def __init__(self, log: UserLog, branches: Branches, evidence: UserEvidence) -> None:
        self._log = log
        self._lost = branches.lost
        self._last_seq = 0
        self._by_end = sorted((each for each in branches.surviving if each.has_effect), key=lambda each: each.op.ended)
        self._evidence = evidence

    def findings(self, reads: Sequence[ReadOp]) -> Iterator[Anomaly]:
        """Yield the anomalies in the reads."""
        place = latest = 0
        reads = sorted(reads, key=lambda op: op.invoked)
        self._last_seq = max(_seqs(reads[-_LAST_READS:]), default=0)
        for op in reads:
            while place < len(self._by_end) and self._by_end[place].op.ended < op.invoked:
                latest = max(latest, self._by_end[place].seq)
                place += 1
            if op.outcome != "ok" or op.answer is None:
                continue
            if op.kind == "state" and op.answer.cursor:
                yield from self._state(op, op.answer, int(op.answer.cursor.rpartition("-")[2]), latest)
            elif op.kind == "history" and op.device is None and op.categories is None and not op.partial:
                yield from self._history(op, op.answer, latest)

    def _state(self, op: ReadOp, answer: WireAnswer, seq: int, latest: int) -> Iterator[Anomaly]:
        uid = op.uid
        items = {item_id: item.leaf for item_id, item in self._evidence.items(answer.items, op.ended).items()}
        total = sum_lanes(items.values())
        reported = digest_of_text(answer.digest) if answer.digest else total
        if reported != total:
            yield Anomaly(
                "wrong-digest", uid, f"a read of seq {seq} has a digest that its items do not have", (op.line,)
            )
        if any(branch.may_hold(seq, op.ended) for branch in self._lost):
            return
        if seq < latest:
            yield from self._went_back(op, seq, latest)
        yield from self._expired(op, items)
        view = self._log.views[read_key(op)]
        if seq > self._log.seq:
            yield Anomaly("hole", uid, f"a read shows seq {seq}; no request has this seq", (op.line,))
        elif view.sum_at(seq) != total:
            for name, text, line in differences(self._log, view, seq, items):
                yield Anomaly(name, uid, f"a read of seq {seq} shows that {text}", tuple(filter(None, (line, op.line))))

    def _went_back(self, op: ReadOp, seq: int, latest: int) -> Iterator[Anomaly]:
        """Yield the finding about a read that is older than an acknowledged message."""
        if self._last_seq >= latest:
            text = f"a read shows seq {seq}, but seq {latest} was acknowledged before it began"
            yield Anomaly("regress", op.uid, text, (op.line,))
            return
        for each in self._by_end:
            if each.seq > max(seq, self._last_seq) and each.op.ended < op.invoked:
                text = f"a read shows seq {seq}, after seq {each.seq} was acknowledged: {describe(each)}"
                yield Anomaly("lost-write", op.uid, text, (each.op.line, op.line))

    def _expired(self, op: ReadOp, items: dict[str, int]) -> Iterator[Anomaly]:
        planner = self._log.planner
        for item_id in items:
            record = self._log.model.record(item_id)
            expires_us = record.item.expires_us if record is not None else None
            if expires_us is not None and planner.is_before_us(expires_us, op.invoked):
                yield Anomaly("late", op.uid, f"a read shows {item_id} after its expiry", (op.line,))

    def _history(self, op: ReadOp, answer: WireAnswer, latest: int) -> Iterator[Anomaly]:
        """Compare a read of the history with the model, as far as it was acknowledged before the read."""
        model, log, lines = self._log.model, self._log, (op.line,)
        entries = {entry.id: entry for entry in answer.entries}
        for record in (*model.live.values(), *model.gone.values()):
            entry, item_id = entries.get(record.item.id), record.item.id
            if entry is None:
                if record.seq <= latest:
                    yield self._missing(op, record.seq, item_id, entries.keys())
                continue
            if entry.seq != record.seq:
                text = f"the history says that {item_id} was created at seq {entry.seq}, not at {record.seq}"
                yield Anomaly("duplicate", op.uid, text, lines)
            gone = record.gone
            if entry.gone is None and gone is not None and gone.seq <= latest:
                by = log.applied[gone.seq]
                text = f"{item_id} is live, but {by.words} removed it at seq {gone.seq}"
                yield Anomaly("resurrected", op.uid, text, (by.line, op.line))
            elif entry.gone is not None and gone is None:
                text = f"{item_id} left at seq {entry.gone.seq} ({entry.gone.reason}), and no request explains it"
                yield Anomaly("lost-write", op.uid, text, lines)
            elif entry.gone is not None and gone is not None and entry.gone.reason != gone.reason.wire_name:
                text = f"{item_id} left as {entry.gone.reason}; by the laws it is {gone.reason.wire_name}"
                yield Anomaly("wrong-receipt", op.uid, text, lines)
            if entry.gone is not None and entry.gone.reason == "expired":
                expires_us = record.item.expires_us
                if expires_us is None or time_us(entry.gone.at) < expires_us:
                    yield Anomaly("early", op.uid, f"{item_id} left as expired before its expiry", lines)

    def _missing(self, op: ReadOp, seq: int, item_id: str, known: object) -> Anomaly:
        applied = self._log.applied.get(seq)
        records = (*self._log.model.live.values(), *self._log.model.gone.values())
        siblings = [record.item.id for record in records if record.seq == seq and record.item.id != item_id]
        is_half = any(other in known for other in siblings)  # type: ignore[operator]
        words = applied.words if applied is not None else "a message"
        text = f"{item_id} is not in the history, but seq {seq} was acknowledged: {words}"
        lines = tuple(filter(None, (applied.line if applied else 0, op.line)))
        return Anomaly("half" if is_half else "lost-write", op.uid, text, lines)
