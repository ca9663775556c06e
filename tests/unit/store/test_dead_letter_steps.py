"""Many dead letters of one partition in Redis are searched and removed in steps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from itertools import chain
from typing import Any

import pytest

from gregor.clock import ManualClock
from gregor.core.items.read_cost import DEAD_LETTER_NS
from gregor.core.limits import Limits
from gregor.core.notify.intents import WEBHOOK, Intent, IntentKind
from gregor.core.notify.ledger import Claim, DeliveryHistory, DeliveryState, delivery_path
from gregor.cpu_meter import CpuMeter
from gregor.store.contract.dead_letters import DeadLetterPosition
from gregor.store.redis.delivery.dead_letter_steps import MOST_EXAMINED
from gregor.store.redis.store import RedisStore
from tests.support.builders import SECOND_US, creating
from tests.unit.store.redis_setup import NOW_US, RedisSetup, make_store

PHONE = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", at_us=NOW_US)
MANY = 2 * MOST_EXAMINED + MOST_EXAMINED // 2


async def fill(setup: RedisSetup, count: int, at_us: int) -> None:
    """Add dead letters of a webhook at one moment, without their deliveries."""
    paths = [delivery_path(Intent("alice", f"i{n}", IntentKind.EVENT, WEBHOOK, "wh")) for n in range(count)]
    for at in range(0, count, 1_000):
        pairs: Iterator[int | str] = chain.from_iterable((at_us, path) for path in paths[at : at + 1_000])
        await setup.connection.call("ZADD", setup.keys.of_user("alice").dead, *pairs)


async def die(store: RedisStore, at_us: int, intent: Intent = PHONE) -> None:
    """Make a delivery a dead letter at that time."""
    await store.users.commit(intent.uid, creating("a"))
    await store.ledger.plan([intent], DeliveryState.PLANNED, None, NOW_US)
    claim = await store.ledger.claim(intent, "", NOW_US, NOW_US + SECOND_US)
    assert isinstance(claim, Claim)
    await store.ledger.record_outcome(claim.delivery, "", DeliveryState.DEAD, DeliveryHistory(NOW_US, since_us=at_us))


class Recorder:
    """A connection that records the replies of scripts."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.replies: list[Any] = []

    def evalsha(self, *args: Any) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self._record(self._connection.evalsha(*args)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def _record(self, reply: Awaitable[Any]) -> Any:
        self.replies.append(await reply)
        return self.replies[-1]


async def pages(store: RedisStore, channel: str) -> list[list[str]]:
    """Return the paths of a channel's dead letters, page by page."""
    found = list[list[str]]()
    before: DeadLetterPosition | None = None
    while True:
        page = await store.dead_letters.page(before, 10, channel, NOW_US + SECOND_US)
        found.append([delivery_path(each.intent) for each in page.letters])
        if page.after is None:
            return found
        before = page.after


async def test_page_ends_after_many_letters_of_other_channels(setup: RedisSetup) -> None:
    store = make_store(setup)
    await fill(setup, MANY, NOW_US + 1)
    await die(store, NOW_US)

    assert await pages(store, "apns") == [[], [], [delivery_path(PHONE)]]


@pytest.mark.parametrize("neighbours", [0, 40])
async def test_each_step_examines_few_letters(setup: RedisSetup, neighbours: int) -> None:
    recorder: Any = Recorder(setup.connection)
    store = make_store(setup)
    await fill(setup, 1_300, NOW_US)
    for n in range(neighbours):
        await die(store, NOW_US + n, Intent(f"user-{n}", "a", IntentKind.ITEM, "apns", "phone", at_us=NOW_US))
    stepwise = RedisStore(recorder, Limits(), setup.keys.namespace, allow_oom=setup.allow_oom)

    await stepwise.dead_letters.page(None, 10, "fcm", NOW_US + SECOND_US)
    examined = [reply[0] for reply in recorder.replies]
    recorder.replies.clear()
    assert await stepwise.dead_letters.purge("webhook", None) == 1_300
    dropped = [reply[1] for reply in recorder.replies]

    for counts in (examined, dropped):
        assert sum(counts) == 1_300 + neighbours
        assert max(counts) <= 500


async def test_examined_letters_are_charged(setup: RedisSetup) -> None:
    store = make_store(setup)
    await fill(setup, 1_000, NOW_US)

    costs = []
    for work in (
        store.dead_letters.page(None, 10, "email", NOW_US + 1),
        store.dead_letters.purge("email", None),
        store.users.delete_user("alicia", NOW_US),
        store.dead_letters.purge(None, None),
        store.dead_letters.page(None, 10, "email", NOW_US + 1),
    ):
        meter = CpuMeter(ManualClock(NOW_US).cpu_ns)
        await meter.run(work)
        costs.append(meter.used_ns // DEAD_LETTER_NS)

    in_partition = setup.keys.of_user("alicia").dead == setup.keys.of_user("alice").dead
    assert costs == [1_000, 1_000, 1_000 * in_partition, 1_000, 0]


async def test_expired_letters_leave_in_steps(setup: RedisSetup) -> None:
    store, dead = make_store(setup), setup.keys.of_user("alice").dead
    now_us = NOW_US + Limits().retention_us
    await fill(setup, 250, NOW_US)

    left = []
    for n in range(4):
        await die(store, now_us, Intent("alice", "a", IntentKind.REMIND, "apns", "phone", n, at_us=NOW_US))
        left.append(await setup.connection.call("ZCARD", dead))

    assert left == [151, 52, 3, 4]
    assert (await store.dead_letters.page(None, 9, "webhook", now_us)).letters == ()
