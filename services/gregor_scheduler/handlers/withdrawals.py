"""What follows when an item has left: what was to be told of it is not, and what was told is taken back (L15).

Safe to repeat, like every act: what is over stays, and a withdrawal is one by its key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from gregor.core.items.sync import LiveItem, Removal
from gregor.core.limits import SECOND_US
from gregor.core.messages.model import RemovalReason
from gregor.core.notify.intents import EMAIL, PUSH_CHANNELS, Intent, IntentKind
from gregor.core.notify.ledger import DeliveryRecord, DeliveryState
from gregor.store.contract.agenda import CompletedWork, DueWork
from gregor_scheduler.context import Parts

OPEN: Final = (DeliveryState.PLANNED, DeliveryState.WAITING, DeliveryState.RETRY, DeliveryState.UNKNOWN)
"""What is in nobody's hands, and would be sent."""
GATHER_US: Final = SECOND_US // 5
"""How long withdrawals wait for others to the same device: what is swept away in one go is one push."""
LOOK_AGAIN_US: Final = SECOND_US // 2
"""When one looks again at what was being sent; the later, the longer it lasts."""


async def take_back(parts: Parts, uid: str, work: DueWork) -> CompletedWork:
    """Cancel what is on its way to be told of the item, withdraw what arrived; look again at what is being sent."""
    item, gone = work.item, work.gone
    if item is None or gone is None:
        return CompletedWork(work)
    told = await parts.store.ledger.of_item(uid, work.name)
    about = [each for each in told if each.intent.kind is not IntentKind.WITHDRAW and is_of_the_user(each.intent)]
    now_us = parts.clock.now_us()
    are_cancelled = await _cancel(parts, (each for each in about if not each.is_over), gone, now_us)
    await _withdraw(parts, withdrawals(uid, told, item, gone, now_us), now_us)
    if not are_cancelled:
        return CompletedWork(work, now_us + max(LOOK_AGAIN_US, (now_us - gone.at_us) // 2))
    return CompletedWork(work)


async def _cancel(parts: Parts, deliveries: Iterable[DeliveryRecord], gone: Removal, now_us: int) -> bool:
    """Whether all are cancelled. One that is claimed, also in this moment, may have been seen live and be sent."""
    reason = "expired" if gone.reason is RemovalReason.EXPIRED else "dismissed"
    move = parts.store.ledger.move
    moves = (
        move(each.intent, OPEN, DeliveryState.CANCELLED, each.history.ended(reason, now_us)) for each in deliveries
    )
    return all(await asyncio.gather(*moves))


async def _withdraw(parts: Parts, intents: Sequence[Intent], now_us: int) -> None:
    if not intents:
        return
    await parts.store.ledger.plan(intents, DeliveryState.PLANNED, None, now_us)
    await parts.handover.give(intents, now_us + GATHER_US)
    for intent in intents:
        parts.figures.handed_over.labels(intent.channel).inc()


def is_of_the_user(intent: Intent) -> bool:
    """Whether it tells the user, and no backend: that is to hear of an item that it left."""
    return intent.channel == EMAIL or intent.channel in PUSH_CHANNELS


def withdrawals(uid: str, told: Sequence[DeliveryRecord], item: LiveItem, gone: Removal, now_us: int) -> list[Intent]:
    """PURE. One for each device and channel on whose screen a push of the item may be, and that is not under way.

    That is what was sent, and what may have arrived, whatever became of it since. A device that dismissed the item
    itself has its app awake, which clears its own screen; it is not woken for that.
    """
    places: dict[tuple[str, str], tuple[list[DeliveryRecord], list[DeliveryRecord]]] = {}
    for each in told:
        if each.intent.channel in PUSH_CHANNELS:
            shown, before = places.setdefault((each.intent.device, each.intent.channel), ([], []))
            (before if each.intent.kind is IntentKind.WITHDRAW else shown).append(each)
    found = []
    for (device, channel), (shown, before) in places.items():
        since_us = max((each.history.last_us for each in before if each.state is DeliveryState.SENT), default=0)
        if device == gone.device or device in item.hidden_by or not any(_may_show(each, since_us) for each in shown):
            continue
        if any(each.state not in (DeliveryState.SENT, DeliveryState.PLANNED) for each in before):
            continue  # it is in the delivery service's hands, or that has given it up
        # One that was planned may not have been handed over; one that was sent came before this push was.
        n = sum(each.state is DeliveryState.SENT for each in before)
        found.append(Intent(uid, item.id, IntentKind.WITHDRAW, channel, device, n, gone.seq, now_us))
    return found


def _may_show(delivery: DeliveryRecord, withdrawn_us: int) -> bool:
    """Whether it may be on a screen from which the item was last withdrawn then. What is claimed is not known yet."""
    if delivery.state in (DeliveryState.SENT, DeliveryState.WITHDRAWN, DeliveryState.CLAIMED):
        return delivery.state is DeliveryState.SENT
    return delivery.is_unsure and delivery.history.last_us > withdrawn_us
