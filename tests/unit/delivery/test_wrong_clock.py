"""A worker whose clock and that of Redis differ takes nothing."""

from __future__ import annotations

import asyncio

from gregor.clock_guard import ClockGuard
from gregor.core.notify.ledger import DeliveryState
from gregor.reference.store import MemoryQueueReader
from gregor.store.connections import ServerTime
from gregor_delivery.channels.verdict import Retry
from gregor_delivery.worker import RECLAIM_MARGIN_S, Worker
from tests.support.builders import NOW_US, SECOND_US
from tests.support.wait import wait_until
from tests.unit.delivery.harness import DeliveryHarness, reach_first_reclaim

DAY_S = 86_400


async def test_worker_with_a_wrong_clock_takes_nothing(harness: DeliveryHarness) -> None:
    """A day ahead, it dated the mail budgets of users ahead, and gave up deliveries that should be retried."""
    queue, refusals = MemoryQueueReader(harness.clock.monotonic), 0
    guard = ClockGuard(lambda: ServerTime(NOW_US, 0.0, 0.001), harness.clock)

    def may_claim() -> bool:
        nonlocal refusals
        refusals += not guard.may_claim()
        return guard.may_claim()

    harness.provider.verdicts = [Retry(1.0, "503", "Shutdown")]
    new, waiting = await harness.create("a"), await harness.create("b")
    await queue.enqueue([new])
    await queue.enqueue([waiting], NOW_US + SECOND_US)
    worker = Worker(harness.context, queue, may_claim=may_claim)
    harness.clock.step(DAY_S)
    running = asyncio.create_task(worker.run())

    await wait_until(lambda: refusals >= 9, "it has decided several times")
    assert (harness.provider.pushes, queue.waiting()) == ([], {waiting: NOW_US + SECOND_US})
    harness.clock.step(-DAY_S)
    await wait_until(lambda: len(queue.waiting()) == 2, "the first attempt waits for its retry")
    harness.clock.advance(60)
    await wait_until(lambda: len(harness.provider.pushes) == 3, "both are sent")
    worker.stop()
    await running
    assert {await harness.outcome(each) for each in "ab"} == {(DeliveryState.SENT, None)}


async def test_intents_that_were_taken_when_the_clock_went_wrong_are_reclaimed(harness: DeliveryHarness) -> None:
    """The wrong clock would date their retry."""
    queue = MemoryQueueReader(harness.clock.monotonic)
    guard = ClockGuard(lambda: ServerTime(NOW_US, 0.0, 0.001), harness.clock)
    worker = Worker(harness.context, queue, may_claim=guard.may_claim)
    running = asyncio.create_task(worker.run())
    await asyncio.sleep(0)  # it reads the queue
    harness.clock.step(DAY_S)
    await queue.enqueue([await harness.create("a")])

    async def is_claimed() -> bool:
        return (await queue.sizes(NOW_US)).claimed == 1

    await wait_until(is_claimed, "the read ends")
    assert (harness.provider.pushes, queue.waiting()) == ([], {})

    harness.clock.step(-DAY_S)
    harness.clock.advance(harness.context.claim_lease_s + RECLAIM_MARGIN_S + 1)
    await reach_first_reclaim(worker, harness.clock)
    await wait_until(lambda: harness.provider.pushes, "it is reclaimed")
    worker.stop()
    await running
