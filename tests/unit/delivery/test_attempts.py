"""What becomes of a delivery where something of ours fails: the store, the process, the message."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from gregor.clock import ManualClock
from gregor.core.items.sync import View
from gregor.core.notify.intents import Intent
from gregor.core.notify.ledger import MAX_ATTEMPTS, DeliveryHistory, DeliveryRecord, DeliveryState
from gregor.reference.store import MemoryQueueReader
from gregor.reference.store.ledger import MemoryLedger
from gregor.registries.categories import CategoryRegistry
from gregor.store.contract.devices import Registration
from gregor.store.contract.store import Unavailable
from gregor.store.redis.store import RedisStore
from gregor_delivery.attempt import BUDGET_US, FAILED_S, DeliveryContext, attempt
from gregor_delivery.channels.contract import OutgoingMessage, PushMessage
from gregor_delivery.channels.verdict import Refused, Retry, Verdict
from gregor_delivery.decide.decision import Decider, SendDecision
from gregor_delivery.decide.push import PushDecider
from gregor_delivery.metrics import DeliveryMetrics
from gregor_delivery.throttle.breaker import Breaker
from gregor_delivery.worker import Worker
from tests.support.builders import LIMITS, NOW_US, SECOND_US
from tests.support.cluster import KEEP_ALL
from tests.support.servers import BINARIES, Server, open_client
from tests.support.wait import wait_until
from tests.unit.delivery.house import House, Provider
from tests.unit.delivery.types_of_news import ENTRIES, TOKEN


async def test_an_intent_that_was_handed_over_twice_waits_as_one(house: House) -> None:
    house.provider.verdicts = [Retry(600.0, "429", "TooManyRequests")]
    intent = await house.create("a")
    again_us = await attempt(house.trade, intent)

    assert await attempt(house.trade, replace(intent, at_us=NOW_US + 1)) == again_us
    assert len(house.provider.pushes) == 1


async def test_a_day_of_being_asked_for_a_second_is_no_storm_and_no_long_story(house: House) -> None:
    house.provider.verdicts = [Retry(1.0, "429", "TooManyRequests")] * 100_000
    intent = await house.create("a")

    while (again_us := await attempt(house.trade, intent)) is not None:
        house.clock.advance((again_us - house.clock.now_us()) / SECOND_US)

    entry = await house.entry("a")
    assert (entry.state, entry.history.reason) == (DeliveryState.DEAD, "budget")
    assert 100 < entry.n < 1_000 and len(entry.history.attempts) == MAX_ATTEMPTS
    assert entry.history.attempts[-1].at_us > NOW_US + BUDGET_US - 1_200 * SECOND_US


async def test_a_replay_has_a_day_of_its_own_and_begins_with_short_pauses(house: House) -> None:
    """Its attempts stay in its story, and count for nothing that is decided now."""
    house.provider.verdicts = [Retry(600.0, "503", "Shutdown")] * 1_000
    intent = await house.create("a")
    while (again_us := await attempt(house.trade, intent)) is not None:
        house.clock.advance((again_us - house.clock.now_us()) / SECOND_US)
    tried = (await house.entry("a")).n
    house.clock.advance(3_600.0)
    replayed_us = house.clock.now_us()
    assert await house.store.dead_letters.replay(intent, replayed_us)

    house.provider.verdicts = [Retry(None, "503", "Shutdown"), *[Retry(600.0, "503", "Shutdown")] * 1_000]
    again_us = await attempt(house.trade, intent)
    assert again_us is not None and again_us <= replayed_us + 2 * SECOND_US
    while (again_us := await attempt(house.trade, intent)) is not None:
        house.clock.advance((again_us - house.clock.now_us()) / SECOND_US)

    entry = await house.entry("a")
    assert (entry.state, entry.history.reason) == (DeliveryState.DEAD, "budget")
    assert entry.n > tried + 50 and len(entry.history.attempts) == MAX_ATTEMPTS
    assert entry.history.last_us > replayed_us + BUDGET_US - 1_200 * SECOND_US


@pytest.mark.parametrize("since", ["dismissed", "expired", "acked", "device_gone"])
async def test_a_replay_is_looked_at_like_any_other(house: House, since: str) -> None:
    house.provider.verdicts = [Refused("400", "BadTopic")]
    intent = await house.create("a", expires=NOW_US // SECOND_US + 60)
    assert await attempt(house.trade, intent) is None

    match since:
        case "dismissed":
            await house.dismiss("a")
        case "expired":
            house.clock.advance(60.0)
        case "acked":
            await house.store.devices.acknowledge("alice", View("phone"), 9, NOW_US)
        case _:
            await house.store.devices.forget_device("alice", "phone", NOW_US, b"abc")
    assert await house.store.dead_letters.replay(intent, house.clock.now_us())
    assert await attempt(house.trade, intent) is None

    assert await house.outcome("a") == (DeliveryState.CANCELLED, since)
    assert len(house.provider.pushes) == 1


async def test_a_replay_arrives_once_however_often_it_is_handed_over(house: House) -> None:
    house.provider.verdicts = [Refused("400", "BadTopic")]
    intent = await house.create("a")
    await attempt(house.trade, intent)
    assert await house.store.dead_letters.replay(intent, NOW_US)

    for _ in range(3):
        assert await attempt(house.trade, intent) is None

    entry = await house.entry("a")
    assert (entry.state, [each.status for each in entry.history.attempts]) == (DeliveryState.SENT, ["400", "200"])
    assert len(house.provider.pushes) == 2


class Away(MemoryLedger):
    """A ledger that can be away when a verdict is written."""

    def __init__(self, other: MemoryLedger) -> None:
        self.__dict__.update(other.__dict__)
        self.is_away = False

    async def record_outcome(
        self,
        delivery: DeliveryRecord,
        place: str,
        state: DeliveryState,
        history: DeliveryHistory,
        *,
        counts: bool = True,
    ) -> bool:
        if self.is_away:
            raise Unavailable("the ledger is away")
        return await super().record_outcome(delivery, place, state, history, counts=counts)


async def test_a_verdict_waits_for_a_store_that_is_away_and_nothing_is_sent_again(house: House) -> None:
    ledger = house.store._ledger = Away(house.store.ledger)
    ledger.is_away = True
    intent = await house.create("a")
    sending = asyncio.create_task(attempt(house.trade, intent))
    await wait_until(lambda: house.provider.pushes, "it is sent")
    ledger.is_away = False

    assert await sending is None
    assert ((await house.outcome("a"))[0], len(house.provider.pushes)) == (DeliveryState.SENT, 1)


async def test_a_verdict_that_cannot_be_written_before_its_lease_is_over_leaves_the_intent_to_others(
    house: House,
) -> None:
    ledger = house.store._ledger = Away(house.store.ledger)
    ledger.is_away = True
    intent = await house.create("a")
    sending = asyncio.create_task(attempt(house.trade, intent))
    await wait_until(lambda: house.provider.pushes, "it is sent")
    house.clock.advance(house.trade.lease_s)

    with pytest.raises(Unavailable):
        await sending
    ledger.is_away = False
    assert await attempt(house.trade, intent) is None
    assert len({push.collapse_id for push in house.provider.pushes}) == 1
    assert ((await house.outcome("a"))[0], (await house.entry("a")).n) == (DeliveryState.SENT, 2)


@pytest.mark.parametrize("binary", BINARIES)
async def test_a_server_that_restarts_under_a_push_costs_no_second_copy(binary: str, tmp_path: Path) -> None:
    """Real: the store is gone between the claim and the verdict, and comes back with what it had on disk."""
    server = Server(binary, tmp_path, *KEEP_ALL).start()
    clock, provider = ManualClock(NOW_US), Provider(hold=asyncio.Event())
    try:
        async with open_client(server.url) as link:
            store = RedisStore(link, LIMITS)
            await store.categories.apply(ENTRIES, NOW_US, 0)
            await store.devices.put_device("alice", "phone", Registration("ios", TOKEN, "it"), NOW_US)
            registry = CategoryRegistry(store)
            await registry.refresh()
            looker = PushDecider(store, registry)
            trade = DeliveryContext(
                "apns", provider, store, looker, clock, DeliveryMetrics(CollectorRegistry()), Breaker()
            )
            house = House(store, clock, provider, trade, registry)  # type: ignore[arg-type]
            intent = await house.create("a")
            sending = asyncio.create_task(attempt(trade, intent))
            await wait_until(lambda: provider.pushes, "it is on its way")

            server.kill()
            assert provider.hold is not None
            provider.hold.set()
            await wait_until(lambda: not link.connected, "the store is gone")
            server.start()

            assert await sending is None
            assert ((await house.entry("a")).state, len(provider.pushes)) == (DeliveryState.SENT, 1)
    finally:
        server.kill()


@dataclass
class StandsStill:
    """A look after which the process stands still: stopped, swapped out, moved to another machine."""

    looker: Decider
    clock: ManualClock
    for_s: float

    async def look(self, intent: Intent, now_us: int) -> SendDecision:
        """As the other does, and then time passes."""
        look = await self.looker.look(intent, now_us)
        self.clock.advance(self.for_s)
        return look


async def test_what_was_seen_before_the_process_stood_still_is_looked_at_again(house: House) -> None:
    still = StandsStill(house.trade.looker, house.clock, 20.0)
    intent = await house.create("a")

    assert await attempt(replace(house.trade, looker=still), intent) is not None
    assert (house.provider.pushes, (await house.entry("a")).n) == ([], 0)
    await house.dismiss("a")
    assert await attempt(house.trade, intent) is None
    assert (house.provider.pushes, await house.outcome("a")) == ([], (DeliveryState.CANCELLED, "dismissed"))


class Broken:
    """A look that fails, or that gives a message which cannot be made: a bug of ours."""

    def __init__(self, *, looks: bool) -> None:
        self.looks = looks

    async def look(self, intent: Intent, now_us: int) -> SendDecision:
        """As told."""
        if not self.looks:
            raise RuntimeError("a bug")
        return SendDecision(compose=_fail)


def _fail(_: Sequence[Intent]) -> OutgoingMessage:
    raise RuntimeError("a bug")


@pytest.mark.parametrize("looks", [True, False])
async def test_a_bug_of_ours_burns_no_attempt_blames_no_provider_and_ends_among_the_dead(
    house: House, looks: bool
) -> None:
    queue = MemoryQueueReader(house.clock.monotonic)
    worker = Worker(replace(house.trade, looker=Broken(looks=looks)), queue)
    running = asyncio.create_task(worker.run())
    await queue.enqueue([await house.create("a")])
    await wait_until(lambda: queue.waiting(), "it is put off")
    entry = await house.entry("a")
    assert (entry.state, entry.n, entry.history.next_us) == (
        DeliveryState.RETRY,
        0,
        NOW_US + round(FAILED_S * SECOND_US),
    )
    assert not house.trade.breaker.is_open

    house.clock.advance(BUDGET_US / SECOND_US)

    async def is_dead() -> bool:
        return await house.outcome("a") == (DeliveryState.DEAD, "failed")

    await wait_until(is_dead, "it is dead")
    worker.stop()
    await running
    assert queue.waiting() == {} and await queue.reclaim(0.0, 10) == []


class Raising(Provider):
    """A channel that breaks its promise."""

    async def send(self, message: PushMessage, deadline_s: float) -> Verdict:
        await super().send(message, deadline_s)
        raise RuntimeError("a bug")


async def test_a_channel_that_raises_leaves_the_outcome_unknown(house: House) -> None:
    raising = Raising()
    intent = await house.create("a")
    trade = replace(house.trade, channel=raising)

    assert await attempt(trade, intent) is not None
    assert await house.outcome("a") == (DeliveryState.UNKNOWN, None)
    house.clock.advance(10.0)
    assert await attempt(trade, intent) is None
    assert ((await house.outcome("a"))[0], len(raising.pushes)) == (DeliveryState.UNKNOWN, 2)


async def test_of_a_user_that_was_forgotten_nothing_is_sent_or_kept(house: House) -> None:
    waits, flies = await house.create("a"), await house.create("b")
    house.provider.hold = asyncio.Event()
    flying = asyncio.create_task(attempt(house.trade, flies))
    await wait_until(lambda: house.provider.pushes, "one is on its way")

    await house.store.users.delete_user("alice", NOW_US)
    house.provider.hold.set()

    assert await flying is None
    assert await attempt(house.trade, waits) is None
    assert [each.data["id"] for each in house.provider.pushes] == ["b"]
    assert await house.store.ledger.of_user("alice", 9) == []
