"""Publishes the webhook events of acknowledged items, in parts.

One acknowledgement may cover all live items of a user, and a device may acknowledge many views. An item is reported
once for each device: events that are in the ledger are neither planned nor published again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final

from gregor.core.items.sync import Delta, Full, StoredItem, View, cursor_for
from gregor.core.limits import SECOND_US
from gregor.core.notify.acknowledged_views import readable_view, shows_category
from gregor.core.notify.intents import WEBHOOK, Intent
from gregor.core.notify.webhook_events import WebhookEvent, WebhookEventType
from gregor.store.contract.agenda import CompletedWork, DueWork
from gregor_scheduler.context import SchedulerContext

from .publishing import event_intents, publish_intents

MAX_ITEMS: Final = 64
"""Items whose events are looked up, planned and published together. Other users are served in between."""
MAX_EVENTS: Final = 256
"""Events of one acknowledgement that are published under one lease. The rest is published after ``PAUSE_US``."""
PAUSE_US: Final = SECOND_US // 10
"""Pause before the next part of an acknowledgement."""
SPREAD_US: Final = 5 * SECOND_US
"""Acknowledgements above the share are retried at a random time within this: few are then read at once."""


async def publish_acknowledged(context: SchedulerContext, uid: str, work: DueWork) -> CompletedWork:
    """Publish the events of the acknowledged items that are still live. The others have their removal event.

    If the user is above the share, the work is retried after the share has refilled.
    """
    await context.webhooks.refresh_if_older_than(work.at_us, context.clock.now_us())
    if work.view is None or not context.webhooks.wants(WebhookEventType.ACKED):
        return CompletedWork(work)
    # Before the items are read: an acknowledgement above the share must cost little.
    if wait_s := context.publisher.share_wait_s(uid, WEBHOOK, MAX_ITEMS):
        return _retry_later(context, work, wait_s)
    items = await _created_since(context, uid, work.view, work.n)
    return await _publish(context, uid, work, items)


async def _created_since(context: SchedulerContext, uid: str, view: View, seq: int) -> Sequence[StoredItem]:
    """Return the live items of a view that were created after ``seq``, and possibly older ones."""
    users, view, now_us = context.store.users, readable_view(view), context.clock.now_us()
    [position] = await users.heads([uid]) if seq else [None]
    if position is None:
        return (await users.state(uid, view, now_us)).items
    match await users.sync(uid, view, cursor_for(position.epoch, view, seq), None, now_us, ()):
        case Full(items=items) | Delta(create=items):
            return items
    return ()


def _retry_later(context: SchedulerContext, work: DueWork, wait_s: float) -> CompletedWork:
    return CompletedWork(work, context.clock.now_us() + round(wait_s * SECOND_US) + random.randrange(SPREAD_US))


def _is_acknowledged(item: StoredItem, work: DueWork) -> bool:
    prefixes = work.view.category_filter if work.view is not None else ()
    return work.n < item.seq <= work.seq and shows_category(prefixes, item.category)


async def _publish(context: SchedulerContext, uid: str, work: DueWork, items: Sequence[StoredItem]) -> CompletedWork:
    """Publish the missing events of the acknowledged items among these, up to ``MAX_EVENTS``."""
    unpublished, published = context.unpublished.take(uid, work.entry), 0
    for start in range(0, len(items), MAX_ITEMS):
        # With a long filter and deep categories, an item takes 0.1 ms: other tasks run between the parts.
        await asyncio.sleep(0)
        acknowledged = [each for each in items[start : start + MAX_ITEMS] if _is_acknowledged(each, work)]
        if not acknowledged:
            continue
        intents = await event_intents(context, _events(uid, work, acknowledged))
        unknown = await context.store.ledger.unknown(intents)
        new = [each for each in intents if each in unknown or each.key in unpublished]
        if not new:
            continue
        if published and published + len(new) > MAX_EVENTS:
            return CompletedWork(work, context.clock.now_us() + PAUSE_US)
        done = await _publish_new(context, uid, work, new)
        if done.again_us is not None:
            return done
        published += len(new)
    return CompletedWork(work)


def _events(uid: str, work: DueWork, items: Sequence[StoredItem]) -> list[WebhookEvent]:
    return [
        WebhookEvent(
            WebhookEventType.ACKED, uid, item.id, item.category, work.at_us, item.seq, item.created_us, device=work.name
        )
        for item in items
    ]


async def _publish_new(context: SchedulerContext, uid: str, work: DueWork, intents: Sequence[Intent]) -> CompletedWork:
    """Plan and publish these events if the share of the user allows it. Until then they are remembered."""
    context.unpublished.add(uid, work.entry, intents)
    context.publisher.raise_if_paused()
    if wait_s := context.publisher.take_share(intents):
        return _retry_later(context, work, wait_s)
    done = await publish_intents(context, work, intents, has_share=True)
    if done.again_us is None:
        context.unpublished.take(uid, work.entry)
    return done
