"""Executable specification: never runs in production. The delivery ledger."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import msgspec

from gregor.core.limits import SECOND_US
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import (
    EVENT_BOUND_FROM,
    FOLD_GRACE_US,
    MAX_EXAMINED,
    MAX_FOLDED,
    MAX_FOLDED_KEPT,
    MAX_WAITING_OF_DEVICE,
    MAX_WAITING_OF_USER,
    OVERDUE_US,
    TOO_MANY_WAIT,
    WAKING_US,
    Claim,
    DeliveryBudget,
    DeliveryHistory,
    DeliveryRecord,
    DeliveryState,
    NotClaimed,
    NotYet,
    OverBudget,
    PendingWithdrawals,
    PlannedDeliveries,
    delivery_key,
    delivery_path,
    fold_scope,
    is_event_bound_due,
    is_webhook_event,
    new_history,
    surplus_events,
)
from gregor.reference.agenda import OVERDUE
from gregor.store.contract.push_context import NO_LIMIT

from .data import DeliveryKey, MemoryData

MAX_ATTEMPT_NUMBER = 9_999
"""The largest attempt number in a record of the Redis store."""


def _fold_order(key: DeliveryKey) -> str:
    """Return the name of a folded delivery, in whose order the Redis store returns them."""
    _, item, kind, n, _, _ = key
    return f"{kind}/{n}/{item}"


def _by_age(items: Mapping[str, int]) -> list[str]:
    """Return items in the order of their times."""
    return sorted(items, key=lambda item: (items[item], item))


class MemoryLedger:
    """``contract.Ledger`` in memory, without retention."""

    def __init__(self, data: MemoryData) -> None:
        self._data = data

    async def plan(
        self, intents: Sequence[Intent], state: DeliveryState, reason: str | None, now_us: int
    ) -> PlannedDeliveries:
        """See ``contract.Ledger.plan``."""
        data, limits = self._data, self._data.limits
        full, full_of_events = set(), set()
        known = [intent for intent in dict.fromkeys(intents) if intent.uid in data.users]
        new = [intent for intent in known if intent.key not in self._entries(intent.uid)]
        for intent in new:
            if state is DeliveryState.PLANNED:
                look_us = data.owner(intent.uid).agenda.setdefault(OVERDUE + intent.item, now_us + OVERDUE_US)
                data.note(intent.uid, [look_us])
            is_refused = state is DeliveryState.PLANNED and not self._may_wait(intent)
            story = new_history(intent, TOO_MANY_WAIT if is_refused else reason, now_us)
            entered = DeliveryState.CANCELLED if is_refused else state
            self._entries(intent.uid)[intent.key] = DeliveryRecord(intent, entered, 0, 0, story)
            if self._add_newest(data.owner(intent.uid).delivered, intent, now_us, limits.delivered):
                full.add(intent.uid)
            events = data.owner(intent.uid).event_items
            is_event = intent.kind is IntentKind.EVENT
            if is_event and self._add_newest(events, intent, now_us, limits.delivered_waiting):
                full_of_events.add(intent.uid)
        given_up = [each for uid in full_of_events for each in self._give_up_old_events(uid, now_us)]
        for (uid, item), count in Counter((each.uid, each.item) for each in new).items():
            given_up += self._bound_events_of(uid, item, count, now_us)
        for uid in full:
            self._drop_oldest(uid)
        return PlannedDeliveries(new, given_up)

    def _add_newest(self, items: dict[str, int], intent: Intent, now_us: int, most: int) -> bool:
        """Make the item of an intent the newest of a list. Return whether its bound is to be applied now."""
        is_new_item = intent.item not in items
        items[intent.item] = now_us
        return is_new_item and len(items) > most and len(items) % self._data.limits.delivered_step == 0

    def _give_up_old_events(self, uid: str, now_us: int) -> list[Intent]:
        """Make the waiting events of the items above the bound dead letters. Return these events."""
        event_items, entries = self._data.owner(uid).event_items, self._entries(uid)
        old = set(_by_age(event_items)[: -self._data.limits.delivered_waiting])
        idle = [each for each in entries.values() if each.intent.item in old and each.is_idle_event(now_us)]
        self._give_up(idle, now_us)
        for item in old:
            if not self._has_unfinished_event(uid, item):
                event_items.pop(item, None)
        return [each.intent for each in idle]

    def _bound_events_of(self, uid: str, item: str, count: int, now_us: int) -> list[Intent]:
        """Bound the events of an item with ``count`` new deliveries. Return the events that became dead letters."""
        entries = self._entries(uid)
        if len(entries) < EVENT_BOUND_FROM:
            return []
        of_item = [each for each in entries.values() if each.intent.item == item]
        if not is_event_bound_due(len(of_item) - count, len(of_item)):
            return []
        events = self._sorted(each for each in of_item if each.intent.kind is IntentKind.EVENT)
        forgotten, idle = surplus_events(events, now_us)
        for each in forgotten:
            del entries[each.intent.key]
            self._data.dead.pop(delivery_path(each.intent), None)
        self._give_up(idle, now_us)
        return [each.intent for each in idle]

    def _give_up(self, idle: Iterable[DeliveryRecord], now_us: int) -> None:
        """Make these events dead letters."""
        for each in idle:
            self._entries(each.intent.uid)[each.intent.key] = each.given_up(now_us)
            self._data.dead[delivery_path(each.intent)] = now_us

    def _has_unfinished_event(self, uid: str, item: str) -> bool:
        entries = self._entries(uid).values()
        return any(
            each.intent.item == item and each.intent.kind is IntentKind.EVENT and not each.is_over for each in entries
        )

    def _waiting(self, uid: str) -> list[DeliveryRecord]:
        """Return the withdrawals of a user that are not over."""
        entries = self._entries(uid).values()
        return [each for each in entries if each.intent.kind is IntentKind.WITHDRAW and not each.is_over]

    def _may_wait(self, intent: Intent) -> bool:
        """Return whether one more withdrawal may wait. Other intents always may."""
        if intent.kind is not IntentKind.WITHDRAW:
            return True
        waiting = self._waiting(intent.uid)
        of_device = [each for each in waiting if fold_scope(each.intent) == fold_scope(intent)]
        return len(of_device) < MAX_WAITING_OF_DEVICE and len(waiting) < MAX_WAITING_OF_USER

    def _drop_oldest(self, uid: str) -> None:
        """Drop the deliveries of the oldest items above the bound that are gone and settled."""
        delivered = self._data.owner(uid).delivered
        excess = max(0, len(delivered) - self._data.limits.delivered)
        for item in [each for each in _by_age(delivered) if self._is_settled(uid, each)][:excess]:
            del delivered[item]
            self._data.owner(uid).agenda.pop(OVERDUE + item, None)
            for key, entry in list(self._entries(uid).items()):
                if entry.intent.item == item:
                    del self._entries(uid)[key]
                    self._data.dead.pop(delivery_path(entry.intent), None)

    def _is_settled(self, uid: str, item: str) -> bool:
        """Return whether an item is gone, and nothing more will be done with its deliveries."""
        user = self._data.users.get(uid)
        entries = [each for each in self._entries(uid).values() if each.intent.item == item]
        waiting = ["z" + item, *(f"f{item}\0{delivery_key(each.intent)}" for each in entries)]
        agenda = self._data.owner(uid).agenda.keys() | (set() if user is None else user.agenda.keys())
        is_live = user is not None and item in user.live
        return not is_live and all(each.is_over for each in entries) and agenda.isdisjoint(waiting)

    async def claim(
        self,
        intent: Intent,
        place: str,
        now_us: int,
        lease_until_us: int,
        *,
        is_early: bool = False,
        budget: DeliveryBudget | None = None,
    ) -> Claim | NotClaimed | NotYet | OverBudget:
        """See ``contract.Ledger.claim``."""
        entries, places = self._entries(intent.uid), self._data.owner(intent.uid).places
        entry = entries.get(intent.key)
        if entry is None:
            return NotClaimed.ABSENT
        if entry.is_over:
            return NotClaimed.OVER
        if entry.lease_until_us > now_us and (entry.state is DeliveryState.CLAIMED or not is_early):
            return NotClaimed.TAKEN if entry.state is DeliveryState.CLAIMED else NotYet(entry.lease_until_us)
        until_us, holder = places.get(place, (0, intent.key))
        if place and until_us > now_us and holder != intent.key:
            return NotClaimed.BUSY
        folded: tuple[Intent, ...] = ()
        if budget is not None:
            over = self._spend(intent, budget, now_us)
            if over is not None:
                return over
            folded = self._unfold(intent, budget, now_us)
        if place:
            places[place] = (lease_until_us, intent.key)
        changes = {
            "state": DeliveryState.CLAIMED,
            "n": min(entry.n + 1, MAX_ATTEMPT_NUMBER),
            "lease_until_us": lease_until_us,
        }
        taken = entries[intent.key] = msgspec.structs.replace(entry, **changes)
        return Claim(taken, entry.state, folded)

    async def give_back(self, uid: str, budget: DeliveryBudget, now_us: int) -> None:
        """See ``contract.Ledger.give_back``."""
        budgets = self._data.owner(uid).budgets
        budgets[budget.name] = budget.take(budgets.get(budget.name, 0), -1, now_us)[0]

    async def note(self, delivery: DeliveryRecord, place: str) -> bool:
        """See ``contract.Ledger.note``."""
        entries, key = self._entries(delivery.intent.uid), delivery.intent.key
        places = self._data.owner(delivery.intent.uid).places
        entry = entries.get(key)
        if entry is None or entry.state is not DeliveryState.CLAIMED or entry.n != delivery.n:
            return False
        lease_until_us = delivery.lease_until_us
        entries[key] = msgspec.structs.replace(entry, history=delivery.history, lease_until_us=lease_until_us)
        if places.get(place, (0, None))[1] == key:
            places[place] = (lease_until_us, key)
        return True

    async def record_outcome(
        self,
        delivery: DeliveryRecord,
        place: str,
        state: DeliveryState,
        history: DeliveryHistory,
        *,
        counts: bool = True,
    ) -> bool:
        """See ``contract.Ledger.record_outcome``."""
        key, uid = delivery.intent.key, delivery.intent.uid
        entries, places = self._entries(uid), self._data.owner(uid).places
        entry = entries.get(key)
        if entry is None or entry.state is not DeliveryState.CLAIMED or entry.n != delivery.n:
            return False
        n = entry.n if counts else entry.n - 1
        entries[key] = DeliveryRecord(
            replace(entry.intent, event=history.event), state, n, history.next_us or 0, history
        )
        if self._data.recorded_events.deliveries and is_webhook_event(delivery.intent, state):
            entry_name = f"f{delivery.intent.item}\0{delivery_key(delivery.intent)}"
            self._data.owner(uid).agenda[entry_name] = history.last_us
            self._data.note(uid, [history.last_us])
        if state is DeliveryState.DEAD:
            self._data.dead[delivery_path(delivery.intent)] = history.last_us
        if places.get(place, (0, None))[1] == key:
            del places[place]
        if delivery.intent.kind is IntentKind.WITHDRAW and state is DeliveryState.SENT:
            self._withdrawn(delivery.intent, history.attempts[-1].at_us if place else None)
        return True

    async def move(
        self,
        intent: Intent,
        sources: Sequence[DeliveryState],
        state: DeliveryState,
        history: DeliveryHistory | None = None,
    ) -> bool:
        """See ``contract.Ledger.move``."""
        entries = self._entries(intent.uid)
        entry = entries.get(intent.key)
        if entry is None or entry.state not in sources:
            return False
        entries[intent.key] = DeliveryRecord(entry.intent, state, entry.n, 0, history or entry.history)
        return True

    async def unknown(self, intents: Sequence[Intent]) -> list[Intent]:
        """See ``contract.Ledger.unknown``."""
        return [each for each in intents if each.key not in self._entries(each.uid)]

    async def expedite(self, uid: str, reason: str, until_us: int, now_us: int) -> int:
        """See ``contract.Ledger.expedite``."""
        entries, owner = self._entries(uid), self._data.owner(uid)
        waiting = [key for key, entry in entries.items() if entry.is_waiting_beyond(reason, until_us)]
        for key in waiting:
            entries[key] = msgspec.structs.replace(entries[key], lease_until_us=now_us)
            owner.agenda[OVERDUE + entries[key].intent.item] = now_us
            self._data.note(uid, [now_us])
        return len(waiting)

    async def count_recent(self, uid: str, now_us: int) -> int:
        """See ``contract.Ledger.count_recent``."""
        return min(MAX_EXAMINED, len(self._entries(uid)))

    async def withdrawals(
        self, uid: str, device: str, channel: str, most_waiting: int = NO_LIMIT
    ) -> PendingWithdrawals:
        """See ``contract.Ledger.withdrawals``. ``most_waiting``: see ``contract.PushContexts.read``."""
        of_user = self._waiting(uid)
        is_complete = len(of_user) <= most_waiting
        waiting = [
            replace(entry.intent, seq=0, at_us=entry.history.planned_us)
            for entry in of_user
            if is_complete and (entry.intent.device, entry.intent.channel) == (device, channel)
        ]
        waiting.sort(key=lambda each: (each.at_us, each.item, each.n))
        woken_us = self._data.owner(uid).woken.get((device, channel), ())
        return PendingWithdrawals(tuple(waiting), woken_us, is_complete)

    async def of_item(self, uid: str, item: str) -> list[DeliveryRecord]:
        """See ``contract.Ledger.of_item``."""
        return self._sorted(entry for entry in self._entries(uid).values() if entry.intent.item == item)

    async def of_user(self, uid: str, limit: int, most: int = sys.maxsize) -> list[DeliveryRecord]:
        """See ``contract.Ledger.of_user``."""
        newest, found = self._data.owner(uid).delivered, list[DeliveryRecord]()
        for item in sorted(newest, key=lambda item: (newest[item], item), reverse=True)[:limit]:
            if len(found) < most:
                found += await self.of_item(uid, item)
        return found

    def _spend(self, intent: Intent, budget: DeliveryBudget, now_us: int) -> OverBudget | None:
        """Take one message from the budget, or remember the delivery for the next message."""
        owner = self._data.owner(intent.uid)
        full_at_us, wait_s = budget.take(owner.budgets.get(budget.name, 0), 1, now_us)
        if not wait_s:
            owner.budgets[budget.name] = full_at_us
            return None
        until_us = now_us + round(wait_s * SECOND_US)
        if budget.folds:
            others = [each for each in self._folded(intent) if each != intent.key]
            if others:
                until_us += FOLD_GRACE_US
            if intent.key not in owner.folded and len(owner.folded) < MAX_FOLDED_KEPT:
                owner.folded.append(intent.key)
        return OverBudget(until_us)

    def _unfold(self, intent: Intent, budget: DeliveryBudget, now_us: int) -> tuple[Intent, ...]:
        """Return the remembered deliveries of the same device and channel, and forget them.

        With more than half of the budget left, nothing needs to be folded.
        """
        owner = self._data.owner(intent.uid)
        if not budget.folds or owner.budgets[budget.name] - now_us <= budget.capacity_us / 2:
            return ()
        taken = sorted(self._folded(intent), key=_fold_order)[:MAX_FOLDED]
        owner.folded = [each for each in owner.folded if each not in taken]
        found = (
            Intent(uid, item, IntentKind(kind), channel, device, n) for uid, item, kind, n, device, channel in taken
        )
        return tuple(each for each in found if each.key != intent.key)

    def _folded(self, intent: Intent) -> list[DeliveryKey]:
        return [each for each in self._data.owner(intent.uid).folded if each[4:] == (intent.device, intent.channel)]

    def _entries(self, uid: str) -> dict[DeliveryKey, DeliveryRecord]:
        return self._data.owner(uid).deliveries

    def _withdrawn(self, intent: Intent, woken_us: int | None) -> None:
        """Mark the deliveries that a sent withdrawal removed, and record the wake-up of their device."""
        entries, woken = self._entries(intent.uid), self._data.owner(intent.uid).woken
        where = (intent.item, intent.device, intent.channel)
        for key, entry in entries.items():
            other = entry.intent
            if (other.item, other.device, other.channel) != where or other.kind is IntentKind.WITHDRAW:
                continue
            if entry.state is DeliveryState.SENT:
                entries[key] = msgspec.structs.replace(entry, state=DeliveryState.WITHDRAWN)
        if woken_us is not None:
            recent = [past_us for past_us in woken.get(where[1:], ()) if past_us > woken_us - WAKING_US]
            woken[where[1:]] = (woken_us, *recent)

    @staticmethod
    def _sorted(entries: Iterable[DeliveryRecord]) -> list[DeliveryRecord]:
        return sorted(entries, key=lambda entry: (entry.history.planned_us, entry.intent.key[2:]))
