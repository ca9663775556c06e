"""What happened to items, handed over for the webhooks that want to hear of it (docs/how-to/webhooks.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gregor.core.ids import BACKEND
from gregor.core.items.sync import View
from gregor.core.messages.model import Reason
from gregor.core.notify.intents import Intent
from gregor.core.notify.ledger import State, key_of
from gregor.core.notify.webhook_events import Event, EventType, Told, intents_of
from gregor.store.contract.agenda import DueWork, WorkKind
from gregor_scheduler.context import Parts

_OUTCOMES: Final = {State.SENT: EventType.SENT, State.WITHDRAWN: EventType.SENT, State.DEAD: EventType.DEAD}


async def told(parts: Parts, uid: str, work: DueWork) -> list[Intent]:
    """What is to be handed over of something that left, was hidden, shown, sent or given up. Raises ``Unavailable``."""
    await parts.webhooks.refresh_if_older_than(work.at_us, parts.clock.now_us())
    if not parts.webhooks.current:
        return []
    match work.kind:
        case WorkKind.ACKED:
            events = await _acked(parts, uid, work)
        case WorkKind.SETTLED:
            events = await _settled(parts, uid, work)
        case _:
            events = _gone(uid, work)
    return intents_of(events, parts.webhooks.current, parts.clock.now_us())


def _gone(uid: str, work: DueWork) -> Sequence[Event]:
    """Of what left, for all or for the device that hid it; nothing where it is forgotten by now."""
    item, gone = work.item, work.gone
    if item is None or gone is None:
        return ()
    return (
        Event(
            EventType.EXPIRED if gone.reason is Reason.EXPIRED else EventType.DISMISSED,
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


async def _acked(parts: Parts, uid: str, work: DueWork) -> Sequence[Event]:
    """Of the items that a view showed its user: those that it still holds. Of one that left, its leaving is told."""
    if work.view is None or not parts.webhooks.wants(EventType.ACKED):
        return ()
    copy = await parts.store.users.state(uid, work.view, parts.clock.now_us())
    return [
        Event(EventType.ACKED, uid, item.id, item.category, work.at_us, item.seq, device=work.view.device)
        for item in copy.items
        if work.n < item.seq <= work.seq
    ]


async def _settled(parts: Parts, uid: str, work: DueWork) -> Sequence[Event]:
    """Of a delivery to the user that was sent, or never will be; nothing where it was taken up again since."""
    known = await parts.store.ledger.of_item(uid, work.name)
    delivery = next((each for each in known if key_of(each.intent) == work.delivery), None)
    kind = None if delivery is None else _OUTCOMES.get(delivery.state)
    if delivery is None or kind is None or not parts.webhooks.wants(kind):
        return ()
    entry = await parts.store.users.item(uid, work.name, View(BACKEND), parts.clock.now_us())
    intent, story = delivery.intent, delivery.story
    status = story.attempts[-1].status if story.attempts else None
    return (
        Event(
            kind,
            uid,
            work.name,
            None if entry is None else entry.category,
            story.last_us,
            intent.seq,
            device=intent.device or None,
            reason=story.reason,
            told=Told(intent.channel, intent.kind.value, intent.n, delivery.n, status),
        ),
    )
