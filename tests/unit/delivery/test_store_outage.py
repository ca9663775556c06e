"""The worker while the store cannot be reached: no delivery waits for minutes, and few attempts are made."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from gregor.core.notify.intents import Intent
from gregor.core.notify.ledger import DeliveryState
from gregor.reference.store import MemoryQueueReader
from gregor.store.contract.devices import Registration
from gregor.store.contract.store import Contended, Unavailable
from gregor.telemetry import FAILURE_LINES_BURST
from gregor_delivery.throttle.store_outage import (
    ATTEMPTS_BURST,
    FAILURES,
    FIRST_RETRY_S,
    MAX_RECEIVERS,
    REMEMBERED_S,
    RETRIES_PER_S,
    TRY_S,
    Receiver,
    StoreOutage,
)
from gregor_delivery.worker import BATCH_SIZE, RECLAIM_MARGIN_S, Worker
from tests.support.builders import NOW_US
from tests.support.wait import wait_until
from tests.unit.delivery.harness import DeliveryHarness, reach_first_reclaim
from tests.unit.delivery.sample_categories import TOKEN

AWAY = Unavailable("the store is away")
PHONE, TABLET = ("alice", "phone"), ("alice", "tablet")


def phone(n: int) -> Receiver:
    """Return the phone of a user."""
    return f"u{n}", "phone"


def take_away(
    harness: DeliveryHarness, monkeypatch: pytest.MonkeyPatch, is_away: Callable[[Intent], bool]
) -> list[Intent]:
    """Let the store fail for the intents for which ``is_away`` is true. Return the list of the attempts that fail."""
    claim, attempts = harness.store.ledger.claim, list[Intent]()

    async def fail(intent: Intent, *arguments: Any, **named: Any) -> Any:
        if not is_away(intent):
            return await claim(intent, *arguments, **named)
        attempts.append(intent)
        raise AWAY

    monkeypatch.setattr(harness.store.ledger, "claim", fail)
    return attempts


@asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[None]:
    """Run the worker."""
    task = asyncio.create_task(worker.run())
    yield
    worker.stop()
    await task


async def test_outage_leaves_most_in_the_stream(harness: DeliveryHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, users = MemoryQueueReader(harness.clock.monotonic), [f"u{n}" for n in range(8 * FAILURES)]
    intents, outage = [await harness.create_for(uid) for uid in users], True
    attempts = take_away(harness, monkeypatch, lambda _: outage)

    async with running(Worker(harness.context, queue, FAILURES // 2)):
        with capture_logs() as logs:
            await queue.enqueue(intents)
            for tries in (1, 2, 3):
                least = FAILURES + tries * ATTEMPTS_BURST
                await wait_until(lambda: len(attempts) >= least, "the attempts of a moment")  # noqa: B023
                assert len(attempts) <= least + FAILURES // 2
                harness.clock.advance(ATTEMPTS_BURST / RETRIES_PER_S)
        assert 0 < sum(line["event"] == "delivery.store_unavailable" for line in logs) <= FAILURE_LINES_BURST

        outage = False
        harness.clock.advance(5)
        await wait_until(lambda: len(harness.provider.pushes) == len(users), "all pushes are sent")
    assert Counter(push.uid for push in harness.provider.pushes) == Counter(users)


async def test_backlog_of_a_user_of_a_dead_shard_delays_no_other_user(
    harness: DeliveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, outage = MemoryQueueReader(harness.clock.monotonic), True
    attempts = take_away(harness, monkeypatch, lambda intent: outage and intent.uid == "alice")
    names = [f"a{n}" for n in range(10 * FAILURES)]
    backlog, others = (
        [await harness.create(name) for name in names],
        [await harness.create_for(f"u{n}") for n in range(9)],
    )

    async with running(Worker(harness.context, queue, FAILURES)):
        await queue.enqueue([*backlog, *others])
        await wait_until(lambda: len(harness.provider.pushes) == len(others), "no other user waits")
        assert len(attempts) <= FAILURES and len(queue.waiting()) == len(backlog)

        tried = len(attempts)
        for turn in (1, 2, 3):
            harness.clock.advance(2 * FIRST_RETRY_S + TRY_S)
            await wait_until(lambda: len(attempts) == tried + turn, "one attempt in each turn")  # noqa: B023
            await wait_until(lambda: len(queue.waiting()) == len(backlog), "all wait again")
        outage = False

        async def are_sent() -> bool:
            harness.clock.advance(1)
            return len(harness.provider.pushes) == len(others) + len(backlog)

        await wait_until(are_sent, "the backlog is sent after the outage")


async def test_failing_device_delays_no_other_device_of_its_user(
    harness: DeliveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner of a push token may be on another shard than its user."""
    queue, store = MemoryQueueReader(harness.clock.monotonic), harness.store
    tablet = Registration("ios", {**TOKEN, "token": "of the tablet"}, "it")
    await store.devices.put_device("alice", "tablet", tablet, NOW_US)
    to_phone = [await harness.create(f"a{n}") for n in range(FAILURES)]
    to_tablet = [replace(intent, device="tablet") for intent in to_phone]
    await store.ledger.plan(to_tablet, DeliveryState.PLANNED, None, NOW_US)
    take_away(harness, monkeypatch, lambda intent: intent.device == "phone")

    async with running(Worker(harness.context, queue)):
        await queue.enqueue(to_phone)
        await wait_until(lambda: len(queue.waiting()) == len(to_phone), "the pushes to the phone wait")
        for sent, intent in enumerate(to_tablet, 1):
            await queue.enqueue([intent])
            await wait_until(lambda: len(harness.provider.pushes) == sent, "the tablet gets each at once")  # noqa: B023


