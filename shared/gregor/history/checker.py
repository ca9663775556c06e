"""Checker of histories: applies each user's messages by seq to the model, compares the readers, names anomalies."""

from __future__ import annotations

import mmap
import os
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from gregor.core.items.sync import NO_EPOCH, View

from .anomalies import LOST_IN_FAILOVER, Anomaly
from .branches import Branches, split_branches
from .evidence import SeenChange, UserEvidence
from .format import (
    MALFORMED,
    CloseOp,
    ConnectOp,
    FaultOp,
    ForgetOp,
    FrameOp,
    HistoryError,
    HistoryHeader,
    ReadOp,
    SendOp,
    UserOp,
    malformed,
)
from .index import HistoryIndex, index_file, user_ops
from .messages import Planner, SentMessage, describe, sent_message
from .readers.connections import ReaderContext, VisibilityDeadlines, check_connections, reader_key
from .readers.requests import ReadCheck, check_order, read_key
from .replay.gaps import Gaps
from .replay.log import UserLog, new_log
from .replay.replay import Replay
from .replay.server_commits import ServerCommits
from .views import ReaderKey

MAX_FINDINGS = 50
"""Findings about one user. Further findings are mostly consequences of the first."""
LATE_S = 60.0
"""Time after which a change that a connected device did not get is late: twice the reconciliation of a gateway."""


