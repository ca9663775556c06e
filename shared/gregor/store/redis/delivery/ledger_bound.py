"""Bounds of a user's deliveries: the oldest items lose theirs, and waiting events of old items become dead letters.

The events of one item are bounded, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from gregor.core.limits import Limits
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import MAX_EVENTS_OF_ITEM, DeliveryRecord, delivery_key, surplus_events
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
"""A reply of the script ``plan``: ``LedgerBound.give_up_old_events`` is due."""
EVENTS_OF_ITEM_DUE: Final = b"#"
"""A reply of the script ``plan``: ``LedgerBound.bound_events_of`` is due."""
_EVENTS_AT_ONCE: Final = 250
"""Events of one item that one call of a script changes: a millisecond of Redis."""
_MAX_SEARCHES: Final = 1_000
"""Users whose last search for items to drop is remembered."""
_EVENT_PREFIX: Final = f"{IntentKind.EVENT.value}/".encode()


class _Search(NamedTuple):
    """The result of a search for items to drop that ended above the bound.

    ``staying``: the number of oldest items that could not be dropped. ``left``: the number of items after the search.
    """

    staying: int
    left: int


class LedgerBound:
    """Bounds a user's items with deliveries, and those with webhook events that wait (``Ledger.plan``)."""

    def __init__(self, connection: RedisCommands, keys: Keys, limits: Limits, *, flags: str) -> None:
        self._connection = connection
        self._keys = keys
        self._items = LedgerItems(connection, keys)
        self._lifetime_ms = limits.retention_us // 1_000
        self._most_items, self._most_waiting = limits.delivered, limits.delivered_waiting
        self._step = limits.delivered_step
        self._most_tried = max(2 * self._step, _DROP_SIZE)
        self._searches: dict[str, _Search] = {}
        self.of_lists = (str(limits.delivered), str(limits.delivered_waiting), str(limits.delivered_step))
        """Arguments of the script ``plan``: when the bounds are due."""
        self._drop_settled = scripts.load("ledger/drop_settled", flags=flags)
        self._drop_events = scripts.load("ledger/drop_events", flags=flags)
        self._give_up_script = scripts.load("ledger/give_up", flags=flags)

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part."""
        return self._drop_settled, self._drop_events, self._give_up_script

    async def apply(self, replies: Mapping[tuple[str, str], Sequence[Any]], now_us: int) -> list[Intent]:
        """Apply the bounds that are due. Return the events that became dead letters.

        ``replies``: those of the script ``plan``, by user and item.
        """
        given_up: list[Intent] = []
        for uid in {uid for (uid, _), reply in replies.items() if EVENT_BOUND_DUE in reply}:
            given_up += await self.give_up_old_events(uid, now_us)
        for (uid, item), reply in replies.items():
            if EVENTS_OF_ITEM_DUE in reply:
                given_up += await self.bound_events_of(uid, item, now_us)
        for uid in {uid for (uid, _), reply in replies.items() if ITEM_BOUND_DUE in reply}:
            await self.drop_oldest(uid)
        return given_up

    async def give_up_old_events(self, uid: str, now_us: int) -> list[Intent]:
        """Make the waiting events of the items above the bound dead letters. Return these events."""
        event_items = self._keys.of_user(uid).event_items
        excess = int(await result_of(self._connection.call("ZCARD", event_items))) - self._most_waiting
        if excess <= 0:
            return []
        # An item whose event is in flight stays in this list until the next call.
        oldest = await result_of(self._connection.call("ZRANGE", event_items, 0, excess - 1))
        return await self._give_up_events(uid, oldest, now_us)

    async def bound_events_of(self, uid: str, item: str, now_us: int) -> list[Intent]:
        """Apply the bound of the webhook events of one item. Return the events that became dead letters."""
        deliveries, dead = self._keys.deliveries(uid, item), self._keys.of_user(uid).dead
        raw = await result_of(self._connection.call("HGETALL", deliveries))
        stored = {key: entry for key, entry in _pairs(raw) if key.startswith(_EVENT_PREFIX)}
        if len(stored) <= MAX_EVENTS_OF_ITEM:
            return []
        flat = [part for pair in stored.items() for part in pair]
        forgotten, idle = surplus_events(deliveries_of_item(uid, item, flat), now_us)
        for part in _parts(forgotten):
            keys = [delivery_key(each.intent).encode() for each in part]
            read = [each for key in keys for each in (key, stored[key])]
            await result_of(self._connection.evalsha(self._drop_events, (deliveries, dead), [uid, item, *read]))
        given_up: list[Intent] = []
        for part in _parts(idle):
            changed = await result_of(self._give_up(uid, item, part, stored, now_us))
            given_up += _changed(part, changed)
        return given_up

    async def drop_oldest(self, uid: str) -> None:
        """Drop the deliveries of the oldest items above the bound that are gone and settled.

        The bound is applied after each ``delivered_step`` items. An item therefore costs about one call. It costs at
        most two if many of the oldest items stay: the next search continues at the end of this one.
        """
        of_user = self._keys.of_user(uid)
        count = int(await result_of(self._connection.call("ZCARD", of_user.delivered)))
        earlier = self._searches.pop(uid, None)
        # The number of items may oscillate around a multiple of the step: a search then would find nothing new.
        if earlier is not None and 0 <= count - earlier.left < self._step // 2:
            self._searches[uid] = earlier
            return
        staying, excess, left = 0 if earlier is None else earlier.staying, count - self._most_items, self._most_tried
        while excess > 0 and left > 0:
            last = staying + min(_DROP_SIZE, excess, left) - 1
            items = await result_of(self._connection.call("ZRANGE", of_user.delivered, staying, last))
            if not items:
                staying = 0
                break
            dropped = await self._drop(uid, items)
            left -= len(items)
            staying += len(items) - dropped
            excess -= dropped
        if excess > 0:
            self._searches[uid] = _Search(staying, self._most_items + excess)
        if len(self._searches) > _MAX_SEARCHES:
            del self._searches[next(iter(self._searches))]

    async def _drop(self, uid: str, items: Sequence[bytes]) -> int:
        """Drop the deliveries of the items that are gone and settled. Return the number of these items."""
        of_user = self._keys.of_user(uid)
        keys = (of_user.delivered, of_user.state, of_user.agenda, of_user.dead)
        dropped = await results_of(
            self._connection.evalsha(
                self._drop_settled, (self._keys.deliveries(uid, item.decode()), *keys), [item, uid]
            )
            for item in items
        )
        return sum(dropped)

    async def _give_up_events(self, uid: str, items: Iterable[bytes], now_us: int) -> list[Intent]:
        """Make the events of these items that no worker has claimed dead letters. Return them."""
        names, given_up = [item.decode() for item in items], list[Intent]()
        async for part in self._items.read(uid, names):
            idle: list[list[DeliveryRecord]] = []
            calls = []
            for item, raw in part:
                records = [each for each in deliveries_of_item(uid, item, raw) if each.is_idle_event(now_us)]
                idle.append(records)
                calls.append(self._give_up(uid, item, records, dict(_pairs(raw)), now_us))
            for records, changed in zip(idle, await results_of(calls), strict=True):
                given_up += _changed(records, changed)
        return given_up

    def _give_up(
        self, uid: str, item: str, records: Iterable[DeliveryRecord], stored: Mapping[bytes, bytes], now_us: int
    ) -> Any:
        """Make these events of an item dead letters. ``stored``: the entries of the item as they were read."""
        of_user = self._keys.of_user(uid)
        keys = (self._keys.deliveries(uid, item), of_user.dead, of_user.event_items)
        arguments: list[bytes | str] = [str(now_us), str(self._lifetime_ms), uid, item]
        for record in records:
            key = delivery_key(record.intent).encode()
            arguments += (key, stored[key], encode_delivery(record.given_up(now_us)))
        return self._connection.evalsha(self._give_up_script, keys, arguments)


def _pairs(raw: Sequence[bytes]) -> Iterable[tuple[bytes, bytes]]:
    return zip(raw[::2], raw[1::2], strict=True)


def _parts(records: Sequence[DeliveryRecord]) -> Iterable[Sequence[DeliveryRecord]]:
    return (records[at : at + _EVENTS_AT_ONCE] for at in range(0, len(records), _EVENTS_AT_ONCE))


def _changed(records: Iterable[DeliveryRecord], changed: Sequence[bytes]) -> list[Intent]:
    """Return the intents of the records that the script ``give_up`` changed. ``changed``: the keys that it returned."""
    keys = set(changed)
    return [each.intent for each in records if delivery_key(each.intent).encode() in keys]
