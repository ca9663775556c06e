"""Publishes overdue deliveries again, because the queue may have lost them.

The ledger is stored beside the user's state, and the queue in another Redis. That Redis may be restored from an older
backup, or restart empty. An intent that is still queued is deduplicated by its key and sent once.
"""

from __future__ import annotations

from typing import Final

from gregor.core.limits import SECOND_US
from gregor.core.notify.ledger import OVERDUE_US, DeliveryRecord, DeliveryState
from gregor.store.contract.agenda import CompletedWork, DueWork
from gregor_scheduler.context import SchedulerContext

GRACE_US: Final = 600 * SECOND_US
"""Tolerated delay of a delivery, for a slow provider or a long queue, before it is published again."""


async def republish_overdue(context: SchedulerContext, uid: str, work: DueWork) -> CompletedWork:
    """Publish the overdue deliveries of an item again. Check again, with growing intervals, until all are final."""
    records = await context.store.ledger.of_item(uid, work.name)
    unfinished = [record for record in records if not record.is_over]
    if not unfinished:
        return CompletedWork(work)
    now_us = context.clock.now_us()
    overdue = [record.intent for record in unfinished if due_us(record) + _grace_us(record) <= now_us]
    if overdue:
        context.publisher.raise_if_paused()
        await context.publisher.publish(overdue)
        for intent in overdue:
            context.metrics.republished.labels(intent.channel).inc()
    oldest_us = min(map(due_us, unfinished))
    return CompletedWork(work, max(now_us + max(OVERDUE_US, now_us - oldest_us), oldest_us + GRACE_US))


def due_us(record: DeliveryRecord) -> int:
    """Return the time at which the delivery service should have started the next attempt (µs)."""
    if record.state is DeliveryState.CLAIMED or record.is_expedited:
        return record.lease_until_us
    return record.history.next_us or record.history.begun_us


def _grace_us(record: DeliveryRecord) -> int:
    """Return the tolerated delay: none for replays and expedited deliveries, which are not published yet."""
    is_replay = record.state is DeliveryState.PLANNED and record.history.replayed_us is not None
    return 0 if is_replay or record.is_expedited else GRACE_US
