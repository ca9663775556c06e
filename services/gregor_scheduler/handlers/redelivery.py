"""Deliveries that should be over and are not: the queue may have lost them, so they are handed over again.

The ledger is beside the user's state, the queue elsewhere: it may be restored from an older copy, or come back empty.
What is in the queue all the same is known again by its key, and sent once.
"""

from __future__ import annotations

from typing import Final

from gregor.core.limits import SECOND_US
from gregor.core.notify.ledger import OVERDUE_US, DeliveryRecord, DeliveryState
from gregor.store.contract.agenda import CompletedWork, DueWork
from gregor_scheduler.context import Parts

GRACE_US: Final = 600 * SECOND_US
"""How long something may be late, for a provider that is slow or a long queue, before it is handed over again."""


async def hand_over_again(parts: Parts, uid: str, work: DueWork) -> CompletedWork:
    """Hand over what is late; look again as long as anything is not over, the later the longer that lasts."""
    told = await parts.store.ledger.of_item(uid, work.name)
    left = [each for each in told if not each.is_over]
    if not left:
        return CompletedWork(work)
    now_us = parts.clock.now_us()
    late = [each.intent for each in left if due_us(each) + _grace_us(each) <= now_us]
    if late:
        parts.handover.check()
        await parts.handover.give(late)
        for intent in late:
            parts.figures.handed_over_again.labels(intent.channel).inc()
    oldest_us = min(map(due_us, left))
    return CompletedWork(work, max(now_us + max(OVERDUE_US, now_us - oldest_us), oldest_us + GRACE_US))


def due_us(delivery: DeliveryRecord) -> int:
    """When the delivery service has it in hand at the latest (µs)."""
    if delivery.state is DeliveryState.CLAIMED or delivery.is_hastened:
        return delivery.lease_until_us
    return delivery.history.next_us or delivery.history.begun_us


def _grace_us(delivery: DeliveryRecord) -> int:
    """None for a replay, and for what was to wait longer: whoever wanted it has not handed it over."""
    is_replay = delivery.state is DeliveryState.PLANNED and delivery.history.replayed_us is not None
    return 0 if is_replay or delivery.is_hastened else GRACE_US
