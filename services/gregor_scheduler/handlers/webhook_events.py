"""What happened to items, handed over for the webhooks that want to hear of it (docs/how-to/webhooks.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gregor.core.ids import BACKEND
from gregor.core.items.sync import View
from gregor.core.messages.model import RemovalReason
from gregor.core.notify.intents import Intent
from gregor.core.notify.ledger import DeliveryState, delivery_key
from gregor.core.notify.webhook_events import DeliveryReport, WebhookEvent, WebhookEventType, webhook_intents
from gregor.store.contract.agenda import DueWork, WorkKind
from gregor_scheduler.context import Parts

_OUTCOMES: Final = {
    DeliveryState.SENT: WebhookEventType.SENT,
    DeliveryState.WITHDRAWN: WebhookEventType.SENT,
    DeliveryState.DEAD: WebhookEventType.DEAD,
}


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
    return webhook_intents(events, parts.webhooks.current, parts.clock.now_us())


def _gone(uid: str, work: DueWork) -> Sequence[WebhookEvent]:
    """Of what left, for all or for the device that hid it; nothing where it is forgotten by now."""
    item, gone = work.item, work.gone
    if item is None or gone is None:
        return ()
    return (
        WebhookEvent(
            WebhookEventType.EXPIRED if gone.reason is RemovalReason.EXPIRED else WebhookEventType.DISMISSED,
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


async def _acked(parts: Parts, uid: str, work: DueWork) -> Sequence[WebhookEvent]:
    """Of the items that a view showed its user: those that it still holds. Of one that left, its leaving is told."""
    if work.view is None or not parts.webhooks.wants(WebhookEventType.ACKED):
        return ()
    copy = await parts.store.users.state(uid, work.view, parts.clock.now_us())
    return [
        WebhookEvent(WebhookEventType.ACKED, uid, item.id, item.category, work.at_us, item.seq, device=work.view.device)
        for item in copy.items
        if work.n < item.seq <= work.seq
    ]


async def _settled(parts: Parts, uid: str, work: DueWork) -> Sequence[WebhookEvent]:
    """Of a delivery to the user that was sent, or never will be; nothing where it was taken up again since."""
    known = await parts.store.ledger.of_item(uid, work.name)
    delivery = next((each for each in known if delivery_key(each.intent) == work.delivery), None)
    kind = None if delivery is None else _OUTCOMES.get(delivery.state)
    if delivery is None or kind is None or not parts.webhooks.wants(kind):
        return ()
    entry = await parts.store.users.item(uid, work.name, View(BACKEND), parts.clock.now_us())
    intent, history = delivery.intent, delivery.history
    status = history.attempts[-1].status if history.attempts else None
    return (
        WebhookEvent(
            kind,
            uid,
            work.name,
            None if entry is None else entry.category,
            history.last_us,
            intent.seq,
            device=intent.device or None,
            reason=history.reason,
            told=DeliveryReport(intent.channel, intent.kind.value, intent.n, delivery.n, status),
        ),
    )
