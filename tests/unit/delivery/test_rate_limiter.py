"""How many may go out a second."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gregor.core.rate_limit import RateLimiter
from gregor.reference.store import MemoryQueueReader
from gregor_delivery.worker import Worker
from tests.support.wait import wait_until
from tests.unit.delivery.harness import DeliveryHarness


@given(rate=st.floats(0.01, 500), waits_s=st.lists(st.floats(0, 1), max_size=30), most=st.integers(1, 60))
def test_never_more_goes_out_than_the_rate_allows(rate: float, waits_s: list[float], most: int) -> None:
    """Over any time: the rate, and what may go at once."""
    rate_limiter, now_s = RateLimiter(rate), 1_000.0
    sent: list[tuple[float, int]] = []
    for wait_s in waits_s:
        now_s += wait_s
        capacity = rate_limiter.capacity(most, now_s)
        assert 0 <= capacity <= most
        for _ in range(capacity):
            rate_limiter.acquire(now_s)
        sent.append((now_s, capacity))
    for first, (since_s, _) in enumerate(sent):
        count = 0
        for at_s, capacity in sent[first:]:
            count += capacity
            assert count <= (at_s - since_s) * rate + max(1, int(rate * 0.1)) + 0.001


@given(rate=st.floats(0.01, 5_000), used=st.integers(0, 1_000))
def test_who_waits_as_long_as_is_said_finds_room(rate: float, used: int) -> None:
    rate_limiter = RateLimiter(rate)
    for _ in range(used):
        rate_limiter.acquire(50.0)

    wait_s = rate_limiter.wait_s(50.0)
    assert rate_limiter.capacity(10, 50.0 + wait_s) >= 1
    assert wait_s == 0 or rate_limiter.capacity(10, 50.0 + wait_s - 0.01 / rate) == 0


def test_without_a_rate_there_is_no_bound() -> None:
    rate_limiter = RateLimiter(None)
    for _ in range(10_000):
        rate_limiter.acquire(0.0)

    assert (rate_limiter.capacity(250, 0.0), rate_limiter.wait_s(0.0)) == (250, 0.0)


async def test_a_worker_takes_no_more_than_its_pace_and_leaves_the_rest_to_others(harness: DeliveryHarness) -> None:
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
