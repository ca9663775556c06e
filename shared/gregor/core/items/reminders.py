"""The reminders of an item that fire, and their times (semantics.md L7).

Other places have the same rules: see semantics.md, "Where each rule lives".
"""

from __future__ import annotations

from gregor.core.messages.model import Creation


def firing_reminders(item: Creation, now_us: int) -> range:
    """Return the indexes of the reminders that fire after ``now_us``.

    If several reminders are already past, only the latest of them fires. No reminder fires at or after the expiry.
    """
    last = sum(is_before_expiry(item, at_us) for at_us in item.remind_at_us)
    past = sum(at_us <= now_us for at_us in item.remind_at_us[:last])
    return range(max(0, past - 1), last)


def is_before_expiry(item: Creation, at_us: int) -> bool:
    """Return whether ``at_us`` is before the item's expiry. An item without expiry never expires."""
    return item.expires_us is None or at_us < item.expires_us
