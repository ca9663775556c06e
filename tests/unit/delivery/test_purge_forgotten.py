"""The purge of deleted users from a delivery queue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from gregor.core.notify.intents import Intent
from gregor.core.notify.ledger import DeliveryState
from gregor.core.notify.webhook_events import Webhook, WebhookEvent, WebhookEventType, webhook_intents
from gregor.reference.store import MemoryQueueReader
from gregor.store.contract.store import Unavailable
from gregor_delivery.attempt import BUSY_RETRY_S, attempt
from gregor_delivery.channels.verdict import Retry
from gregor_delivery.purge_forgotten import LATE_US, ForgottenUserPurger
from gregor_delivery.worker import Worker
from tests.support.builders import HOUR_US, NOW_US, SECOND_US
from tests.support.wait import wait_until
from tests.unit.delivery.harness import DeliveryHarness


async def test_queue_is_purged_of_deleted_users_only(harness: DeliveryHarness) -> None:
    queue = MemoryQueueReader(lambda: 0.0)
    intent = await harness.create("a")
    of_bob = replace(intent, uid="bob")
    await queue.enqueue([intent, of_bob], NOW_US + HOUR_US)
    await queue.enqueue([intent])
    purger = ForgottenUserPurger(harness.store, queue, harness.clock)
    assert await purger.purge() == 0

    await harness.store.users.delete_user("alice", NOW_US)

    assert await purger.purge() == 2
    assert queue.waiting() == {of_bob: NOW_US + HOUR_US}
    assert await queue.claim(9, 0.01) == []


async def test_intent_put_back_after_a_purge_is_purged(harness: DeliveryHarness) -> None:
    """A worker had the intent in flight, and its verdict was a retry."""
    queue = MemoryQueueReader(lambda: 0.0)
    intent = await harness.create("a")
    purger = ForgottenUserPurger(harness.store, queue, harness.clock)
    await harness.store.users.delete_user("alice", NOW_US)
    assert await purger.purge() == 0
    await queue.enqueue([intent], NOW_US + HOUR_US)

    harness.clock.advance(LATE_US / SECOND_US)
    assert await purger.purge() == 1
    harness.clock.advance(1.0)
    assert await purger.purge() == 0
    await queue.enqueue([intent], NOW_US + HOUR_US)
    assert await purger.purge() == 0


async def test_user_deleted_during_an_attempt_leaves_the_queue_soon(harness: DeliveryHarness) -> None:
    harness.provider.verdicts = [Retry(600.0, "429", "TooManyRequests")]
    harness.provider.hold = asyncio.Event()
    intent = await harness.create("a")
    attempting = asyncio.create_task(attempt(harness.context, intent))
    await wait_until(lambda: bool(harness.provider.pushes), "the provider has the push")
    await harness.store.users.delete_user("alice", NOW_US)

    harness.provider.hold.set()

    assert await attempting == harness.clock.now_us() + BUSY_RETRY_S * SECOND_US
    harness.clock.advance(BUSY_RETRY_S)
    assert await attempt(harness.context, intent) is None
    assert len(harness.provider.pushes) == 1


async def test_purge_after_an_outage_covers_all_of_it(harness: DeliveryHarness) -> None:
    class BrokenQueue(MemoryQueueReader):
        is_broken = False

        async def prune(self, is_unwanted: Callable[[Intent], Awaitable[bool]]) -> int:
            if self.is_broken:
                raise Unavailable("the queue is unreachable")
            return await super().prune(is_unwanted)

    queue = BrokenQueue(lambda: 0.0)
    await queue.enqueue([await harness.create("a")], NOW_US + 100 * HOUR_US)
    purger = ForgottenUserPurger(harness.store, queue, harness.clock)
    assert await purger.purge() == 0
    queue.is_broken = True
    await harness.store.users.delete_user("alice", NOW_US)
    for _ in range(10):
        with pytest.raises(Unavailable):
            await purger.purge()
        harness.clock.advance(LATE_US / SECOND_US)
    queue.is_broken = False

    assert await purger.purge() == 1


async def test_first_purge_covers_all_deletions(harness: DeliveryHarness) -> None:
    queue = MemoryQueueReader(lambda: 0.0)
    await queue.enqueue([await harness.create("a")], NOW_US + 100 * HOUR_US)
    await harness.store.users.delete_user("alice", NOW_US)
    harness.clock.advance(47 * 3_600)

    assert await ForgottenUserPurger(harness.store, queue, harness.clock).purge() == 1


async def test_new_user_with_the_same_id_is_kept(harness: DeliveryHarness) -> None:
    queue = MemoryQueueReader(lambda: 0.0)
    old = await harness.create("old")
    await harness.store.users.delete_user("alice", NOW_US)
    new = await harness.create("new")
    await queue.enqueue([old, new], NOW_US + HOUR_US)

    assert await ForgottenUserPurger(harness.store, queue, harness.clock).purge() == 1
    assert list(queue.waiting()) == [new]
    assert (await harness.entry("new")).state is DeliveryState.PLANNED


async def test_purge_keeps_the_event_of_the_new_user(harness: DeliveryHarness) -> None:
    """Before, both events had the same key, and the event of the deleted user was sent with its data."""

    async def dismissal(category: str, at_us: int) -> Intent:
        await harness.create("a", category=category)
        event = WebhookEvent(WebhookEventType.DISMISSED, "alice", "a", category, at_us, 2, at_us)
        [intent] = webhook_intents([event], [Webhook("wh_a", "https://a.example/", ())], at_us)
        await harness.store.ledger.plan([intent], DeliveryState.PLANNED, None, at_us)
        return intent

    queue = MemoryQueueReader(lambda: 0.0)
    old = await dismissal("news.old", NOW_US)
    await harness.store.users.delete_user("alice", NOW_US)
    new = await dismissal("news.new", NOW_US + SECOND_US)
    await queue.enqueue([old, new], NOW_US + HOUR_US)

    assert await ForgottenUserPurger(harness.store, queue, harness.clock).purge() == 1
    assert list(queue.waiting()) == [new]


async def test_worker_purges_its_queue(harness: DeliveryHarness) -> None:
    harness.provider.verdicts = [Retry(600.0, "429", "TooManyRequests")]
    queue = MemoryQueueReader(harness.clock.monotonic)
    intent = await harness.create("a")
    again_us = await attempt(harness.context, intent)
    await queue.enqueue([intent], again_us or 0)
    await harness.store.users.delete_user("alice", NOW_US)

    worker = Worker(harness.context, queue)
    running = asyncio.create_task(worker.run())
    await wait_until(lambda: queue.waiting() == {}, "it is swept")
    worker.stop()
    await running
