"""Publishes webhook events: items that were removed or hidden, and outcomes of deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gregor.core.ids import BACKEND
from gregor.core.items.sync import View
from gregor.core.messages.model import RemovalReason
from gregor.core.notify.intents import Intent
from gregor.core.notify.ledger import DeliveryState, delivery_key
from gregor.core.notify.webhook_events import DeliveryReport, WebhookEvent, WebhookEventType
from gregor.store.contract.agenda import CompletedWork, DueWork, WorkKind
from gregor_scheduler.context import SchedulerContext

from .publishing import event_intents, publish_intents

_OUTCOMES: Final = {
    DeliveryState.SENT: WebhookEventType.SENT,
    DeliveryState.WITHDRAWN: WebhookEventType.SENT,
    DeliveryState.DEAD: WebhookEventType.DEAD,
}


async def publish_webhook_events(context: SchedulerContext, uid: str, work: DueWork) -> CompletedWork:
    """Publish the events of this work for all webhooks that want them. Needs no queue if no webhook does."""
    intents = await _intents(context, uid, work)
    if intents:
        context.publisher.raise_if_paused()
    return await publish_intents(context, work, intents)


async def _intents(context: SchedulerContext, uid: str, work: DueWork) -> list[Intent]:
    await context.webhooks.refresh_if_older_than(work.at_us, context.clock.now_us())
    if not context.webhooks.current:
        return []
    match work.kind:
        case WorkKind.SETTLED:
            events = await _delivered(context, uid, work)
        case _:
            events = _removed(uid, work)
    return await event_intents(context, events)


def _removed(uid: str, work: DueWork) -> Sequence[WebhookEvent]:
    """Return the event of an item that was removed, or hidden by a device. Empty if its history is deleted already."""
    item, removal = work.item, work.gone
    if item is None or removal is None:
        return ()
    return (
        WebhookEvent(
            WebhookEventType.EXPIRED if removal.reason is RemovalReason.EXPIRED else WebhookEventType.DISMISSED,
            uid,
            item.id,
            item.category,
            removal.at_us,
            removal.seq,
            removal.at_us,
            device=removal.device,
            reason=removal.reason.wire_name,
            for_device=item.for_device,
        ),
    )


async def _delivered(context: SchedulerContext, uid: str, work: DueWork) -> Sequence[WebhookEvent]:
    """Return the event of a delivery that was sent or is dead. Empty if the delivery was replayed since."""
    records = await context.store.ledger.of_item(uid, work.name)
    record = next((record for record in records if delivery_key(record.intent) == work.delivery), None)
    event_type = None if record is None else _OUTCOMES.get(record.state)
    if record is None or event_type is None or not context.webhooks.wants(event_type):
        return ()
    entry = await context.store.users.item(uid, work.name, View(BACKEND), context.clock.now_us())
    intent, history = record.intent, record.history
    status = history.attempts[-1].status if history.attempts else None
    return (
        WebhookEvent(
            event_type,
            uid,
            work.name,
            None if entry is None else entry.category,
            history.last_us,
            intent.seq,
            history.planned_us,
            device=intent.device or None,
            reason=history.reason,
            report=DeliveryReport(intent.channel, intent.kind.value, intent.n, record.n, status),
        ),
    )
