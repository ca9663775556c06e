"""The outcome of a resume: what the first sync of a connection sends, and why a full copy was needed. Pure."""

from __future__ import annotations

from gregor.core.items.sync import NO_EPOCH, Delta, SyncResult, Unchanged, View, cursor_for, epoch_text

from .hello import Position


def resume_outcome(position: Position, view: View, result: SyncResult) -> tuple[str, str]:
    """Return the outcome, and the reason of a full copy, for the metrics.

    The reasons: ``new`` (the client has no copy), ``epoch`` (the cursor is of another history), ``view`` (of another
    device or filter), ``ahead`` (Redis has lost what the client knows), ``digest`` (the copy differs), ``behind`` (the
    change is larger than the copy, or the history was trimmed).
    """
    if isinstance(result, Unchanged):
        return "unchanged", "none"
    if isinstance(result, Delta):
        return "delta", "none"
    cursor = position.cursor
    if cursor is None:
        return "full", "new" if position.digest is None else "digest"
    epoch = cursor.tag[: 2 * len(NO_EPOCH)]
    if epoch != epoch_text(result.epoch):
        return "full", "new" if epoch == epoch_text(NO_EPOCH) else "epoch"
    if cursor.tag != cursor_for(result.epoch, view, 0).tag:
        return "full", "view"
    if cursor.seq == result.seq:
        return "full", "digest"
    return "full", "ahead" if cursor.seq > result.seq else "behind"