async def test_intents_of_a_dead_worker_are_reclaimed_at_once(harness: DeliveryHarness) -> None:
    """At one batch in ten seconds, those of an outage of ten seconds would take minutes."""
    queue, names = MemoryQueueReader(harness.clock.monotonic), [f"a{n}" for n in range(2 * BATCH_SIZE + 10)]
    await queue.enqueue([await harness.create(name) for name in names])
    await harness.dismiss(*names[:100])
    await harness.dismiss(*names[100:200])
    await queue.claim(len(names), 0.0)
    harness.clock.advance(harness.context.claim_lease_s + RECLAIM_MARGIN_S)

    worker = Worker(harness.context, queue)
    running = asyncio.create_task(worker.run())
    await reach_first_reclaim(worker, harness.clock)

    async def is_empty() -> bool:
        return (await queue.sizes(harness.clock.now_us())).claimed == 0

    await wait_until(is_empty, "all are attempted without a further interval")
    worker.stop()
    await running


def test_failing_receivers_are_spread() -> None:
    outage = StoreOutage()

    waits_s = [outage.fail(AWAY, phone(n), 0.0) for n in range(4 * RETRIES_PER_S)]

    assert min(waits_s) >= FIRST_RETRY_S and max(waits_s) <= 4.0 + 2 * FIRST_RETRY_S
    for second in range(7):
        assert sum(second <= each < second + 1 for each in waits_s) <= 2 * RETRIES_PER_S


def test_deliveries_of_a_failing_receiver_share_its_turns() -> None:
    outage = StoreOutage()
    waits_s = [outage.fail(AWAY, PHONE, 0.0) for _ in range(1_000)]
    others_s = outage.fail(AWAY, phone(1), 0.0)

    assert max(waits_s) <= 2 * FIRST_RETRY_S + 1 / RETRIES_PER_S and others_s <= 2 * FIRST_RETRY_S + 2 / RETRIES_PER_S
    assert outage.wait_s(PHONE, 0.0) > 0.0 and outage.wait_s(TABLET, 0.0) == 0.0

    assert outage.wait_s(PHONE, 2.0) == 0.0
    outage.start(PHONE, 2.0)
    assert TRY_S <= outage.wait_s(PHONE, 2.0) <= TRY_S + FIRST_RETRY_S
    assert outage.fail(AWAY, PHONE, 2.0) >= FIRST_RETRY_S
    outage.start(PHONE, 6.0)
    outage.end(PHONE, 6.0)
    assert outage.wait_s(PHONE, 6.0) == 0.0


