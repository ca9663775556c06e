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
from .ledger_items import LedgerItems

_DROP_SIZE: Final = 100
"""Items whose deliveries are dropped together."""
ITEM_BOUND_DUE: Final = b""
"""A reply of the script ``plan``: ``LedgerBound.drop_oldest`` is due."""
EVENT_BOUND_DUE: Final = b"*"
"""The same of ``LedgerBound.give_up_old_events``."""


class LedgerBound:
    """Bounds a user's items with deliveries, and those with webhook events that wait (``Ledger.plan``)."""

    def __init__(self, connection: RedisCommands, keys: Keys, limits: Limits, *, flags: str) -> None:
        self._connection = connection
        self._keys = keys
        self._items = LedgerItems(connection, keys)
        self._lifetime_ms = limits.retention_us // 1_000
        self._most_items, self._most_waiting = limits.delivered, limits.delivered_waiting
        # Items that are live, or have events that wait, keep their deliveries. They may be the oldest.
        self._most_tried = limits.live + limits.delivered_waiting + 2 * limits.delivered_step + _DROP_SIZE
        self.of_lists = (str(limits.delivered), str(limits.delivered_waiting), str(limits.delivered_step))
        """Arguments of the script ``plan``: when the bounds are due."""
        self._drop_settled = scripts.load("ledger/drop_settled", flags=flags)
        self._give_up_script = scripts.load("ledger/give_up", flags=flags)

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part."""
        return self._drop_settled, self._give_up_script

    async def give_up_old_events(self, uid: str, now_us: int) -> list[Intent]:
        """Make the waiting events of the items above the bound dead letters. Return these events."""
        event_items = self._keys.of_user(uid).event_items
        excess = int(await result_of(self._connection.call("ZCARD", event_items))) - self._most_waiting
        if excess <= 0:
            return []
        # An item whose event is in flight stays in this list until the next call.
        oldest = await result_of(self._connection.call("ZRANGE", event_items, 0, excess - 1))
        return await self._give_up_events(uid, oldest, now_us)

    async def drop_oldest(self, uid: str) -> None:
        """Drop the deliveries of the oldest items above the bound that are gone and settled.

        The bound is applied after each ``delivered_step`` items. So an item costs about one call, and at most 17 if
        many of the oldest items stay.
        """
        of_user = self._keys.of_user(uid)
        staying, tried, keys = 0, 0, (of_user.delivered, of_user.state, of_user.agenda, of_user.dead)
        excess = int(await result_of(self._connection.call("ZCARD", of_user.delivered))) - self._most_items
        while excess > 0 and tried < self._most_tried:
            last = staying + min(_DROP_SIZE, excess) - 1
            items = await result_of(self._connection.call("ZRANGE", of_user.delivered, staying, last))
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
            staying += dropped.count(0)
            excess -= sum(dropped)

    async def _give_up_events(self, uid: str, items: Iterable[bytes], now_us: int) -> list[Intent]:
        """Make the events of these items that no worker has claimed dead letters. Return them."""
        names, given_up, of_user = [item.decode() for item in items], [], self._keys.of_user(uid)
        async for part in self._items.read(uid, names):
            idle: dict[str, list[Intent]] = {}
            calls = []
            for item, raw in part:
                records = [each for each in deliveries_of_item(uid, item, raw) if each.is_idle_event(now_us)]
                idle[item] = [each.intent for each in records]
                keys = (self._keys.deliveries(uid, item), of_user.dead, of_user.event_items)
                arguments: list[bytes | str] = [
                    str(now_us),
                    str(self._lifetime_ms),
                    uid,
                    item,
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
