"""The cost of the bound of items with deliveries, if many of the oldest items keep their deliveries."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import DeliveryState
from gregor.store.redis.store import RedisStore
from tests.support.builders import LIMITS, creating
from tests.unit.store.redis_setup import NOW_US, RedisSetup, make_store

BOUND = replace(LIMITS, delivered=2_000)
PUSH = Intent("alice", "", IntentKind.ITEM, "apns", "phone", seq=7, at_us=NOW_US)
STAYING, DROPPABLE = DeliveryState.PLANNED, DeliveryState.CANCELLED


class CountedTries:
    """A connection that counts the attempts to drop the deliveries of an item."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._sha = ""
        self.tries = 0

    def watch(self, store: RedisStore) -> None:
        self._sha = store.ledger._bound._drop_settled.sha

    def evalsha(self, script: Any, *args: Any) -> asyncio.Future[Any]:
        self.tries += script.sha == self._sha
        return self._connection.evalsha(script, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def with_alice(setup: RedisSetup) -> tuple[RedisStore, CountedTries]:
    """Return a store in which alice exists, and the number of these attempts."""
    counted = CountedTries(setup.connection)
    store = make_store(replace(setup, connection=counted), BOUND)
    counted.watch(store)
    await store.users.commit("alice", creating("live"))
    return store, counted


async def plan(store: RedisStore, numbers: Sequence[int], state: DeliveryState) -> None:
    """Plan deliveries of these items."""
    for n in numbers:
        await store.ledger.plan([replace(PUSH, item=f"x{n:05}")], state, None, NOW_US + n)


async def count_items(store: RedisStore) -> int:
    return (await store.users.sizes("alice")).delivered


async def test_items_that_stay_are_tried_at_most_twice_for_each_new_item(setup: RedisSetup) -> None:
    """Before, each step tried all these items: 17 scripts for a new item."""
    store, counted = await with_alice(setup)
    await plan(store, range(3_000), STAYING)

    assert counted.tries <= 2 * 1_000
    assert await count_items(store) == 3_000, "unfinished deliveries stay"


async def test_oscillating_number_of_items_starts_no_search(setup: RedisSetup) -> None:
    """Before, each new item started a search through all others if one item had left since the last search."""
    store, counted = await with_alice(setup)
    await plan(store, range(2_100), STAYING)
    counted.tries = 0
    for n in range(2_100, 2_130):
        await setup.connection.call("ZREM", store.keys.of_user("alice").delivered, f"x{n - 1:05}")
        await plan(store, [n], STAYING)

    assert counted.tries <= 200


async def test_search_goes_on_behind_the_items_that_stay(setup: RedisSetup) -> None:
    store, _ = await with_alice(setup)
    await plan(store, range(600), STAYING)
    await plan(store, range(600, 3_500), DROPPABLE)
    assert await count_items(store) <= 2_000 + 4 * BOUND.delivered_step

    for n in range(600):
        await store.ledger.move(replace(PUSH, item=f"x{n:05}"), (STAYING,), DROPPABLE)
    await plan(store, range(3_500, 5_500), DROPPABLE)

    assert await store.ledger.of_item("alice", "x00000") == [], "a search begins again with the oldest"
    assert await count_items(store) <= 2_000 + 4 * BOUND.delivered_step
