"""The delivery ledger in Redis: one hash for each item with deliveries, beside the user's state."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from gregor.core.limits import Limits
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import (
    MAX_EXAMINED,
    MAX_WAIT_US,
    OVERDUE_US,
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
    is_webhook_event,
    new_history,
)
from gregor.redis.commands import RedisCommands, Script
from gregor.store.contract.webhooks import RecordedEvents
from gregor.store.redis import scripts
from gregor.store.redis.errors import result_of, results_of
from gregor.store.redis.keys import Keys

from .ledger_bound import LedgerBound
from .ledger_entries import decode_delivery, deliveries_of_item, is_in_state
from .ledger_items import LedgerItems

PLACE_LIFE_MS: Final = 600_000
"""TTL of a place on a device's screen: longer than any lease."""


class RedisLedger:
    """``Ledger`` over one Redis-protocol server."""

    def __init__(
        self,
        connection: RedisCommands,
        keys: Keys,
        limits: Limits,
        *,
        recorded_events: RecordedEvents,
        allow_oom: bool = True,
    ) -> None:
        self._recorded_events = recorded_events
        flags = "allow-oom" if allow_oom else ""
        self._connection = connection
        self._keys = keys
        self._lifetime_ms = limits.retention_us // 1_000
        self._items = LedgerItems(connection, keys)
        self._bound = LedgerBound(connection, keys, limits, flags=flags)
        self._plan = scripts.load("ledger/plan")
        self._claim = scripts.load("ledger/claim", flags=flags)
        self._rate = scripts.load("deployment/rate_limit", flags=flags)
        self._settle = scripts.load("ledger/record_outcome", flags=flags)
        self._move = scripts.load("ledger/move", flags=flags)
        self._hasten = scripts.load("ledger/expedite", flags=flags)

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        own = (self._plan, self._claim, self._rate, self._settle, self._move, self._hasten)
        return (*own, *self._bound.all_scripts)

    # ---- state of a delivery

    async def plan(
        self, intents: Sequence[Intent], state: DeliveryState, reason: str | None, now_us: int
    ) -> PlannedDeliveries:
        """See ``Ledger.plan``."""
        groups: dict[tuple[str, str], list[Intent]] = {}
        for intent in intents:
            groups.setdefault((intent.uid, intent.item), []).append(intent)
        times = (str(now_us), str(self._lifetime_ms))
        bounds = self._bound.of_lists
        check_us = str(now_us + OVERDUE_US)
        replies = await results_of(
            self._connection.evalsha(
                self._plan,
                (self._keys.deliveries(uid, item), *self._keys.of_user(uid).plan),
                [*times, item, state.value, check_us, *bounds, *_planned(group, reason, now_us)],
            )
            for (uid, item), group in groups.items()
        )
        given_up = await self._bound.apply(dict(zip(groups, replies, strict=True)), now_us)
        fresh = {bytes(key) for reply in replies for key in reply}
        return PlannedDeliveries([each for each in intents if delivery_key(each).encode() in fresh], given_up)

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
        """See ``Ledger.claim``."""
        of_user = self._keys.of_user(intent.uid)
        keys: tuple[str, ...] = (self._keys.deliveries(intent.uid, intent.item), of_user.places)
        times = (str(now_us), str(lease_until_us))
        arguments: tuple[str, ...] = (delivery_key(intent), *times, place, str(PLACE_LIFE_MS), "1" if is_early else "")
        if budget is not None:
            keys += of_user.budgets[budget.name]
            scope = fold_scope(intent) if budget.folds else ""
            arguments += (str(budget.step_us), str(budget.capacity_us), scope)
        reply = await result_of(self._connection.evalsha(self._claim, keys, arguments))
        match reply[0]:
            case b"claimed":
                before = decode_delivery(intent, reply[1])
                delivery = msgspec.structs.replace(
                    before, state=DeliveryState.CLAIMED, n=reply[2], lease_until_us=lease_until_us
                )
                return Claim(delivery, before.state, tuple(_folded(intent, reply[3])) if reply[3] else ())
            case b"taken":
                return NotClaimed.TAKEN
            case b"busy":
                return NotClaimed.BUSY
            case b"budget":
                return OverBudget(int(reply[1]))
            case b"early":
                return NotYet(int(reply[1]))
            case b"over":
                return NotClaimed.OVER
        return NotClaimed.ABSENT

    async def give_back(self, uid: str, budget: DeliveryBudget, now_us: int) -> None:
        """See ``Ledger.give_back``."""
        bucket = self._keys.of_user(uid).budgets[budget.name][:1]
        arguments = (str(now_us), str(-budget.step_us), str(budget.capacity_us))
        await result_of(self._connection.evalsha(self._rate, bucket, arguments))

    async def note(self, delivery: DeliveryRecord, place: str) -> bool:
        """See ``Ledger.note``."""
        lease_until_us = delivery.lease_until_us
        return await self._write(delivery, place, DeliveryState.CLAIMED, delivery.history, delivery.n, lease_until_us)

    async def record_outcome(
        self,
        delivery: DeliveryRecord,
        place: str,
        state: DeliveryState,
        history: DeliveryHistory,
        *,
        counts: bool = True,
    ) -> bool:
        """See ``Ledger.record_outcome``."""
        attempts = delivery.n if counts else delivery.n - 1
        return await self._write(delivery, place, state, history, attempts, history.next_us or 0)

    async def _write(
        self,
        delivery: DeliveryRecord,
        place: str,
        state: DeliveryState,
        history: DeliveryHistory,
        attempts: int,
        until_us: int,
    ) -> bool:
        intent = delivery.intent
        of_user = self._keys.of_user(intent.uid)
        keys = (self._keys.deliveries(intent.uid, intent.item), *of_user.record_outcome)
        encoded_story = msgspec.json.encode(history)
        arguments = [
            delivery_key(intent),
            str(delivery.n),
            state.value,
            str(attempts),
            encoded_story,
            place,
            str(until_us),
        ]
        is_recorded = self._recorded_events.deliveries and is_webhook_event(intent, state)
        arguments += (
            str(history.last_us),
            f"f{intent.item}\0{delivery_key(intent)}" if is_recorded else "",
            intent.uid,
        )
        if state is DeliveryState.DEAD:
            arguments += (delivery_path(intent), str(self._lifetime_ms))
        return bool(await result_of(self._connection.evalsha(self._settle, keys, arguments)))

    async def move(
        self,
        intent: Intent,
        sources: Sequence[DeliveryState],
        state: DeliveryState,
        history: DeliveryHistory | None = None,
    ) -> bool:
        """See ``Ledger.move``."""
        states = "".join(source.value for source in sources)
        encoded_story = msgspec.json.encode(history) if history is not None else b""
        arguments = (delivery_key(intent), states, state.value, encoded_story)
        keys = (self._keys.deliveries(intent.uid, intent.item), self._keys.of_user(intent.uid).withdrawals)
        return bool(await result_of(self._connection.evalsha(self._move, keys, arguments)))

    async def expedite(self, uid: str, reason: str, until_us: int, now_us: int) -> int:
        """See ``Ledger.expedite``."""
        of_user, hastened = self._keys.of_user(uid), 0
        async for part in self._items.read(uid, await self._recent_items(uid, now_us), MAX_EXAMINED):
            calls = []
            for item, raw in part:
                if waiting := _waiting(uid, item, raw, reason, until_us):
                    keys = (self._keys.deliveries(uid, item), *of_user.expedite)
                    calls.append(self._connection.evalsha(self._hasten, keys, [str(now_us), uid, item, *waiting]))
            hastened += sum(map(int, await results_of(calls)))
        return hastened

    async def count_recent(self, uid: str, now_us: int) -> int:
        """See ``Ledger.count_recent``."""
        counts = await self._items.counts(uid, await self._recent_items(uid, now_us))
        return min(MAX_EXAMINED, sum(counts))

    async def _recent_items(self, uid: str, now_us: int) -> list[str]:
        """Return the items with deliveries that may still wait, the newest first."""
        delivered = self._keys.of_user(uid).delivered
        items = await result_of(self._connection.call("ZREVRANGEBYSCORE", delivered, "+inf", now_us - MAX_WAIT_US))
        return [item.decode() for item in items]

    # ---- reads

    async def withdrawals(self, uid: str, device: str, channel: str) -> PendingWithdrawals:
        """See ``Ledger.withdrawals``."""
        raw = await result_of(self._connection.call("HGETALL", self._keys.of_user(uid).withdrawals))
        return decode_withdrawals(uid, device, channel, raw) if raw else PendingWithdrawals()

    async def unknown(self, intents: Sequence[Intent]) -> list[Intent]:
        """See ``Ledger.unknown``."""
        known = await results_of(
            self._connection.call("HEXISTS", self._keys.deliveries(each.uid, each.item), delivery_key(each))
            for each in intents
        )
        return [each for each, is_known in zip(intents, known, strict=True) if not int(is_known)]

    async def of_item(self, uid: str, item: str) -> list[DeliveryRecord]:
        """See ``Ledger.of_item``."""
        raw = await result_of(self._connection.call("HGETALL", self._keys.deliveries(uid, item)))
        return deliveries_of_item(uid, item, raw)

    async def of_user(self, uid: str, limit: int, most: int = sys.maxsize) -> list[DeliveryRecord]:
        """See ``Ledger.of_user``."""
        items = await result_of(self._connection.call("ZREVRANGE", self._keys.of_user(uid).delivered, 0, limit - 1))
        found: list[DeliveryRecord] = []
        async for part in self._items.read(uid, [item.decode() for item in items], most):
            for item, raw in part:
                found += deliveries_of_item(uid, item, raw)
        return found


