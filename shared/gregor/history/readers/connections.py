"""Readers: every connection of a user, replayed and compared with the views of the replayed history."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gregor.core.ids import BACKEND, GREGOR, is_allowed, normalize_prefixes
from gregor.core.items.digest import add_lanes, subtract_lanes, sum_lanes
from gregor.core.items.sync import View
from gregor.core.json_text import canonical_json
from gregor.history.anomalies import Anomaly
from gregor.history.branches import LostBranch
from gregor.history.evidence import SeenChange, UserEvidence, digest_of_text
from gregor.history.format import (
    MALFORMED,
    CloseOp,
    ConnectOp,
    FaultOp,
    FrameOp,
    WireFrame,
    decode_body,
    decode_json,
    malformed,
)
from gregor.history.replay.log import UserLog
from gregor.history.views import ReaderKey, ViewChange

from .differences import differences

SECOND_NS = 1_000_000_000
MAX_FINDINGS = 20
"""Findings about one connection: the first finding explains the others."""


def reader_key(op: ConnectOp) -> ReaderKey:
    """Return what a connection sees."""
    categories = None if op.categories is None else normalize_prefixes(op.categories)
    systems = None if op.systems is None else normalize_prefixes(op.systems)
    return ReaderKey(View(op.device or BACKEND, categories), systems)


class VisibilityDeadlines:
    """The time until which a change must be seen: ``late_s`` after it, and after each failure in between."""

    def __init__(self, faults: Iterable[FaultOp], late_s: float) -> None:
        self._faults = sorted(faults, key=lambda fault: fault.began)
        self._late_ns = round(late_s * SECOND_NS)

    def of(self, at_ns: int) -> int:
        """Return the deadline of a change that was acknowledged at a moment."""
        deadline = at_ns + self._late_ns
        for fault in self._faults:
            if fault.began > deadline:
                break
            if fault.ended + self._late_ns > deadline and fault.ended >= at_ns:
                deadline = fault.ended + self._late_ns
        return deadline

    def has_failure(self, since_ns: int, until_ns: int) -> bool:
        """Return whether a failure, or the time to recover from it, overlaps a time."""
        return any(fault.began <= until_ns and fault.ended + self._late_ns >= since_ns for fault in self._faults)

    def is_late(self, at_ns: int, seen_ns: int) -> bool:
        """Return whether a change was seen after its deadline."""
        return seen_ns - at_ns > self._late_ns and seen_ns > self.of(at_ns)


@dataclass(slots=True)
class CopyOfView:
    """The copy that a client makes of the frames of its connections.

    ``is_known``: it began with a full copy. ``is_on_lost_branch``: it may contain what a failover lost, until a sync
    object corrects it.
    """

    items: dict[str, int] = field(default_factory=dict)
    sum: int = 0
    is_known: bool = True
    is_on_lost_branch: bool = False

    def change(self, create: dict[str, int], dismiss: Iterable[str]) -> None:
        """Apply a change."""
        for item_id in dismiss:
            leaf = self.items.pop(item_id, None)
            if leaf is not None:
                self.sum = subtract_lanes(self.sum, leaf)
        for item_id, leaf in create.items():
            before = self.items.get(item_id)
            if before is not None:
                self.sum = subtract_lanes(self.sum, before)
            self.items[item_id] = leaf
            self.sum = add_lanes(self.sum, leaf)

    def replace(self, items: dict[str, int]) -> None:
        """Replace everything by a full copy."""
        self.items, self.sum, self.is_known = items, sum_lanes(items.values()), True


@dataclass(frozen=True, slots=True)
class ReaderContext:
    """The log and the evidence with which the connections of one user are compared. ``lost``: the lost branches."""

    log: UserLog
    evidence: UserEvidence
    deadlines: VisibilityDeadlines
    lost: Sequence[LostBranch] = ()


class ConnectionCheck:
    """One connection, from its start to its end.

    The connection may be on a branch that a failover lost. Its frames are then not compared until a sync object
    contains the surviving history again.
    """

    def __init__(self, op: ConnectOp, context: ReaderContext, before: CopyOfView) -> None:
        self.copy = before
        self.findings: list[Anomaly] = []
        self._op = op
        self._name = f"connection {op.conn} of {op.device or 'an observer'}"
        self._key = reader_key(op)
        self._log = context.log
        self._view = context.log.views[self._key]
        self._evidence = context.evidence
        self._deadlines = context.deadlines
        self._lost = context.lost
        # A resumed copy does not get the reminders of the time between; a long poll does not even say that it resumed.
        self._is_confirmed = False
        self._position: int | None = None
        self._epoch = ""
        if op.cursor is not None:
            self._epoch, self._position = op.cursor[:6], int(op.cursor.rpartition("-")[2])

    def finding(self, name: str, text: str, *lines: int) -> None:
        """Add a finding, unless there are too many already."""
        if len(self.findings) < MAX_FINDINGS:
            found = tuple(line for line in lines if line)
            self.findings.append(Anomaly(name, self._op.uid, f"{self._name} {text}", found))

    def frame(self, op: FrameOp, change: SeenChange | None) -> None:
        """Check one frame. ``change``: what a live frame shows."""
        if change is not None:
            self._live(op, change)
        elif op.frame.sync is not None and op.frame.cursor is not None and op.frame.seq is not None:
            self._sync(op, op.frame.seq, op.frame.cursor[:6])

    def end(self, at_ns: int) -> None:
        """Check at the end of the connection, or of the history, that it got every change whose deadline has passed."""
        if self._position is None:
            return
        if self.copy.is_on_lost_branch:
            if any(self._deadlines.of(branch.failover.ended) < at_ns for branch in self._lost):
                self.finding("never-seen", "stayed in a history that a failover cut off, and was never corrected")
            return
        for change in self._view.between(self._position, self._log.seq):
            if change.ended and not change.is_silent and self._deadlines.of(change.ended) < at_ns:
                self.finding(
                    "never-seen",
                    f"was open to the end and did not get {_describe_change(self._log, change)}",
                    change.line,
                )
                return

    # ---- live frames

    def _live(self, op: FrameOp, change: SeenChange) -> None:
        seq, cursor = change.seq, op.frame.cursor
        if cursor is not None:
            self._epoch = cursor[:6]
        elif self._position is None:
            return
        position = self._position or 0
        if cursor is None and seq <= position:
            name = "twice" if seq == position else "regress"
            self.finding(name, f"got a frame of seq {seq} after it had seq {position}", op.line)
            return
        view, place = self._view, self._view.index_of(seq)
        found = view.changes[place] if place < len(view.seqs) and view.seqs[place] == seq else None
        may_be_on_lost = self._may_be_on_lost_branch(seq, op.at)
        if found is not None and found.is_shown_by(change):
            self._seen(found, op.at, op.line)
        elif may_be_on_lost:
            self.copy.is_on_lost_branch = True
        elif found is not None and found.is_silent and change.is_empty:
            pass  # the seq was a guess: another message of unknown outcome has it
        elif found is not None or not change.is_empty or seq > self._log.seq:
            self._explain_frame(found, change)
        if place and view.seqs[place - 1] > position and not (self.copy.is_on_lost_branch or may_be_on_lost):
            self._check_skipped(view.last_shown(place, with_reminders=self._is_confirmed), position, change)
        self.copy.change({item_id: item.leaf for item_id, item in change.created.items()}, change.gone)
        self._position, self._is_confirmed = seq, True

    def _check_skipped(self, skipped: ViewChange | None, position: int, change: SeenChange) -> None:
        """Add the finding for a change between the position and a live frame that no frame has shown."""
        if skipped is None or skipped.seq <= position or self._is_hidden(skipped):
            return
        # After a resume, or after a failure, the gateway compares the copy and sends no frame for an empty delta.
        is_compared = not self._is_confirmed or self._deadlines.has_failure(skipped.ended or change.at, change.at)
        if is_compared and self._view.is_delta_empty(position, change.seq - 1):
            return
        words = _describe_change(self._log, skipped)
        self.finding("skip", f"got seq {change.seq} and did not get {words}", skipped.line, change.line)

    def _may_be_hidden(self, item_id: str) -> bool:
        return self._log.may_be_hidden(item_id, self._key.view.device)

    def _is_hidden(self, change: ViewChange) -> bool:
        ids = (*change.created, *change.gone)
        return bool(ids) and all(map(self._may_be_hidden, ids))

    def _may_be_on_lost_branch(self, seq: int, at_ns: int) -> bool:
        return any(branch.may_hold(seq, at_ns) for branch in self._lost)

    def _explain_frame(self, found: ViewChange | None, change: SeenChange) -> None:
        line, seq = change.line, change.seq
        expected: dict[str, int] = {} if found is None else found.created
        extra = [item_id for item_id in change.created if item_id not in expected]
        missing = [item_id for item_id in expected if item_id not in change.created]
        gone = [] if found is None else [item_id for item_id in found.gone if item_id not in change.gone]
        lines = (line, found.line if found is not None else 0)
        if not extra and any(map(self._may_be_hidden, (*missing, *gone))):
            return  # the device hid it before, by a message of unknown outcome
        if extra:
            name = "resurrected" if all(item_id in self._log.model.gone for item_id in extra) else "aborted-read"
            self.finding(name, f"got {', '.join(extra)} at seq {seq}, which its message did not create", *lines)
        elif missing or gone:
            name = "half" if not change.is_empty else "skip"
            self.finding(name, f"got only a part of {_describe_change(self._log, found)}", *lines)
        else:
            self.finding("wrong-delta", f"got a frame of seq {seq} that differs from its message", *lines)

    # ---- sync objects

    def _sync(self, op: FrameOp, seq: int, epoch: str) -> None:
        frame, position = op.frame, self._position
        self._apply_sync(frame, op.at)
        reported = digest_of_text(frame.digest) if frame.digest else self.copy.sum
        was_on_lost, expected = self.copy.is_on_lost_branch, self._view.sum_at(seq)
        may_be_on_lost = self._may_be_on_lost_branch(seq, op.at)
        # A delta does not correct a copy of a lost branch. Its digest shows the client that the copy is wrong.
        is_uncorrected = was_on_lost and frame.sync != "full" and self.copy.sum != expected
        self.copy.is_on_lost_branch = is_uncorrected or (may_be_on_lost and reported != expected)
        if not (was_on_lost or may_be_on_lost) and position is not None and epoch == self._epoch:
            # After a failover the history of a user may be shorter; the server then sends a full copy.
            if not (self._lost and frame.sync == "full"):
                if seq < position:
                    self.finding("regress", f"got a sync object of seq {seq} after it had seq {position}", op.line)
                self._check_external(frame, position, seq, op.line)
            for change in self._view.between(position, seq):
                self._seen(change, op.at, op.line)
        if not self.copy.is_on_lost_branch:
            self._check_sums(frame, seq, epoch, op.line)
        self._position, self._epoch, self._is_confirmed = seq, epoch, True

    def _apply_sync(self, frame: WireFrame, at: int) -> None:
        body = decode_body(frame.body)
        create = {item_id: item.leaf for item_id, item in self._evidence.items(body.create or {}, at).items()}
        if frame.sync == "full":
            self.copy.replace(create)
        else:
            self.copy.change({}, body.dismiss.ids)
            self.copy.change(create, ())

    def _check_sums(self, frame: WireFrame, seq: int, epoch: str, line: int) -> None:
        log, view = self._log, self._view
        if seq > log.seq:
            self.finding("hole", f"got a sync object of seq {seq}; no request has this seq", line)
            return
        if seq and log.epoch_at(seq) != epoch:
            known = log.epoch_at(seq)
            self.finding("wrong-delta", f"got a cursor of epoch {epoch} at seq {seq}, which is of {known}", line)
        expected = view.sum_at(seq)
        reported = digest_of_text(frame.digest) if frame.digest else None
        if reported is not None and reported not in (expected, self.copy.sum) and self.copy.is_known:
            self.finding("wrong-digest", f"got a digest that is not that of seq {seq}", line)
        if self.copy.is_known and self.copy.sum != expected:
            if reported is None or reported == expected:
                self.finding("wrong-delta", f"has another copy than the view of seq {seq} after a sync object", line)
            else:
                for name, text, source in differences(log, view, seq, self.copy.items):
                    self.finding(name, f"got a copy of seq {seq} that differs: {text}", line, source)
                self.copy.replace(view.items_at(seq))

    def _check_external(self, frame: WireFrame, position: int, seq: int, line: int) -> None:
        if frame.external_gap:
            return
        got = {external.seq: external for external in frame.external}
        for change in self._view.between(position, seq):
            if change.system == GREGOR or not is_allowed(self._key.systems, change.system):
                continue
            external = got.pop(change.seq, None)
            if change.is_silent and external is None:
                continue
            if external is None or external.system != change.system:
                words = _describe_change(self._log, change)
                self.finding("skip", f"resumed at seq {seq} without {words}", change.line, line)
            elif canonical_json(decode_json(external.body)) != change.external:
                self.finding("wrong-delta", f"got another body of the external message {change.seq}", line)
        for wrong in got:
            name = "twice" if wrong <= position else "aborted-read"
            self.finding(name, f"got the external message of seq {wrong} again or without a request", line)

    # ---- live frames and sync objects

    def _seen(self, change: ViewChange, at_ns: int, line: int) -> None:
        # What happened while the device was away is due from its connection on.
        due_ns = max(change.ended, self._op.at)
        if change.ended and self._deadlines.is_late(due_ns, at_ns):
            after_s = (at_ns - due_ns) / SECOND_NS
            self.finding(
                "late", f"got {_describe_change(self._log, change)} only after {after_s:.1f} s", change.line, line
            )


def _describe_change(log: UserLog, change: ViewChange | None) -> str:
    """Return a change in words, by the message that made it."""
    applied = None if change is None else log.applied.get(change.seq)
    if applied is None or change is None:
        return "the change"
    return f"seq {change.seq} ({applied.words})"


def check_connections(
    ops: Sequence[ConnectOp | FrameOp | CloseOp],
    changes: dict[int, SeenChange],
    context: ReaderContext,
    end_ns: int,
) -> list[Anomaly]:
    """Return the findings about all connections of a user. ``changes``: by the line of the frame."""
    checks: dict[str, ConnectionCheck] = {}
    copies: dict[str, CopyOfView] = {}
    findings: list[Anomaly] = []
    for op in ops:
        if isinstance(op, ConnectOp):
            resumed = copies.get(op.resumes or "")
            before = CopyOfView(is_known=op.cursor is None) if resumed is None else resumed
            checks[op.conn] = ConnectionCheck(op, context, before)
            copies[op.conn] = before
        elif op.conn in checks:
            check = checks[op.conn]
            if isinstance(op, FrameOp):
                try:
                    check.frame(op, changes.get(op.line))
                except MALFORMED as error:
                    raise malformed(op.line, error) from None
            else:
                check.end(op.at)
                findings += checks.pop(op.conn).findings
    for check in checks.values():
        check.end(end_ns)
        findings += check.findings
    return findings
