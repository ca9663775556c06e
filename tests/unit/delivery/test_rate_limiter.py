"""The worker and its client-side rate limit; the limiter itself is tested in tests/unit/core."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gregor.core.rate_limit import DEFAULT_BURST_S, RateLimiter
from gregor.reference.store import MemoryQueueReader
from gregor_delivery.attempt import attempt
from gregor_delivery.channels.contract import PushMessage
from gregor_delivery.channels.verdict import Verdict
from gregor_delivery.throttle.rate_turns import AHEAD_S, RateTurn, RateTurns
from gregor_delivery.worker import Worker
from tests.support.wait import wait_until
from tests.unit.delivery.harness import DeliveryHarness, FakeChannel


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


async def test_deliveries_that_send_nothing_do_not_delay_others(harness: DeliveryHarness) -> None:
    """If a user has many deliveries, most of them are skipped, or wait for a budget."""
    queue = MemoryQueueReader(harness.clock.monotonic)
    worker = Worker(replace(harness.context, rate_limiter=RateLimiter(0.5)), queue)
    skipped = [await harness.create(f"i{n}") for n in range(50)]
    await harness.dismiss(*(each.item for each in skipped))
    await queue.enqueue([*skipped, await harness.create_for("bob")])
    running = asyncio.create_task(worker.run())
    await wait_until(lambda: harness.provider.pushes, "the push of the other user is sent at once")
    worker.stop()
    await running

    assert [push.uid for push in harness.provider.pushes] == ["bob"]


async def test_user_leaves_a_part_of_the_rate_to_others(harness: DeliveryHarness) -> None:
    queue = MemoryQueueReader(harness.clock.monotonic)
    worker = Worker(replace(harness.context, rate_limiter=RateLimiter(4.0)), queue)
    await queue.enqueue([await harness.create(f"i{n}") for n in range(20)])
    await queue.enqueue([await harness.create_for("bob")])
    running = asyncio.create_task(worker.run())
    await wait_until(lambda: len(harness.provider.pushes) == 4, "the first second of the rate is used")
    await wait_until(lambda: len(queue.waiting()) == 17, "the other pushes of alice return later")
    worker.stop()
    await running

    assert "bob" in [push.uid for push in harness.provider.pushes]


async def test_message_whose_claim_may_end_during_its_turn_is_put_back(harness: DeliveryHarness) -> None:
    """The process stalls while the message waits."""
    limiter, intent = RateLimiter(5.0), await harness.create("i")
    limiter.acquire(0.0)
    permit = harness.context.breaker.acquire("alice")
    permit.turn = RateTurns(limiter).start("alice")
    attempting = asyncio.create_task(attempt(harness.context, intent, permit))
    await wait_until(lambda: limiter.wait_s(0.0) > 0.3, "the message waits for its turn")
    harness.clock.advance(harness.context.deadline_s + 1.0)

    assert await attempting == harness.clock.now_us()
    assert harness.provider.pushes == []


async def test_sends_of_one_moment_take_turns(harness: DeliveryHarness) -> None:
    """All messages are decided at once, and sent at the rate of the limit."""
    queue, sent_at_s, loop = MemoryQueueReader(harness.clock.monotonic), list[float](), asyncio.get_running_loop()

    class NotedChannel(FakeChannel):
        async def send(self, message: PushMessage, deadline_s: float) -> Verdict:
            sent_at_s.append(loop.time())
            return await super().send(message, deadline_s)

    context = replace(harness.context, channel=NotedChannel(), rate_limiter=RateLimiter(20.0))
    worker = Worker(context, queue)
    await queue.enqueue([await harness.create(f"i{n}") for n in range(6)])
    running = asyncio.create_task(worker.run())
    await wait_until(lambda: len(sent_at_s) == 6, "all are sent")
    worker.stop()
    await running

    # Two messages at once, then one every 50 ms.
    assert sent_at_s[-1] - sent_at_s[0] > 0.19


def test_attempt_that_sends_nothing_takes_no_token() -> None:
    limiter = RateLimiter(1.0)
    turns = RateTurns(limiter)
    first, second = turns.start("alice"), turns.start("bob")
    assert turns.capacity(5, 0.0) == 0
    first.give_back()
    first.give_back()
    assert turns.capacity(5, 0.0) == 1

    assert (second.use(0.0), second.use(0.0)) == (0.0, 0.0)
    second.give_back()
    assert (turns.capacity(5, 0.0), limiter.capacity(5, 0.0), limiter.capacity(5, 1.0)) == (1, 0, 1)


def test_messages_wait_for_their_tokens_in_the_order_of_their_sends() -> None:
    turns = RateTurns(RateLimiter(4.0))
    started = [turns.start("alice") for _ in range(turns.capacity(100, 0.0))]

    started.pop(0).give_back()
    assert [turn.use(0.0) for turn in reversed(started)] == [0.0, 0.25, 0.5, 0.75]
    assert turns.capacity(100, 0.0) == 1


@given(st.floats(2.0, 1_000.0), st.booleans())
def test_one_user_leaves_half_of_the_tokens(rate: float, is_sending: bool) -> None:
    turns = RateTurns(RateLimiter(rate))
    whole, attempts = turns.capacity(10_000, 0.0), 0
    while turns.wait_for_share_s("mallory", 0.0) == 0.0:
        turn, attempts = turns.start("mallory"), attempts + 1
        if is_sending:
            turn.use(0.0)
    burst = max(1, int(rate * DEFAULT_BURST_S)) if is_sending else 0
    assert 1 <= attempts <= whole / 2 + burst
    assert turns.capacity(10_000, 0.0) >= 1 and turns.wait_for_share_s("bob", 0.0) == 0.0


def test_share_of_a_user_is_free_again_after_its_messages() -> None:
    turns = RateTurns(RateLimiter(4.0))
    for _ in range(2):
        turns.start("alice").use(0.0)
    turns.start("alice").give_back()
    held = turns.start("alice")
    assert turns.wait_for_share_s("alice", 0.0) > 0.0
    held.give_back()
    assert turns.wait_for_share_s("alice", 0.25) == 0.0


def test_channel_without_a_limit_has_no_shares() -> None:
    turns = RateTurns(RateLimiter(None))
    for _ in range(250):
        turns.start("mallory")
    assert turns.wait_for_share_s("mallory", 0.0) == 0.0


@given(st.floats(0.1, 50.0), st.lists(st.tuples(st.booleans(), st.floats(0.0, 0.5)), max_size=60))
def test_sends_stay_within_the_rate_and_wait_at_most_a_second(rate: float, steps: list[tuple[bool, float]]) -> None:
    limiter, now_s, sent_at_s = RateLimiter(rate), 0.0, list[float]()
    turns, open_turns = RateTurns(limiter), list[RateTurn]()
    for is_sent, pause_s in steps:
        now_s += pause_s
        open_turns += [turns.start("alice") for _ in range(turns.capacity(20, now_s))]
        if open_turns and not is_sent:
            open_turns.pop().give_back()
        elif open_turns:
            wait_s = open_turns.pop(0).use(now_s)
            assert wait_s <= AHEAD_S + 1e-6
            sent_at_s.append(now_s + wait_s)
    burst = max(1, int(rate * DEFAULT_BURST_S))
    assert all(later - at_s > 1.0 / rate - 1e-6 for at_s, later in zip(sent_at_s, sent_at_s[burst:], strict=False))
