"""A replay in Redis reads and writes in two steps: a change between them must not be lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from gregor.core.limits import Limits
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import Claim, DeliveryAttempt, DeliveryState
from gregor.store.redis.delivery.dead_letters import RedisDeadLetters
from gregor.store.redis.store import RedisStore
from tests.support.builders import SECOND_US, creating
from tests.unit.store.redis_setup import NOW_US, RedisSetup, make_store

PHONE = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", at_us=NOW_US)


class Between:
    """A connection that runs a callback right after the reply of its first command."""

    def __init__(self, connection: Any, act: Callable[[], Awaitable[None]]) -> None:
        self._connection = connection
        self._act = act

    async def call(self, *args: Any) -> Any:
        reply = await self._connection.call(*args)
        await self._act()
        return reply

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def die(store: RedisStore, status: str) -> None:
    """Make one more attempt, the last."""
    claim = await store.ledger.claim(PHONE, "", NOW_US, NOW_US + SECOND_US)
    assert isinstance(claim, Claim)
    history = msgspec.structs.replace(
        claim.delivery.history.attempted(DeliveryAttempt(NOW_US, status)), since_us=NOW_US
    )
    await store.ledger.record_outcome(claim.delivery, "", DeliveryState.DEAD, history)


async def test_concurrent_replays_lose_no_attempt(setup: RedisSetup) -> None:
    store = make_store(setup)
    await store.users.commit("alice", creating("a"))
    await store.ledger.plan([PHONE], DeliveryState.PLANNED, None, NOW_US)
    await die(store, "400")

    async def another() -> None:
        assert await store.dead_letters.replay(PHONE, NOW_US + 1)
        await die(store, "413")

    late: Any = Between(setup.connection, another)
    assert not await RedisDeadLetters(late, setup.keys, Limits(), allow_oom=setup.allow_oom).replay(PHONE, NOW_US + 2)

    [letter] = (await store.dead_letters.page(None, 9, None, NOW_US)).letters
    assert [each.status for each in letter.history.attempts] == ["400", "413"]
    assert await store.dead_letters.replay(PHONE, NOW_US + 3)
