"""The worker while the store cannot be reached: nothing is parked for minutes, and little is tried."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from gregor.core.notify.ledger import DeliveryState
from gregor.reference.store import MemoryQueueReader
from gregor.store.contract.store import Contended, Unavailable
from gregor.telemetry import FAILURE_LINES_BURST
from gregor_delivery.throttle.store_outage import FAILURES, PROBE_S, RETRIES_PER_S, StoreOutage
from gregor_delivery.worker import BATCH_SIZE, RECLAIM_MARGIN_S, Worker
from tests.support.builders import NOW_US, SECOND_US
from tests.support.wait import wait_until
from tests.unit.delivery.harness import DeliveryHarness

AWAY = Unavailable("the store is away")


async def test_outage_puts_back_what_was_taken_and_takes_no_more(
    harness: DeliveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, claim, attempts = MemoryQueueReader(harness.clock.monotonic), harness.store.ledger.claim, list[object]()
    names = [f"a{n}" for n in range(4 * FAILURES)]
    intents = [await harness.create(name) for name in names]

    async def fail(intent: object, *_: Any, **__: Any) -> None:
        attempts.append(intent)
        raise AWAY

    monkeypatch.setattr(harness.store.ledger, "claim", fail)
    worker = Worker(harness.context, queue, FAILURES // 2)
    with capture_logs() as logs:
        running = asyncio.create_task(worker.run())
        await queue.enqueue(intents)
        await wait_until(lambda: len(queue.waiting()) == FAILURES, "what was taken waits in the queue")
        for probes in (1, 2, 3):
            harness.clock.advance(PROBE_S)
            await wait_until(lambda: len(attempts) == FAILURES + probes, "one probe")  # noqa: B023
    assert 0 < sum(line["event"] == "delivery.store_unavailable" for line in logs) <= FAILURE_LINES_BURST

    monkeypatch.setattr(harness.store.ledger, "claim", claim)
    harness.clock.advance(5)
    await wait_until(lambda: len(harness.provider.pushes) == len(names), "all pushes are sent")
    worker.stop()
    await running
    assert {(await harness.outcome(name))[0] for name in names} == {DeliveryState.SENT}


async def test_intents_of_a_dead_worker_are_reclaimed_at_once(harness: DeliveryHarness) -> None:
    """At one batch in ten seconds, those of an outage of ten seconds would take minutes."""
    queue, names = MemoryQueueReader(harness.clock.monotonic), [f"a{n}" for n in range(2 * BATCH_SIZE + 10)]
    await queue.enqueue([await harness.create(name) for name in names])
    await harness.dismiss(*names[:100])
    await harness.dismiss(*names[100:200])
    await queue.claim(len(names), 0.0)
    harness.clock.advance(harness.context.lease_s + RECLAIM_MARGIN_S)

    worker = Worker(harness.context, queue)
    running = asyncio.create_task(worker.run())

    async def is_empty() -> bool:
        return (await queue.sizes(harness.clock.now_us())).claimed == 0

    await wait_until(is_empty, "all are attempted without a further interval")
    worker.stop()
    await running


def test_put_back_intents_are_spread() -> None:
    outage = StoreOutage()

    times_us = [outage.fail(AWAY, NOW_US, 0.0) for _ in range(4 * RETRIES_PER_S)]

    assert min(times_us) >= NOW_US + SECOND_US and max(times_us) <= NOW_US + 7 * SECOND_US
    for second in range(7):
        start_us = NOW_US + second * SECOND_US
        assert sum(start_us <= each < start_us + SECOND_US for each in times_us) <= 2 * RETRIES_PER_S


def test_worker_probes_until_an_attempt_succeeds() -> None:
    outage = StoreOutage()
    for _ in range(FAILURES):
        assert outage.capacity(9, 0.0) == 9
        outage.start(0.0)
        outage.fail(AWAY, NOW_US, 0.0)

    assert [outage.capacity(9, each) for each in (0.0, PROBE_S)] == [0, 1]
    outage.start(PROBE_S)
    assert [outage.capacity(9, each) for each in (PROBE_S, 2 * PROBE_S)] == [0, 1]
    outage.end()
    assert outage.capacity(9, PROBE_S) == 9


def test_errors_that_concern_one_value_are_no_outage() -> None:
    outage = StoreOutage()

    for _ in range(FAILURES):
        outage.fail(Contended("a value"), NOW_US, 0.0)

    assert outage.capacity(9, 0.0) == 9
