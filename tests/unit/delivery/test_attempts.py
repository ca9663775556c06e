"""Deliveries when the store, the process or our own code fails."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from gregor.clock import ManualClock
from gregor.core.items.sync import View
from gregor.core.notify.intents import Intent
from gregor.core.notify.ledger import MAX_ATTEMPTS, DeliveryState
from gregor.reference.store import MemoryQueueReader
from gregor.registries.categories import CategoryRegistry
from gregor.store.contract.devices import Registration
from gregor.store.redis.store import RedisStore
from gregor_delivery.attempt import INTERNAL_ERROR_RETRY_S, RETRY_BUDGET_US, DeliveryContext, attempt
from gregor_delivery.channels.contract import PushMessage
from gregor_delivery.channels.smtp.channel import mail_deadline_s
from gregor_delivery.channels.verdict import Misconfigured, Refused, Retry, Sent, Verdict
from gregor_delivery.decide.decision import ClaimFirst, SendDecision, SendNow
from gregor_delivery.decide.push import PushDecider
from gregor_delivery.metrics import DeliveryMetrics
from gregor_delivery.throttle.breaker import Breaker
from gregor_delivery.worker import Worker
from tests.support.builders import LIMITS, NOW_US, SECOND_US
from tests.support.cluster import KEEP_ALL
from tests.support.servers import BINARIES, Server, open_client
from tests.support.wait import wait_until
from tests.unit.delivery.harness import DeliveryHarness, FakeChannel, StallingDecider
from tests.unit.delivery.sample_categories import ENTRIES, TOKEN


async def test_intent_enqueued_twice_waits_once(harness: DeliveryHarness) -> None:
    harness.provider.verdicts = [Retry(600.0, "429", "TooManyRequests")]
    intent = await harness.create("a")
    again_us = await attempt(harness.context, intent)

    assert await attempt(harness.context, replace(intent, at_us=NOW_US + 1)) == again_us
    assert len(harness.provider.pushes) == 1


async def test_first_failure_of_a_provider_is_logged(harness: DeliveryHarness) -> None:
    verdicts: list[Verdict] = [Retry(1.0, None, "connection refused")] * 3
    harness.provider.verdicts = [*verdicts, Sent("200"), *verdicts]
    with capture_logs() as logs:
        for name in "abcdefg":
            await attempt(harness.context, await harness.create(name))

    shown = [(each["channel"], each["detail"]) for each in logs if each["event"] == "delivery.provider_failed"]
    assert shown == [(harness.context.name, "connection refused")] * 2


async def test_failures_between_successes_do_not_flood_the_log(harness: DeliveryHarness) -> None:
    """One device can cause them at the rate of its pushes: each failure after a success is the first one again."""
    harness.provider.verdicts = [Retry(1.0, None, "connection refused"), Sent("200")] * 51
    with capture_logs() as logs:
        for number in range(102):
            if number == 100:
                harness.clock.advance(20)
            await attempt(harness.context, await harness.create(f"i{number}"))

    shown = [each.get("suppressed") for each in logs if each["event"] == "delivery.provider_failed"]
    assert shown == [0] * 20 + [30]


async def test_rejected_pushes_do_not_flood_the_log(harness: DeliveryHarness) -> None:
    """One device can cause them at the rate of its pushes. Rejections of another kind are still logged."""
    harness.provider.verdicts = [
        *[Refused("400", "BadTopic")] * 50,
        Misconfigured("403", "key"),
        Refused("400", "late"),
    ]
    with capture_logs() as logs:
        for number in range(52):
            if number == 51:
                harness.clock.advance(20)
            await attempt(harness.context, await harness.create(f"i{number}"))

    shown = [(each["verdict"], each["suppressed"]) for each in logs if each["event"] == "delivery.rejected"]
    assert shown == [("refused", 0)] * 20 + [("misconfigured", 0), ("refused", 30)]


class BrokenChannel(FakeChannel):
    """A channel with a defect: it raises."""

    async def send(self, message: PushMessage, deadline_s: float) -> Verdict:
        raise RuntimeError("defect")


async def test_failures_of_a_channel_do_not_flood_the_log(harness: DeliveryHarness) -> None:
    context = replace(harness.context, channel=BrokenChannel())
    with capture_logs() as logs:
        for number in range(50):
            await attempt(context, await harness.create(f"i{number}"))

    shown = [each["log_level"] for each in logs if each["event"] == "delivery.channel_failed"]
    assert shown == ["error"] * 20


async def test_short_retry_after_for_a_day_is_bounded(harness: DeliveryHarness) -> None:
    harness.provider.verdicts = [Retry(1.0, "429", "TooManyRequests")] * 100_000
    intent = await harness.create("a")

    while (again_us := await attempt(harness.context, intent)) is not None:
        harness.clock.advance((again_us - harness.clock.now_us()) / SECOND_US)

    entry = await harness.entry("a")
    assert (entry.state, entry.history.reason) == (DeliveryState.DEAD, "budget")
    assert 100 < entry.n < 1_000 and len(entry.history.attempts) == MAX_ATTEMPTS
    assert entry.history.attempts[-1].at_us > NOW_US + RETRY_BUDGET_US - 1_200 * SECOND_US


async def test_replay_has_its_own_retry_budget(harness: DeliveryHarness) -> None:
    """Earlier attempts stay in the history, without effect on the replay."""
    harness.provider.verdicts = [Retry(600.0, "503", "Shutdown")] * 1_000
    intent = await harness.create("a")
    while (again_us := await attempt(harness.context, intent)) is not None:
        harness.clock.advance((again_us - harness.clock.now_us()) / SECOND_US)
    tried = (await harness.entry("a")).n
    harness.clock.advance(3_600.0)
    replayed_us = harness.clock.now_us()
    assert await harness.store.dead_letters.replay(intent, replayed_us)

    harness.provider.verdicts = [Retry(None, "503", "Shutdown"), *[Retry(600.0, "503", "Shutdown")] * 1_000]
    again_us = await attempt(harness.context, intent)
    assert again_us is not None and again_us <= replayed_us + 2 * SECOND_US
    while (again_us := await attempt(harness.context, intent)) is not None:
        harness.clock.advance((again_us - harness.clock.now_us()) / SECOND_US)

    entry = await harness.entry("a")
    assert (entry.state, entry.history.reason) == (DeliveryState.DEAD, "budget")
    assert entry.n > tried + 50 and len(entry.history.attempts) == MAX_ATTEMPTS
    assert entry.history.last_us > replayed_us + RETRY_BUDGET_US - 1_200 * SECOND_US


@pytest.mark.parametrize("since", ["dismissed", "expired", "acked", "device_gone"])
async def test_replay_is_decided_again(harness: DeliveryHarness, since: str) -> None:
    harness.provider.verdicts = [Refused("400", "BadTopic")]
    intent = await harness.create("a", expires=NOW_US // SECOND_US + 60)
    assert await attempt(harness.context, intent) is None

    match since:
        case "dismissed":
            await harness.dismiss("a")
        case "expired":
            harness.clock.advance(60.0)
        case "acked":
            await harness.store.devices.acknowledge("alice", View("phone"), 1, NOW_US)
        case _:
            await harness.store.devices.forget_device("alice", "phone", NOW_US, b"abc")
    assert await harness.store.dead_letters.replay(intent, harness.clock.now_us())
    assert await attempt(harness.context, intent) is None

    assert await harness.outcome("a") == (DeliveryState.CANCELLED, since)
    assert len(harness.provider.pushes) == 1


async def test_replay_enqueued_twice_arrives_once(harness: DeliveryHarness) -> None:
    harness.provider.verdicts = [Refused("400", "BadTopic")]
    intent = await harness.create("a")
    await attempt(harness.context, intent)
    assert await harness.store.dead_letters.replay(intent, NOW_US)

    for _ in range(3):
        assert await attempt(harness.context, intent) is None

    entry = await harness.entry("a")
    assert (entry.state, [each.status for each in entry.history.attempts]) == (DeliveryState.SENT, ["400", "200"])
    assert len(harness.provider.pushes) == 2


@pytest.mark.redis
@pytest.mark.parametrize("binary", BINARIES)
async def test_store_restart_costs_no_second_copy(binary: str, tmp_path: Path) -> None:
    """A real store restarts between the claim and the verdict, with its data on disk."""
    server = Server(binary, tmp_path, *KEEP_ALL).start()
    clock, provider = ManualClock(NOW_US), FakeChannel(hold=asyncio.Event())
    try:
        async with open_client(server.url) as link:
            store = RedisStore(link, LIMITS)
            await store.categories.apply(ENTRIES, NOW_US, 0)
            await store.devices.put_device("alice", "phone", Registration("ios", TOKEN, "it"), NOW_US)
            registry = CategoryRegistry(store)
            await registry.refresh()
            decider = PushDecider(store, registry)
            context = DeliveryContext(
                "apns", provider, store, decider, clock, DeliveryMetrics(CollectorRegistry()), Breaker()
            )
            harness = DeliveryHarness(store, clock, provider, context, registry)  # type: ignore[arg-type]
            intent = await harness.create("a")
            sending = asyncio.create_task(attempt(context, intent))
            await wait_until(lambda: provider.pushes, "it is on its way")

            server.kill()
            assert provider.hold is not None
            provider.hold.set()
            await wait_until(lambda: not link.connected, "the store is gone")
            server.start()

            assert await sending is None
            assert ((await harness.entry("a")).state, len(provider.pushes)) == (DeliveryState.SENT, 1)
    finally:
        server.kill()


async def test_decision_older_than_deadline_is_repeated(harness: DeliveryHarness) -> None:
    stalling = StallingDecider(harness.context.decider, harness.clock, 20.0)
    intent = await harness.create("a")

    assert await attempt(replace(harness.context, decider=stalling), intent) is not None
    assert (harness.provider.pushes, (await harness.entry("a")).n) == ([], 0)
    await harness.dismiss("a")
    assert await attempt(harness.context, intent) is None
    assert (harness.provider.pushes, await harness.outcome("a")) == ([], (DeliveryState.CANCELLED, "dismissed"))


class BrokenDecider:
    """A decider with a bug in the step named `fails`."""

    def __init__(self, fails: str) -> None:
        self.fails = fails

    async def decide(self, intent: Intent, now_us: int) -> SendDecision | ClaimFirst:
        """Raise, or return a decision whose next step raises."""
        match self.fails:
            case "decide":
                raise RuntimeError("a bug")
            case "decide_claimed":
                return ClaimFirst("a lock", None, _fail)
        return SendNow(compose=_fail)


def _fail(_: object) -> NoReturn:
    raise RuntimeError("a bug")


@pytest.mark.parametrize("fails", ["decide", "decide_claimed", "compose"])
async def test_internal_error_counts_no_attempt_and_ends_dead(harness: DeliveryHarness, fails: str) -> None:
    queue = MemoryQueueReader(harness.clock.monotonic)
    worker = Worker(replace(harness.context, decider=BrokenDecider(fails)), queue)
    running = asyncio.create_task(worker.run())
    await queue.enqueue([await harness.create("a")])
    await wait_until(lambda: queue.waiting(), "it is postponed")
    entry = await harness.entry("a")
    assert (entry.state, entry.n, entry.history.next_us) == (
        DeliveryState.RETRY,
        0,
        NOW_US + round(INTERNAL_ERROR_RETRY_S * SECOND_US),
    )
    assert not harness.context.breaker.is_open

    harness.clock.advance(RETRY_BUDGET_US / SECOND_US)

    async def is_dead() -> bool:
        return await harness.outcome("a") == (DeliveryState.DEAD, "failed")

    await wait_until(is_dead, "it is dead")
    worker.stop()
    await running
    assert queue.waiting() == {} and await queue.reclaim(0.0, 10) == []


class RaisingChannel(FakeChannel):
    """A channel whose `send` raises, against the contract."""

    async def send(self, message: PushMessage, deadline_s: float) -> Verdict:
        await super().send(message, deadline_s)
        raise RuntimeError("a bug")


async def test_channel_exception_is_unknown(harness: DeliveryHarness) -> None:
    raising = RaisingChannel()
    intent = await harness.create("a")
    context = replace(harness.context, channel=raising)

    assert await attempt(context, intent) is not None
    assert await harness.outcome("a") == (DeliveryState.UNKNOWN, None)
    harness.clock.advance(10.0)
    assert await attempt(context, intent) is None
    assert ((await harness.outcome("a"))[0], len(raising.pushes)) == (DeliveryState.UNKNOWN, 2)


async def test_deleted_user_gets_nothing(harness: DeliveryHarness) -> None:
    waits, flies = await harness.create("a"), await harness.create("b")
    harness.provider.hold = asyncio.Event()
    flying = asyncio.create_task(attempt(harness.context, flies))
    await wait_until(lambda: harness.provider.pushes, "one is on its way")

    await harness.store.users.delete_user("alice", NOW_US)
    harness.provider.hold.set()

    assert await flying is None
    assert await attempt(harness.context, waits) is None
    assert [each.data["id"] for each in harness.provider.pushes] == ["b"]
    assert await harness.store.ledger.of_user("alice", 9) == []


def test_lease_covers_a_slow_relay(harness: DeliveryHarness) -> None:
    """A claim outlives the decision and one send: another worker must not send the mail again meanwhile."""
    assert (harness.context.timeout_s, harness.context.lease_s) == (15.0, 30.0)
    slow = replace(harness.context, send_timeout_s=mail_deadline_s(600.0))
    assert slow.timeout_s == pytest.approx(900.0)
    assert slow.lease_s == pytest.approx(915.0)