# ---- encoding of entries


def _folded(lead: Intent, members: Sequence[bytes]) -> Iterator[Intent]:
    """Yield the other deliveries that a message to the same device and channel covers."""
    for member in members:
        device, channel, kind, n, item = member.decode().split("/")
        intent = Intent(lead.uid, item, IntentKind(kind), channel, device, int(n))
        if intent.key != lead.key:
            yield intent


def decode_withdrawals(
    uid: str, device: str, channel: str, raw: Sequence[Any], *, is_complete: bool = True
) -> PendingWithdrawals:
    """Return the stored withdrawals of a user that concern one device and channel."""
    waiting, woken_us, categories = [], [], {}
    for i in range(0, len(raw), 2):
        *front, last = raw[i].decode().split("/")
        if front == [device] and last == channel:
            woken_us = [int(at_us) for at_us in raw[i + 1].split(b",")]
        elif len(front) == 3 and front[1:] == [device, channel]:
            intent = Intent(uid, last, IntentKind.WITHDRAW, channel, device, int(front[0]), at_us=int(raw[i + 1]))
            waiting.append(intent)
        elif len(front) == 4 and front[0] == "c" and front[2:] == [device, channel]:
            categories[int(front[1]), last] = raw[i + 1].decode()
    # A withdrawal that an earlier release planned, or that was replayed, has no stored category.
    known = (replace(each, category=categories.get((each.n, each.item), "")) for each in waiting)
    in_order = tuple(sorted(known, key=lambda each: (each.at_us, each.item, each.n)))
    return PendingWithdrawals(in_order, tuple(woken_us), is_complete)


def _planned(intents: Sequence[Intent], reason: str | None, now_us: int) -> list[bytes | str]:
    arguments: list[bytes | str] = []
    for intent in intents:
        story = msgspec.json.encode(new_history(intent, reason, now_us))
        arguments += (delivery_key(intent), story, intent.category)
    return arguments


def _waiting(uid: str, item: str, raw: Sequence[Any], reason: str, until_us: int) -> list[bytes]:
    """Return key and stored value of each delivery in a hash that waits for ``reason`` beyond ``until_us``."""
    # Most of these deliveries have ended. Decoding a record takes ten times as long as reading its state.
    pairs = [pair for pair in zip(raw[::2], raw[1::2], strict=True) if is_in_state(pair[1], DeliveryState.WAITING)]
    flat = [part for pair in pairs for part in pair]
    entries = {delivery_key(each.intent).encode(): each for each in deliveries_of_item(uid, item, flat)}
    return [part for pair in pairs if entries[pair[0]].is_waiting_beyond(reason, until_us) for part in pair]
