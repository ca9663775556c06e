"""The worker and its client-side rate limit; the limiter itself is tested in tests/unit/core."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gregor.core.rate_limit import RateLimiter
from gregor.reference.store import MemoryQueueReader
from gregor_delivery.worker import Worker
from tests.support.wait import wait_until
from tests.unit.delivery.harness import DeliveryHarness


async def test_worker_respects_the_rate_limit(harness: DeliveryHarness) -> None:
    queue = MemoryQueueReader(harness.clock.monotonic)
    worker = Worker(replace(harness.context, rate_limiter=RateLimiter(0.5)), queue)
    await queue.enqueue([await harness.create(f"i{n}") for n in range(3)])
    running = asyncio.create_task(worker.run())
    await wait_until(lambda: len(harness.provider.pushes) == 1, "the first goes")

    harness.clock.advance(2.0)
    await wait_until(lambda: len(harness.provider.pushes) == 2, "the next goes")
    worker.stop()
    await running
    assert [each.intent.item for each in await queue.claim(10, 0.0)] == ["i2"]
