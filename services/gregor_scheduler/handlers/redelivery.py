"""Publishes overdue deliveries again, because the queue may have lost them.

The ledger is stored beside the user's state, and the queue in another Redis. That Redis may be restored from an older
backup, or restart empty. An intent that is still queued is deduplicated by its key and sent once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gregor.core.limits import SECOND_US
from gregor.core.notify.ledger import OVERDUE_US, DeliveryRecord, DeliveryState
from gregor.store.contract.agenda import CompletedWork, DueWork
from gregor_scheduler.context import SchedulerContext

from .publishing import later_us

GRACE_US: Final = 600 * SECOND_US
"""Tolerated delay of a delivery, for a slow provider or a long queue, before it is published again."""


async def republish_overdue(context: SchedulerContext, uid: str, work: DueWork) -> CompletedWork:
    """Publish the overdue deliveries of an item again. Check again, with growing intervals, until all are final."""
    records = await context.store.ledger.of_item(uid, work.name)
    unfinished = [record for record in records if not record.is_over]
    if not unfinished:
        return CompletedWork(work)
    now_us = context.clock.now_us()
    overdue = [record for record in unfinished if due_us(record) + _grace_us(record) <= now_us]
    if await _publish(context, [record for record in overdue if _is_replay(record)], has_share=True):
        return CompletedWork(work, later_us(now_us))
    if await _publish(context, [record for record in overdue if not _is_replay(record)], has_share=False):
        return CompletedWork(work, later_us(now_us))
    oldest_us = min(map(due_us, unfinished))
    return CompletedWork(work, max(now_us + max(OVERDUE_US, now_us - oldest_us), oldest_us + GRACE_US))


async def _publish(context: SchedulerContext, records: Sequence[DeliveryRecord], *, has_share: bool) -> bool:
    """Publish deliveries. Return whether some were refused: the stream is full, or their user is above the share.

    ``has_share``: the share of a user does not limit them, as an operator replays them.
    """
    if not records:
        return False
    context.publisher.raise_if_paused()
    intents = [record.intent for record in records]
    refused = await context.publisher.publish(intents, has_share=has_share)
    for intent in intents:
        if intent not in refused:
            context.metrics.republished.labels(intent.channel).inc()
    return bool(refused)


def due_us(record: DeliveryRecord) -> int:
    """Return the time at which the delivery service should have started the next attempt (µs)."""
    if record.state is DeliveryState.CLAIMED or record.is_expedited:
        return record.lease_until_us
    return record.history.next_us or record.history.begun_us


def _grace_us(record: DeliveryRecord) -> int:
    """Return the tolerated delay: none for replays and expedited deliveries, which are not published yet."""
    return 0 if _is_replay(record) or record.is_expedited else GRACE_US


def _is_replay(record: DeliveryRecord) -> bool:
    return record.state is DeliveryState.PLANNED and record.history.replayed_us is not None
