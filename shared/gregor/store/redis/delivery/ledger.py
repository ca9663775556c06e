"""The delivery ledger in Redis: one hash for each item with deliveries, beside the user's state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from gregor.core.limits import Limits
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import (
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
    delivery_key,
    delivery_path,
    fold_scope,
    is_webhook_event,
    new_history,
    rebuild_intent,
)
from gregor.redis.commands import RedisCommands, Script
from gregor.store.contract.store import UnreadableValue
from gregor.store.contract.webhooks import RecordedEvents
from gregor.store.redis import scripts
from gregor.store.redis.errors import result_of, results_of
from gregor.store.redis.keys import Keys

_STORY: Final = msgspec.json.Decoder(DeliveryHistory)
_STATES: Final = {ord(state.value): state for state in DeliveryState}
_HEAD: Final = 22
"""Bytes of an entry before its history: state 1, attempts 4, lease or retry time 17."""
_BATCH_SIZE: Final = 500
"""Items whose deliveries are read together."""
_DROP_SIZE: Final = 100
"""Items whose deliveries are dropped together."""
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
        self._most_items = limits.delivered
        # Live items keep their deliveries: of the oldest items, all may be live.
        self._most_tried = limits.live + 2 * limits.delivered // 20 + _DROP_SIZE
        self._plan = scripts.load("ledger/plan")
        self._claim = scripts.load("ledger/claim", flags=flags)
        self._rate = scripts.load("deployment/rate_limit", flags=flags)
        self._settle = scripts.load("ledger/record_outcome", flags=flags)
        self._move = scripts.load("ledger/move", flags=flags)
        self._hasten = scripts.load("ledger/expedite", flags=flags)
        self._drop_settled = scripts.load("ledger/drop_settled", flags=flags)

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        return (self._plan, self._claim, self._rate, self._settle, self._move, self._hasten, self._drop_settled)

    # ---- state of a delivery

    async def plan(
        self, intents: Sequence[Intent], state: DeliveryState, reason: str | None, now_us: int
    ) -> list[Intent]:
        """See ``Ledger.plan``."""
        groups: dict[tuple[str, str], list[Intent]] = {}
        times = (str(now_us), str(self._lifetime_ms))
        check_us, most = str(now_us + OVERDUE_US), str(self._most_items)
        for intent in intents:
            groups.setdefault((intent.uid, intent.item), []).append(intent)
        replies = await results_of(
            self._connection.evalsha(
                self._plan,
                (self._keys.deliveries(uid, item), *self._keys.of_user(uid).plan),
                [*times, item, state.value, check_us, most, *_planned(group, reason, now_us)],
            )
            for (uid, item), group in groups.items()
        )
        for uid in {uid for (uid, _), reply in zip(groups, replies, strict=True) if b"" in reply}:
            await self._drop_oldest(uid)
        fresh = {bytes(key) for reply in replies for key in reply}
        return [intent for intent in intents if delivery_key(intent).encode() in fresh]

    async def _drop_oldest(self, uid: str) -> None:
        """Drop the deliveries of the oldest items above the bound that are gone and settled.

        It is called for each twentieth of the bound, so that an item costs about one call, whatever stays.
        """
        of_user, kept, tried = self._keys.of_user(uid), 0, 0
        keys = (of_user.delivered, of_user.state, of_user.agenda, of_user.dead)
        excess = int(await result_of(self._connection.call("ZCARD", of_user.delivered))) - self._most_items
        while excess > 0 and tried < self._most_tried:
            most = kept + min(_DROP_SIZE, excess) - 1
            items = await result_of(self._connection.call("ZRANGE", of_user.delivered, kept, most))
            dropped = await results_of(
                self._connection.evalsha(
                    self._drop_settled,
                    (self._keys.deliveries(uid, item.decode()), *keys),
                    [item, uid],
                )
                for item in items
            )
            if not items:
                break
            tried += len(items)
            kept += dropped.count(0)
            excess -= sum(dropped)

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

    async def note(self, delivery: DeliveryRecord) -> bool:
        """See ``Ledger.note``."""
        lease_until_us = delivery.lease_until_us
        return await self._write(delivery, "", DeliveryState.CLAIMED, delivery.history, delivery.n, lease_until_us)

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
        since_us = now_us - MAX_WAIT_US
        of_user, hastened = self._keys.of_user(uid), 0
        items = await result_of(self._connection.call("ZRANGEBYSCORE", of_user.delivered, since_us, "+inf"))
        for at in range(0, len(items), _BATCH_SIZE):
            names = [item.decode() for item in items[at : at + _BATCH_SIZE]]
            raws = await results_of(
                self._connection.call("HGETALL", self._keys.deliveries(uid, each)) for each in names
            )
            calls = []
            for item, raw in zip(names, raws, strict=True):
                if waiting := _waiting(uid, item, raw, reason, until_us):
                    keys = (self._keys.deliveries(uid, item), *of_user.expedite)
                    calls.append(self._connection.evalsha(self._hasten, keys, [str(now_us), uid, item, *waiting]))
            hastened += sum(map(int, await results_of(calls)))
        return hastened

    # ---- reads

    async def withdrawals(self, uid: str, device: str, channel: str) -> PendingWithdrawals:
        """See ``Ledger.withdrawals``."""
        raw = await result_of(self._connection.call("HGETALL", self._keys.of_user(uid).withdrawals))
        return decode_withdrawals(uid, device, channel, raw) if raw else PendingWithdrawals()

    async def of_item(self, uid: str, item: str) -> list[DeliveryRecord]:
        """See ``Ledger.of_item``."""
        raw = await result_of(self._connection.call("HGETALL", self._keys.deliveries(uid, item)))
        return deliveries_of_item(uid, item, raw)

    async def of_user(self, uid: str, limit: int) -> list[DeliveryRecord]:
        """See ``Ledger.of_user``."""
        items = await result_of(self._connection.call("ZREVRANGE", self._keys.of_user(uid).delivered, 0, limit - 1))
        names = [item.decode() for item in items]
        raws = await results_of(self._connection.call("HGETALL", self._keys.deliveries(uid, item)) for item in names)
        return [
            delivery for item, raw in zip(names, raws, strict=True) for delivery in deliveries_of_item(uid, item, raw)
        ]


# ---- encoding of entries


def decode_delivery(intent: Intent, raw: bytes) -> DeliveryRecord:
    """Return an entry of the ledger from its stored value. Raises ``UnreadableValue`` if it has another format."""
    state = _STATES.get(raw[0])
    if state is None:
        raise UnreadableValue("delivery", raw[0])
    history = _STORY.decode(raw[_HEAD:])
    return DeliveryRecord(rebuild_intent(intent, history), state, int(raw[1:5]), int(raw[5:_HEAD]), history)


def encode_delivery(delivery: DeliveryRecord) -> bytes:
    """Return the stored value of an entry, as ``decode_delivery`` reads it."""
    head = f"{delivery.state.value}{delivery.n:04}{delivery.lease_until_us:017}"
    return head.encode() + msgspec.json.encode(delivery.history)


def _folded(lead: Intent, members: Sequence[bytes]) -> Iterator[Intent]:
    """Yield the other deliveries that a message to the same device and channel covers."""
    for member in members:
        device, channel, kind, n, item = member.decode().split("/")
        intent = Intent(lead.uid, item, IntentKind(kind), channel, device, int(n))
        if intent.key != lead.key:
            yield intent


def decode_withdrawals(uid: str, device: str, channel: str, raw: Sequence[Any]) -> PendingWithdrawals:
    """Return the stored withdrawals of a user that concern one device and channel."""
    waiting, woken_us = [], []
    for i in range(0, len(raw), 2):
        *front, last = raw[i].decode().split("/")
        if front == [device] and last == channel:
            woken_us = [int(at_us) for at_us in raw[i + 1].split(b",")]
        elif len(front) == 3 and front[1:] == [device, channel]:
            intent = Intent(uid, last, IntentKind.WITHDRAW, channel, device, int(front[0]), at_us=int(raw[i + 1]))
            waiting.append(intent)
    return PendingWithdrawals(tuple(sorted(waiting, key=lambda each: (each.at_us, each.item, each.n))), tuple(woken_us))


def _planned(intents: Sequence[Intent], reason: str | None, now_us: int) -> list[bytes | str]:
    arguments: list[bytes | str] = []
    for intent in intents:
        arguments += (delivery_key(intent), msgspec.json.encode(new_history(intent, reason, now_us)))
    return arguments


def _waiting(uid: str, item: str, raw: Sequence[Any], reason: str, until_us: int) -> list[bytes]:
    """Return key and stored value of each delivery in a hash that waits for ``reason`` beyond ``until_us``."""
    entries = {delivery_key(each.intent).encode(): each for each in deliveries_of_item(uid, item, raw)}
    field_pairs = zip(raw[::2], raw[1::2], strict=True)
    return [part for pair in field_pairs if entries[pair[0]].is_waiting_beyond(reason, until_us) for part in pair]


def deliveries_of_item(uid: str, item: str, raw: Sequence[Any]) -> list[DeliveryRecord]:
    """Return the deliveries of a hash, by planning time and key."""
    found = []
    for i in range(0, len(raw), 2):
        kind, n, device, channel = raw[i].decode().split("/")
        intent = Intent(uid, item, IntentKind(kind), channel, device, int(n))
        found.append(decode_delivery(intent, raw[i + 1]))
    return sorted(found, key=lambda delivery: (delivery.history.planned_us, delivery_key(delivery.intent)))
