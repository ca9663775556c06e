"""Events of an item that change while Redis applies the bound of the item's events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from gregor.core.notify.intents import WEBHOOK, Intent, IntentKind
from gregor.core.notify.ledger import EVENT_BOUND_FROM, EVENT_BOUND_STEP, Claim, DeliveryState, PlannedDeliveries
from gregor.store.redis.store import RedisStore
from tests.support.builders import SECOND_US, creating
from tests.unit.store.redis_setup import NOW_US, RedisSetup, make_store

EVENT = Intent("alice", "a", IntentKind.EVENT, WEBHOOK, "", seq=7, at_us=NOW_US, event='{"type":"item.dismissed"}')
LATER_US = NOW_US + 60 * SECOND_US


class ChangedAfterRead:
    """A connection that calls a function after the first read of a hash."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.change: Callable[[], Awaitable[None]] | None = None

    def call(self, *args: Any) -> asyncio.Future[Any]:
        reply = self._connection.call(*args)
        return asyncio.ensure_future(self._after(reply)) if args[0] == "HGETALL" and self.change else reply

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def _after(self, reply: Awaitable[Any]) -> Any:
        found, change, self.change = await reply, self.change, None
        assert change is not None
        await change()
        return found


def event(n: int) -> Intent:
    """Return the n-th event of the item."""
    return replace(EVENT, device=f"wh_a:{n:05}")


async def plan(store: RedisStore, first: int, count: int) -> PlannedDeliveries:
    """Plan further events of the item."""
    intents = [event(n) for n in range(first, first + count)]
    return await store.ledger.plan(intents, DeliveryState.PLANNED, None, NOW_US + first)


async def state_of(store: RedisStore, intent: Intent) -> DeliveryState | None:
    """Return the state of a delivery; ``None`` if the ledger does not have it."""
    records = await store.ledger.of_item("alice", "a")
    return next((each.state for each in records if each.intent.key == intent.key), None)


async def test_event_that_was_claimed_meanwhile_is_not_given_up(setup: RedisSetup) -> None:
    between = ChangedAfterRead(setup.connection)
    store, other = make_store(replace(setup, connection=between)), make_store(setup)
    await store.users.commit("alice", creating("a"))

    async def claim() -> None:
        assert isinstance(await other.ledger.claim(event(3), "", NOW_US, LATER_US), Claim)

    between.change = claim
    planned = await plan(store, 0, EVENT_BOUND_FROM)

    assert event(2) in planned.given_up and event(3) not in planned.given_up
    assert await state_of(store, event(3)) is DeliveryState.CLAIMED


async def test_dead_letter_that_was_replayed_meanwhile_is_not_forgotten(setup: RedisSetup) -> None:
    between = ChangedAfterRead(setup.connection)
    store, other = make_store(replace(setup, connection=between)), make_store(setup)
    await store.users.commit("alice", creating("a"))
    await plan(store, 0, EVENT_BOUND_FROM)

    async def replay() -> None:
        assert await other.dead_letters.replay(event(3), LATER_US)

    between.change = replay
    await plan(store, EVENT_BOUND_FROM, EVENT_BOUND_STEP)

    assert await state_of(store, event(2)) is None
    assert await state_of(store, event(3)) is DeliveryState.PLANNED