@dataclass(slots=True)
class HistoryReport:
    """The result of a check. ``counts``: lost-in-failover, and the operations by kind."""

    findings: list[Anomaly] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    users: int = 0
    operations: int = 0

    def document(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        findings = [
            {"name": each.name, "uid": each.uid, "text": each.text, "lines": list(each.lines)} for each in self.findings
        ]
        return {"findings": findings, "counts": dict(self.counts), "users": self.users, "operations": self.operations}

    def add(self, other: HistoryReport) -> None:
        """Add the report of other users."""
        self.findings += other.findings
        self.counts.update(other.counts)
        self.users += other.users
        self.operations += other.operations


@dataclass
class _UserOps:
    """The operations of one user, by kind, with the evidence of its readers. ``views``: by connection."""

    uid: str
    acknowledged: list[SentMessage] = field(default_factory=list)
    unknown: list[SentMessage] = field(default_factory=list)
    forgets: list[ForgetOp] = field(default_factory=list)
    reads: list[ReadOp] = field(default_factory=list)
    connections: list[ConnectOp | FrameOp | CloseOp] = field(default_factory=list)
    changes: dict[int, SeenChange] = field(default_factory=dict)
    keys: set[ReaderKey] = field(default_factory=lambda: {ReaderKey(View())})
    views: dict[str, View] = field(default_factory=dict)
    evidence: UserEvidence = field(default_factory=UserEvidence)
    last_seq: int = 0
    end_ns: int = 0

    def add(self, op: UserOp) -> None:
        """File one operation under its kind."""
        match op:
            case FrameOp():
                self._add_frame(op)
            case SendOp():
                self._add_send(op)
            case ConnectOp():
                self.connections.append(op)
                key = reader_key(op)
                self.keys.add(key)
                self.views[op.conn] = key.view
            case CloseOp():
                self.connections.append(op)
            case ReadOp():
                self._add_read(op)
            case ForgetOp() if op.outcome != "refused":
                self.forgets.append(op)
        self.end_ns = max(self.end_ns, op.at if isinstance(op, FrameOp | ConnectOp | CloseOp) else op.ended)

    def _add_frame(self, op: FrameOp) -> None:
        self.connections.append(op)
        change = self.evidence.add_frame(op, self.views.get(op.conn))
        if change is not None:
            self.changes[op.line] = change
        if op.frame.seq is not None:
            self.last_seq = max(self.last_seq, op.frame.seq)

    def _add_send(self, op: SendOp) -> None:
        if op.outcome == "refused":
            return
        sent = sent_message(op)
        if sent is None:
            return
        is_known = op.outcome == "ok" and op.receipt is not None and not sent.is_delayed
        (self.acknowledged if is_known else self.unknown).append(sent)

    def _add_read(self, op: ReadOp) -> None:
        self.reads.append(op)
        if op.answer is None:
            return
        if op.kind == "history":
            self.evidence.add_history(op)
            gone = (entry.gone.seq for entry in op.answer.entries if entry.gone is not None)
            self.last_seq = max([self.last_seq, *(entry.seq for entry in op.answer.entries), *gone])
        else:
            self.keys.add(read_key(op))
            self.evidence.items(op.answer.items, op.ended)
            if op.answer.cursor:
                self.last_seq = max(self.last_seq, int(op.answer.cursor.rpartition("-")[2]))


class UserChecker:
    """Checks one user after the other. ``faults``: of all users. ``late_s``: see ``LATE_S``."""

    def __init__(self, header: HistoryHeader, faults: Sequence[FaultOp], end_ns: int, late_s: float = LATE_S) -> None:
        self._header = header
        self._faults = faults
        self._end_ns = end_ns
        self._deadlines = VisibilityDeadlines(faults, late_s)

    def check(self, uid: str, ops: Iterable[UserOp]) -> HistoryReport:
        """Return the findings about one user."""
        user = _UserOps(uid)
        report = HistoryReport(users=1)
        for op in ops:
            report.operations += 1
            try:
                user.add(op)
            except MALFORMED as error:
                raise malformed(op.line, error) from None
        failovers = [
            fault for fault in self._faults if fault.kind == "failover" and (fault.uids is None or uid in fault.uids)
        ]
        branches = split_branches(user.acknowledged, user.reads, user.evidence, failovers)
        log = self._replay(user, branches)
        found = list(log.findings)
        found += check_order(uid, branches.surviving)
        found += ReadCheck(log, branches, user.evidence).findings(user.reads)
        found += self._never_committed(user, log)
        found += check_connections(
            user.connections,
            user.changes,
            ReaderContext(log, user.evidence, self._deadlines, branches.lost),
            max(self._end_ns, user.end_ns),
        )
        found += _broken_promises(uid, branches, report.counts)
        report.findings = _distinct(found)[:MAX_FINDINGS]
        return report

    def _replay(self, user: _UserOps, branches: Branches) -> UserLog:
        is_complete = self._header.complete
        log = new_log(user.uid, Planner(self._header, user.evidence), user.keys)
        log.pending = list(user.unknown)
        log.uncertain = branches.uncertain
        gaps = Gaps(
            log,
            user.evidence,
            branches.changes,
            ServerCommits(log.planner, user.forgets),
            history_until=_history_until(user) if is_complete else 0,
            is_complete=is_complete,
            uncertain=[lost.uncertain for lost in branches.lost],
        )
        last = user.last_seq
        if branches.lost:
            known = (sent.seq for sent in branches.surviving)
            after_ns = branches.lost[-1].failover.ended
            last = max([*branches.changes, *known, *_read_seqs(user.reads, after=after_ns)], default=0)
        Replay(log, gaps).run(branches.surviving, last, _first_epoch(user, branches.surviving))
        return log

    def _never_committed(self, user: _UserOps, log: UserLog) -> Iterable[Anomaly]:
        """Yield the delayed messages whose time has passed long ago, and that were not committed."""
        if not self._header.complete:
            return
        for sent in log.pending:
            due_ns = self._header.clock_ns + (sent.not_before_us - self._header.wall_us) * 1_000
            if not sent.is_delayed or self._deadlines.of(due_ns) >= self._end_ns:
                continue
            if any(log.model.record(item_id) is None for item_id in sent.created_ids):
                text = f"{describe(sent)} was accepted for later and never committed"
                yield Anomaly("lost-write", user.uid, text, (sent.op.line,))


def _history_until(user: _UserOps) -> int:
    """Return the last seq that a read of the whole history covers; 0 if there is no such read."""
    reads = [op for op in user.reads if op.kind == "history" and op.answer is not None and not op.partial]
    last = max((op.invoked for op in reads if op.device is None and op.categories is None), default=0)
    seqs = [sent.seq for sent in user.acknowledged if sent.op.ended < last]
    seqs += [op.frame.seq or 0 for op in user.connections if isinstance(op, FrameOp) and op.at < last]
    return max([*seqs, *_read_seqs(op for op in user.reads if op.ended < last)], default=0)


def _first_epoch(user: _UserOps, sent: Iterable[SentMessage]) -> bytes:
    """Return the epoch of the first known position of a user; ``NO_EPOCH`` if none is known."""
    known = [(each.seq, each.epoch) for each in sent if each.seq and each.epoch]
    if not known:
        syncs = (op.frame for op in user.connections if isinstance(op, FrameOp))
        known = [(frame.seq, frame.cursor[:6]) for frame in syncs if frame.seq and frame.cursor]
    return bytes.fromhex(min(known)[1]) if known else NO_EPOCH


def _read_seqs(reads: Iterable[ReadOp], after: int = -1) -> Iterable[int]:
    for op in reads:
        if op.invoked > after and op.answer is not None and op.answer.cursor:
            yield int(op.answer.cursor.rpartition("-")[2])


def _broken_promises(uid: str, branches: Branches, counts: Counter[str]) -> Iterable[Anomaly]:
    """Count what failovers lost, and yield the lost messages that were acknowledged as replicated."""
    for lost in branches.lost:
        for sent in lost.lost:
            counts[LOST_IN_FAILOVER] += 1
            receipt = sent.op.receipt
            if receipt is not None and receipt.durability == "replicated":
                text = f"{describe(sent)} was acknowledged as replicated at seq {sent.seq}, and the failover lost it"
                yield Anomaly("broken-promise", uid, text, (sent.op.line, lost.failover.line))


def _distinct(findings: Iterable[Anomaly]) -> list[Anomaly]:
    return list({(found.name, found.text): found for found in findings}.values())


# ---- files


def check_file(path: Path, *, jobs: int = 0, late_s: float = LATE_S) -> HistoryReport:
    """Check a history file. ``jobs``: processes (0: one for each core). Raises ``HistoryError``, ``OSError``."""
    index = index_file(path)
    jobs = min(jobs or os.cpu_count() or 1, max(1, index.count // 20_000))
    report = HistoryReport()
    uids = list(index.offsets)
    if jobs == 1:
        report.add(_check_users(path, index, uids, late_s))
        return _sorted(report)
    # Each process inherits its share of the index by fork, and returns only findings.
    with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        shares = [uids[start::jobs] for start in range(jobs)]
        parts = [_part(index, share) for share in shares]
        for part in pool.map(_check_users, [path] * jobs, parts, shares, [late_s] * jobs):
            report.add(part)
    return _sorted(report)


def _sorted(report: HistoryReport) -> HistoryReport:
    report.findings.sort(key=lambda found: (found.lines or (0,), found.name, found.uid))
    return report


def _part(index: HistoryIndex, uids: Iterable[str]) -> HistoryIndex:
    uids = list(uids)
    part = HistoryIndex(index.header, index.faults, end_ns=index.end_ns)
    part.offsets = {uid: index.offsets[uid] for uid in uids}
    part.lines = {uid: index.lines[uid] for uid in uids}
    return part


def _check_users(path: Path, index: HistoryIndex, uids: Sequence[str], late_s: float) -> HistoryReport:
    report = HistoryReport()
    checker = UserChecker(index.header, index.faults, index.end_ns, late_s)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for uid in uids:
            try:
                report.add(checker.check(uid, user_ops(data, index, uid)))
            except HistoryError:
                raise
            except (ValueError, OverflowError, RecursionError, struct.error) as error:  # also those of msgspec
                raise HistoryError(f"a frame or answer of the user {uid} is not valid: {error}") from None
    return report