def after_outage(outage: StoreOutage, receivers: int, still_away: set[Receiver]) -> int:
    """Give a turn to each receiver, and process five seconds. Return the attempts that fail in this time.

    Each receiver has a delivery that was put back. There are 200 new deliveries a second.
    """
    row = [(outage.fail(AWAY, phone(n), 0.0), phone(n)) for n in range(receivers)]
    row += [(FIRST_RETRY_S + n / 200, phone(7 * n % receivers)) for n in range(1_000)]
    heapq.heapify(row)
    failed = 0
    while row[0][0] <= FIRST_RETRY_S + 5.0:
        now_s, receiver = heapq.heappop(row)
        wait_s = outage.wait_s(receiver, now_s)
        if wait_s == 0.0:
            outage.start(receiver, now_s)
            if receiver not in still_away:
                outage.end(receiver, now_s)
                continue
            failed, wait_s = failed + 1, outage.fail(AWAY, receiver, now_s)
        heapq.heappush(row, (now_s + wait_s, receiver))
    return failed


def test_turns_are_soon_over_after_an_outage() -> None:
    outage, receivers = StoreOutage(), 60 * RETRIES_PER_S

    after_outage(outage, receivers, set())

    assert max(outage.wait_s(phone(n), FIRST_RETRY_S + 5.0) for n in range(receivers)) == 0.0


def test_other_failing_shard_keeps_the_turns_slow() -> None:
    outage, receivers = StoreOutage(), 60 * RETRIES_PER_S

    failed = after_outage(outage, receivers, {phone(n) for n in range(0, receivers, 2)})

    assert failed <= 5 * RETRIES_PER_S


def test_failing_receiver_is_forgotten_after_its_turn() -> None:
    """Another process has sent the delivery, so this one never learns that the store is back."""
    outage = StoreOutage()
    outage.fail(AWAY, PHONE, 0.0)

    outage.start(PHONE, 2 * REMEMBERED_S)

    assert outage.wait_s(PHONE, 2 * REMEMBERED_S) == 0.0


def test_remembered_receivers_are_bounded() -> None:
    outage = StoreOutage()
    for n in range(MAX_RECEIVERS + 1):
        outage.fail(AWAY, phone(n), 0.0)

    assert outage.wait_s(phone(0), 0.0) == 0.0 and outage.wait_s(phone(1), 0.0) > 0.0


def test_attempts_are_limited_until_one_succeeds() -> None:
    outage = StoreOutage()
    for n in range(FAILURES):
        assert outage.capacity(99, 0.0) == 99
        outage.start(phone(n), 0.0)
        outage.fail(AWAY, phone(n), 0.0)

    for n in range(ATTEMPTS_BURST):
        assert outage.capacity(99, 0.0) == ATTEMPTS_BURST - n
        outage.start(PHONE, 0.0)
    assert [outage.capacity(99, each) for each in (0.0, 2.5 / RETRIES_PER_S)] == [0, 2]
    outage.end(PHONE, 0.0)
    assert outage.capacity(99, 0.0) == 99


def test_errors_that_concern_one_value_are_no_outage() -> None:
    outage = StoreOutage()

    for _ in range(FAILURES):
        assert outage.fail(Contended("a value"), PHONE, 0.0) >= FIRST_RETRY_S

    assert outage.capacity(99, 0.0) == 99 and outage.wait_s(PHONE, 0.0) == 0.0
