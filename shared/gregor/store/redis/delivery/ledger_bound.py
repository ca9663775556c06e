"""Bounds of a user's deliveries: the oldest items lose theirs, and waiting events of old items become dead letters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from gregor.core.limits import Limits
from gregor.core.notify.intents import Intent
from gregor.core.notify.ledger import DeliveryRecord, delivery_key
from gregor.redis.commands import RedisCommands, Script
from gregor.store.redis import scripts
from gregor.store.redis.errors import result_of, results_of
from gregor.store.redis.keys import Keys

from .ledger_entries import deliveries_of_item, encode_delivery

_DROP_SIZE: Final = 100
"""Items whose deliveries are dropped together."""
_BATCH_SIZE: Final = 500
"""Items whose deliveries are read together."""


class LedgerBound:
    """Bounds the number of items with deliveries (``Ledger.plan``). Apply it after each ``step`` items."""

    def __init__(self, connection: RedisCommands, keys: Keys, limits: Limits, *, flags: str) -> None:
        self._connection = connection
        self._keys = keys
        self._lifetime_ms = limits.retention_us // 1_000
        self._most_items, self._most_waiting = limits.delivered, limits.delivered_waiting
        self.step = limits.delivered_step
        # Live items keep their deliveries: of the oldest items, all may be live.
        self._most_tried = limits.live + 2 * self.step + _DROP_SIZE
        self._drop_settled = scripts.load("ledger/drop_settled", flags=flags)
        self._give_up_script = scripts.load("ledger/give_up", flags=flags)

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part."""
        return self._drop_settled, self._give_up_script

    def threshold(self, *, has_events: bool) -> int:
        """Return the number of items above which ``apply`` is due."""
        return self._most_waiting if has_events else self._most_items

    async def apply(self, uid: str, now_us: int, *, has_events: bool) -> list[Intent]:
        """Drop the deliveries of the oldest items. With ``has_events``, also give up events, and return them.

        These are the events that wait behind too many newer items.
        """
        kept = await self._drop_oldest(uid)
        if not has_events:
            return []
        delivered = self._keys.of_user(uid).delivered
        excess = int(await result_of(self._connection.call("ZCARD", delivered))) - self._most_waiting
        passed: list[bytes] = []
        if excess > 0:
            # Items that passed the bound since the last but one call: some events were in flight at the last call.
            first = max(0, excess - 2 * self.step)
            passed = await result_of(self._connection.call("ZRANGE", delivered, first, excess - 1))
        return await self._give_up_events(uid, dict.fromkeys([*kept, *passed]), now_us)

    async def _drop_oldest(self, uid: str) -> list[bytes]:
        """Drop the deliveries of the oldest items above the bound that are gone and settled. Return items that stay.

        An item costs about one call, however many items stay, because the bound is applied after each ``step`` items.
        """
        of_user = self._keys.of_user(uid)
        stay: list[bytes] = []
        tried, keys = 0, (of_user.delivered, of_user.state, of_user.agenda, of_user.dead)
        excess = int(await result_of(self._connection.call("ZCARD", of_user.delivered))) - self._most_items
        while excess > 0 and tried < self._most_tried:
            most = len(stay) + min(_DROP_SIZE, excess) - 1
            items = await result_of(self._connection.call("ZRANGE", of_user.delivered, len(stay), most))
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
            stay += [item for item, is_dropped in zip(items, dropped, strict=True) if not is_dropped]
            excess -= sum(dropped)
        return stay

    async def _give_up_events(self, uid: str, items: Iterable[bytes], now_us: int) -> list[Intent]:
        """Make the events of these items that no worker has claimed dead letters. Return them."""
        names, given_up = [item.decode() for item in items], []
        for at in range(0, len(names), _BATCH_SIZE):
            part = names[at : at + _BATCH_SIZE]
            raws = await results_of(self._connection.call("HGETALL", self._keys.deliveries(uid, each)) for each in part)
            idle: dict[str, list[Intent]] = {}
            calls = []
            for item, raw in zip(part, raws, strict=True):
                records = [each for each in deliveries_of_item(uid, item, raw) if each.is_idle_event(now_us)]
                if records:
                    idle[item] = [each.intent for each in records]
                    keys = (self._keys.deliveries(uid, item), self._keys.of_user(uid).dead)
                    arguments: list[str | bytes] = [
                        str(now_us),
                        str(self._lifetime_ms),
                        f"{uid}/{item}/",
                        *_dead(records, raw, now_us),
                    ]
                    calls.append(self._connection.evalsha(self._give_up_script, keys, arguments))
            for intents, changed in zip(idle.values(), await results_of(calls), strict=True):
                given_up += [each for each in intents if delivery_key(each).encode() in changed]
        return given_up


def _dead(records: Iterable[DeliveryRecord], raw: Sequence[Any], now_us: int) -> list[bytes]:
    """Return the key of each record, its entry as it was read, and its entry as a dead letter."""
    stored: dict[bytes, bytes] = dict(zip(raw[::2], raw[1::2], strict=True))
    arguments: list[bytes] = []
    for record in records:
        key = delivery_key(record.intent).encode()
        arguments += [key, stored[key], encode_delivery(record.given_up(now_us))]
    return arguments
