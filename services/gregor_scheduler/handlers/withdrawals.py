"""Handles a removed item: cancels its pending notifications and withdraws pushes that are on screens (L15).

Idempotent: final deliveries stay final, and the key of a withdrawal deduplicates it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from gregor.core.items.sync import LiveItem, Removal
from gregor.core.limits import SECOND_US
from gregor.core.messages.model import RemovalReason
from gregor.core.notify.intents import EMAIL, PUSH_CHANNELS, Intent, IntentKind
from gregor.core.notify.ledger import DeliveryRecord, DeliveryState, fold_scope
from gregor.store.contract.agenda import CompletedWork, DueWork
from gregor_scheduler.context import SchedulerContext

PENDING: Final = (DeliveryState.PLANNED, DeliveryState.WAITING, DeliveryState.RETRY, DeliveryState.UNKNOWN)
"""States of deliveries that no worker holds, and that would be sent."""
COALESCE_US: Final = SECOND_US // 5
"""Withdrawals wait this long and are coalesced: dismissing many items causes one push to each device."""
RECHECK_US: Final = SECOND_US // 2
"""First delay before a delivery that was in flight is checked again; the delay grows with its age."""


async def cancel_and_withdraw(context: SchedulerContext, uid: str, work: DueWork) -> CompletedWork:
    """Cancel the pending notifications of the removed item and withdraw the sent ones.

    If a worker holds a delivery at this moment, its outcome is unknown, and the work is repeated later. The device gets
    no withdrawal before that, or before the claim has expired.
    """
    item, removal = work.item, work.gone
    if item is None or removal is None:
        return CompletedWork(work)
    records = await context.store.ledger.of_item(uid, work.name)
    notifications = [
        record for record in records if record.intent.kind is not IntentKind.WITHDRAW and is_for_user(record.intent)
    ]
    pending = [record for record in notifications if not record.is_over]
    now_us = context.clock.now_us()
    held = await _cancel(context, pending, removal, now_us)
    # A push in flight may reach the screen after a withdrawal that is sent now, whichever of them the provider answers
    # first. So the withdrawal waits for the outcome of the push, or until its claim expires if its worker has died.
    in_flight = {
        fold_scope(record.intent)
        for record in held
        if record.state is not DeliveryState.CLAIMED or record.lease_until_us > now_us
    }
    idle = [record for record in records if fold_scope(record.intent) not in in_flight]
    await _publish_withdrawals(context, withdrawals(uid, idle, item, removal, now_us), now_us)
    # A worker that could not record an outcome has put its delivery back: without this entry, the claim would not end.
    waiting = [record.intent for record in notifications if record not in held and _may_wait_in_queue(record)]
    await context.publisher.remove_waiting(waiting)
    if held:
        return CompletedWork(work, now_us + max(RECHECK_US, (now_us - removal.at_us) // 2))
    return CompletedWork(work)


def _may_wait_in_queue(record: DeliveryRecord) -> bool:
    """Return whether the delivery may have an entry in the queue. An entry can wait for a day (quiet hours).

    A finished delivery may have one, too: another push covered it while it waited, or an earlier attempt of this work
    cancelled it before the queue failed.
    """
    return bool(record.history.waits) or record.state is DeliveryState.CANCELLED or not record.is_over


async def _cancel(
    context: SchedulerContext, records: Sequence[DeliveryRecord], removal: Removal, now_us: int
) -> list[DeliveryRecord]:
    """Cancel deliveries. Returns those that a worker holds: it may have seen the item live."""
    reason = "expired" if removal.reason is RemovalReason.EXPIRED else "dismissed"
    move = context.store.ledger.move
    are_cancelled = await asyncio.gather(
        *(
            move(record.intent, PENDING, DeliveryState.CANCELLED, record.history.ended(reason, now_us))
            for record in records
        )
    )
    return [record for record, is_cancelled in zip(records, are_cancelled, strict=True) if not is_cancelled]


async def _publish_withdrawals(context: SchedulerContext, intents: Sequence[Intent], now_us: int) -> None:
    if not intents:
        return
    await context.store.ledger.plan(intents, DeliveryState.PLANNED, None, now_us)
    await context.publisher.publish(intents, now_us + COALESCE_US)
    for intent in intents:
        context.metrics.published.labels(intent.channel).inc()


def is_for_user(intent: Intent) -> bool:
    """Return whether an intent notifies the user. Webhooks are not cancelled: they report the removal itself."""
    return intent.channel == EMAIL or intent.channel in PUSH_CHANNELS


def withdrawals(
    uid: str, records: Sequence[DeliveryRecord], item: LiveItem, removal: Removal, now_us: int
) -> list[Intent]:
    """PURE. Return one withdrawal for each device and channel that may show a push of the item.

    A push may be on a screen if it was sent, or if its outcome is unknown, whatever state followed. A device that
    dismissed the item itself is skipped: its app is awake and clears its own screen. A device whose withdrawal is
    already in progress is skipped too.
    """
    targets: dict[tuple[str, str], tuple[list[DeliveryRecord], list[DeliveryRecord]]] = {}
    for record in records:
        if record.intent.channel in PUSH_CHANNELS:
            pushes, earlier = targets.setdefault((record.intent.device, record.intent.channel), ([], []))
            (earlier if record.intent.kind is IntentKind.WITHDRAW else pushes).append(record)
    found = []
    for (device, channel), (pushes, earlier) in targets.items():
        withdrawn_us = max((each.history.last_us for each in earlier if each.state is DeliveryState.SENT), default=0)
        is_own_removal = device == removal.device or device in item.hidden_by
        if is_own_removal or not any(_may_show(push, withdrawn_us) for push in pushes):
            continue
        # The delivery service works on a withdrawal in any other state, or has given it up.
        if any(each.state not in (DeliveryState.SENT, DeliveryState.PLANNED) for each in earlier):
            continue
        # A planned withdrawal may be unpublished and keeps its number. A sent one came before this push.
        n = sum(each.state is DeliveryState.SENT for each in earlier)
        withdrawal = Intent(uid, item.id, IntentKind.WITHDRAW, channel, device, n, removal.seq, now_us)
        found.append(replace(withdrawal, category=item.category))
    return found


def _may_show(push: DeliveryRecord, withdrawn_us: int) -> bool:
    """Return whether a push may be on a screen that was last cleared at ``withdrawn_us``. Claimed: not known yet."""
    if push.state in (DeliveryState.SENT, DeliveryState.WITHDRAWN, DeliveryState.CLAIMED):
        return push.state is DeliveryState.SENT
    return push.has_unknown_outcome and push.history.last_us > withdrawn_us
