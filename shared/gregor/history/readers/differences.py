"""Differences between the items that a reader got and the view of that seq, each with its name and the message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gregor.history.replay.log import UserLog
from gregor.history.views import ViewLog

MAX_DIFFERENCES = 5


def differences(log: UserLog, view: ViewLog, seq: int, items: Mapping[str, int]) -> Iterator[tuple[str, str, int]]:
    """Yield (anomaly, text, line of the message) for the items that are missing, extra or changed in a copy."""
    expected, device = view.items_at(seq), view.key.view.device
    missing = [item_id for item_id in expected if item_id not in items and not log.may_be_hidden(item_id, device)]
    extra = [item_id for item_id in items if item_id not in expected]
    changed = [item_id for item_id, leaf in expected.items() if items.get(item_id, leaf) != leaf]
    for item_id in missing[:MAX_DIFFERENCES]:
        record = log.model.record(item_id)
        applied = log.applied.get(record.seq) if record is not None else None
        siblings = (
            []
            if record is None
            else [
                other.item.id
                for other in (*log.model.live.values(), *log.model.gone.values())
                if other.seq == record.seq
            ]
        )
        is_half = any(other in items for other in siblings)
        text = f"{item_id} is missing" + (f", created at seq {applied.seq} by {applied.words}" if applied else "")
        yield "half" if is_half else "lost-write", text, applied.line if applied else 0
    for item_id in extra[:MAX_DIFFERENCES]:
        record = log.model.record(item_id)
        if record is None:
            yield "aborted-read", f"{item_id} is live, which no accepted message created", 0
        elif record.seq > seq:
            yield "wrong-delta", f"{item_id} is live, which was created later, at seq {record.seq}", 0
        else:
            removal = record.left(view.key.view)
            applied = log.applied.get(removal.seq) if removal is not None else None
            words = f", removed at seq {applied.seq} by {applied.words}" if applied else ""
            yield "resurrected", f"{item_id} is live{words}", applied.line if applied else 0
    for item_id in changed[:MAX_DIFFERENCES]:
        yield "wrong-delta", f"{item_id} has another content than its message", 0
