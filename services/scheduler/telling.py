"""What happened to items, handed over for the webhooks that want to hear of it (docs/webhooks.md)."""

from __future__ import annotations

from collections.abc import Sequence

from gregor.core.events import Event, EventType, intents_of
from gregor.core.intents import Intent
from gregor.core.messages import Reason
from gregor.core.sync import StoredItem
from gregor.store.agenda import Work, WorkKind

from .parts import Parts


async def told(parts: Parts, uid: str, work: Work) -> list[Intent]:
    """What is to be handed over of something that left, was hidden, or was shown. Raises ``Unavailable``."""
    await parts.webhooks.as_of(work.at_us, parts.clock.now_us())
    if not parts.webhooks.current:
        return []
    events = await _acked(parts, uid, work) if work.kind is WorkKind.ACKED else _gone(uid, work)
    return intents_of(events, parts.webhooks.current, parts.clock.now_us())


def _gone(uid: str, work: Work) -> Sequence[Event]:
    """Of what left, for all or for the device that hid it; nothing where it is forgotten by now."""
    item, gone = work.item, work.gone
    if item is None or gone is None:
        return ()
    kind = EventType.EXPIRED if gone.reason is Reason.EXPIRED else EventType.DISMISSED
    return (
        Event(
            kind,
            uid,
            item.id,
            item.category,
            gone.at_us,
            gone.seq,
            device=gone.device,
            reason=gone.reason.word,
            for_device=item.for_device,
        ),
    )


async def _acked(parts: Parts, uid: str, work: Work) -> Sequence[Event]:
    """Of the items that a view showed its user: those that it still holds. Of one that left, its leaving is told."""
    if work.view is None or not parts.webhooks.wants(EventType.ACKED):
        return ()
    copy = await parts.store.users.state(uid, work.view, parts.clock.now_us())
    shown: list[StoredItem] = [item for item in copy.items if work.n < item.seq <= work.seq]
    device = work.view.device
    return [Event(EventType.ACKED, uid, item.id, item.category, work.at_us, item.seq, device=device) for item in shown]
